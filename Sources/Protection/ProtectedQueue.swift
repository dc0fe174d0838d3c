// SPDX-License-Identifier: MIT

public import BlockIO
public import GuestMemory

/// A queue of a ``ProtectedDisk``.
///
/// ```
/// write    submit: tuples of the memory as it is now --> base --> done: the tuples go to the tag file
/// read     submit --> base --> done: each interval against its tuple; a mismatch is read once more, then EILSEQ
/// ```
///
/// The second reading is for a write of the same sectors that ended between the data and the tuple: the order of two
/// overlapping requests is nobody's promise, and only a lasting mismatch is one.
public struct ProtectedQueue<Base: BlockQueue & ~Copyable>: BlockQueue, ~Copyable {
  @usableFromInline var base: Base
  @usableFromInline let scanner: ProtectionScanner
  @usableFromInline let tuples: SharedRegion
  @usableFromInline let findings: ProtectionFindings
  @usableFromInline var requests: ProtectedRequests
  private let tags: TagFile

  init(_ base: consuming Base, tags: TagFile, findings: ProtectionFindings) throws(SystemError) {
    scanner = ProtectionScanner(form: tags.form)
    tuples = tags.region
    requests = try ProtectedRequests(
      capacity: base.capacity, tupleByteCount: scanner.tupleByteCount(for: ProtectedRequests.mostBytes))
    self.base = base
    self.tags = tags
    self.findings = findings
  }

  /// The base's.
  @inlinable public var capacity: Int { base.capacity }
  /// The base's.
  @inlinable public var inFlight: Int { requests.used }
  /// The base's.
  @inlinable public var waitDescriptor: CInt { base.waitDescriptor }
  /// The base's.
  @inlinable public func buffer(_ index: Int) -> MemoryExtent { base.buffer(index) }

  /// Makes the tuples of a write, and hands the request on.
  @inlinable
  public mutating func submit(_ request: IORequest) -> SubmitOutcome {
    guard let place = requests.take(request) else { return .full }
    if request.operation == .write, let memory = request.memory {
      guard memory.byteCount <= ProtectedRequests.mostBytes else {
        requests.finishAtOnce(place, errorCode: 22)
        return .accepted
      }
      var staged = TupleCursor(requests.staged(place))
      scanner.generate(memory, sector: request.sectors.start, into: &staged)
    }
    var inner = request
    inner.tag = UInt64(place)
    if case .full = base.submit(inner) {
      requests.giveBack(place)
      return .full
    }
    return .accepted
  }

  /// Lets the base work.
  @inlinable public mutating func advance() { base.advance() }

  /// Takes a finished request: what the base did, and whether the tuples agree.
  @inlinable
  public mutating func nextCompletion() -> IOCompletion? {
    if let early = requests.takeFinished() { return early }
    while let done = base.nextCompletion() {
      let place = Int(truncatingIfNeeded: done.tag)
      let request = requests[place]
      var errorCode = done.errorCode
      if errorCode == 0, request.operation == .read {
        guard let verdict = check(place, request) else { continue }
        errorCode = verdict
      } else if errorCode == 0 {
        errorCode = settle(place, request)
      }
      requests.giveBack(place)
      return IOCompletion(tag: request.tag, errorCode: errorCode)
    }
    return nil
  }

  /// The base's, unless something is finished.
  @inlinable
  public mutating func prepareToWait() -> WaitReadiness {
    requests.hasFinished ? .workPending : base.prepareToWait()
  }

  /// The tuples of a request in the tag file.
  @inlinable
  func stored(_ sectors: SectorRange) -> SharedRegion? {
    let first = Int(truncatingIfNeeded: sectors.start >> UInt64(scanner.form.sectorsShift))
    let count = Int(truncatingIfNeeded: sectors.count >> UInt64(scanner.form.sectorsShift))
    let start = first &* ProtectionTuple.byteCount
    // A disk that has grown since the tag file was opened is not protected there.
    guard start &+ count &* ProtectionTuple.byteCount <= tuples.byteCount else { return nil }
    return tuples.slice(at: start, byteCount: count &* ProtectionTuple.byteCount)
  }

  /// Checks what was read: 0, an `errno`, or nil when it is being read again.
  @inlinable
  mutating func check(_ place: Int, _ request: IORequest) -> CInt? {
    guard let memory = request.memory, let stored = stored(request.sectors) else { return 0 }
    var cursor = TupleCursor(stored, isInverted: true)
    guard let violation = scanner.verify(memory, sector: request.sectors.start, against: &cursor) else { return 0 }
    return retry(place, request, violation)
  }

  @usableFromInline
  mutating func retry(_ place: Int, _ request: IORequest, _ violation: ProtectionViolation) -> CInt? {
    if requests.mayRetry(place) {
      var again = request
      again.tag = UInt64(place)
      if case .accepted = base.submit(again) {
        base.advance()
        return nil
      }
    }
    findings.note(violation)
    return ProtectionViolation.errorCode
  }

  /// Stores, or forgets, the tuples of what has been done: 0 or an `errno`.
  @inlinable
  mutating func settle(_ place: Int, _ request: IORequest) -> CInt {
    if request.operation == .write {
      guard let stored = stored(request.sectors) else { return 0 }
      var staged = TupleCursor(requests.staged(place))
      var target = TupleCursor(stored, isInverted: true)
      for _ in 0..<(stored.byteCount / ProtectionTuple.byteCount) { target.store(staged.load()) }
      if request.forceUnitAccess { return flushTags() }
      return 0
    }
    return settleRare(request)
  }

  @usableFromInline
  mutating func settleRare(_ request: IORequest) -> CInt {
    if request.operation == .flush { return flushTags() }
    // What the sectors hold from now on is the base's affair: nobody vouches for them until they are written again.
    guard let stored = stored(request.sectors) else { return 0 }
    return tags.forget(at: Int(bitPattern: stored.address &- tuples.address), byteCount: stored.byteCount)
  }

  @usableFromInline
  func flushTags() -> CInt { tags.flush() }
}
