// SPDX-License-Identifier: MIT

public import BlockIO

/// One I/O of the queue's user, from `submit` to its completion; it may become several ring requests.
@usableFromInline
struct PendingIO {
  @usableFromInline var request: IORequest
  /// Sectors that ring requests cover so far.
  @usableFromInline var issued: UInt64
  /// The extent, and the byte in it, that the next ring request starts at.
  @usableFromInline var extent: Int
  @usableFromInline var extentOffset: Int
  /// Ring requests that wait for their response.
  @usableFromInline var outstanding: Int32
  @usableFromInline var errorCode: CInt
  @usableFromInline var nextFree: Int32
  /// Whether a flush has to follow the data.
  @usableFromInline var owesFlush: Bool
  /// Whether nothing is left to issue.
  @usableFromInline var isIssued: Bool
  /// Between `accept` and `finish`.
  @usableFromInline var isActive: Bool
  /// When its first request was issued, in nanoseconds; 0 before.
  @usableFromInline var startedAt: UInt64
  /// The caller's protection tuples, eight bytes a sector; 0 when there are none.
  @usableFromInline var tuples: UInt
  /// Whether another queue carries it out.
  @usableFromInline var isElsewhere: Bool

  @inlinable
  init(_ request: IORequest, nextFree: Int32 = -1) {
    self.request = request
    issued = 0
    extent = 0
    extentOffset = 0
    outstanding = 0
    errorCode = 0
    self.nextFree = nextFree
    owesFlush = request.operation == .write && request.forceUnitAccess
    isIssued = false
    isActive = true
    isElsewhere = false
    tuples = 0
    startedAt = 0
  }
}

/// The I/Os in hand: a free list, a queue of those that are not wholly issued, and a queue of finished ones.
@safe @usableFromInline
struct IOTable: ~Copyable {
  // SAFETY: every pointer addresses `capacity` initialised elements until deinit; the queues are rings of `capacity`
  // places for at most `capacity` I/Os.
  @usableFromInline let ios: UnsafeMutablePointer<PendingIO>
  @usableFromInline let issueQueue: UnsafeMutablePointer<Int32>
  @usableFromInline let finished: UnsafeMutablePointer<IOCompletion>
  @usableFromInline let capacity: Int
  @usableFromInline var firstFree: Int32 = 0
  @usableFromInline var issueHead = 0
  @usableFromInline var issueCount = 0
  @usableFromInline var finishedHead = 0
  @usableFromInline var finishedCount = 0
  /// I/Os accepted and not finished.
  @usableFromInline var active = 0

  init(capacity: Int) {
    self.capacity = capacity
    unsafe ios = .allocate(capacity: capacity)
    unsafe issueQueue = .allocate(capacity: capacity)
    unsafe finished = .allocate(capacity: capacity)
    let nothing = IORequest(tag: 0, operation: .flush, sectors: SectorRange(start: 0, count: 0))
    for index in 0..<capacity {
      unsafe (ios + index).initialize(
        to: PendingIO(nothing, nextFree: index + 1 < capacity ? Int32(index + 1) : -1))
      unsafe ios[index].isActive = false
    }
    unsafe issueQueue.initialize(repeating: 0, count: capacity)
    unsafe finished.initialize(repeating: IOCompletion(tag: 0), count: capacity)
  }

  @inlinable
  deinit {
    unsafe ios.deallocate()
    unsafe issueQueue.deallocate()
    unsafe finished.deallocate()
  }

  @inlinable
  mutating func accept(_ request: IORequest) -> Int? {
    guard firstFree >= 0, finishedCount &+ active < capacity else { return nil }
    let index = Int(firstFree)
    unsafe firstFree = ios[index].nextFree
    unsafe ios[index] = PendingIO(request)
    active &+= 1
    enqueueForIssue(index)
    return index
  }

  @inlinable
  mutating func enqueueForIssue(_ index: Int) {
    var place = issueHead &+ issueCount
    if place >= capacity { place &-= capacity }
    unsafe issueQueue[place] = Int32(truncatingIfNeeded: index)
    issueCount &+= 1
  }

  @inlinable
  var nextToIssue: Int? { issueCount > 0 ? unsafe Int(issueQueue[issueHead]) : nil }

  @inlinable
  mutating func dropFromIssueQueue() {
    issueHead = issueHead &+ 1 == capacity ? 0 : issueHead &+ 1
    issueCount &-= 1
  }

  @inlinable
  mutating func finish(_ index: Int) {
    var place = finishedHead &+ finishedCount
    if place >= capacity { place &-= capacity }
    unsafe finished[place] = IOCompletion(tag: ios[index].request.tag, errorCode: ios[index].errorCode)
    finishedCount &+= 1
    unsafe ios[index].isActive = false
    unsafe ios[index].nextFree = firstFree
    firstFree = Int32(truncatingIfNeeded: index)
    active &-= 1
  }

  @inlinable
  mutating func takeFinished() -> IOCompletion? {
    guard finishedCount > 0 else { return nil }
    let completion = unsafe finished[finishedHead]
    finishedHead = finishedHead &+ 1 == capacity ? 0 : finishedHead &+ 1
    finishedCount &-= 1
    return completion
  }
}
