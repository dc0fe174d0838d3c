// SPDX-License-Identifier: MIT

public import BlockIO
import CLinux
public import GuestMemory
public import Synchronization

/// A queue of a ``RawImage``: owned by one thread.
///
/// ```
/// submit --> in the page cache? --yes--> moved at once --------------------------> completions --> nextCompletion
///                 | no (or O_DIRECT, flush, discard, zeroes, FUA)                       ^
///                 v                                                                     |
///            slot + entry in the queue's io_uring --advance--> kernel --advance--> result: done, or the next step
/// ```
///
/// Reads first try `preadv2(2)` with `RWF_NOWAIT`. Aligned writes to the page cache are made at once with `pwritev2(2)`:
/// with `RWF_NOWAIT` where the file system knows it (XFS, Btrfs), without where it does not (ext4): such a write seldom
/// waits, and handing it to a kernel thread costs several times the write (docs/decisions/0101-image-writes-inline.md).
/// Such writes that follow one another on the disk are made by one call (``WriteGather``).
///
/// **Assumptions.** Memory named in a request stays in place until the request has been handed back. The queue may be
/// made on one thread and used on another, and from its first use on by that one only; that thread drops it, too.
public struct RawImageQueue: BlockQueue, ~Copyable {
  /// The most requests that can be in flight at once.
  public let capacity: Int
  /// Requests accepted and not yet handed back.
  @inlinable public var inFlight: Int { acceptedCount }
  /// An eventfd; readable when a request in the ring has moved on.
  public var waitDescriptor: CInt { ring.waitDescriptor }

  @usableFromInline let file: ImageFile
  @usableFromInline let ledger: ImageLedger
  @usableFromInline var acceptedCount = 0
  /// Requests that have a slot.
  @usableFromInline var slottedCount = 0
  @usableFromInline var completions: CompletionRing
  /// How reads and writes reach the page cache without the ring.
  @usableFromInline var cachedReads: CachedAccess
  @usableFromInline var cachedWrites: CachedAccess

  /// How often copies from the mapping had to wait.
  @usableFromInline var faultWatch = FaultWatch()
  /// Writes that are not made yet.
  @usableFromInline var gather: WriteGather
  var slots: SlotTable
  var ring: SubmissionRing
  /// The slot of a sync that the kernel has not seen yet: flushes can still join it.
  var preparedSync: Int?
  /// The failed writebacks that this queue's user has been told of.
  var reportedFailures: UInt32
  /// How zeroing starts; later than `.zeroRange` once the file has turned out not to know that.
  var zeroingStep: RequestSlot.Step = .zeroRange
  private let buffers: BufferPool
  private let index: Int
  private let image: RawImage

  init(
    image: RawImage, index: Int, buffers: consuming BufferPool, slots: consuming SlotTable,
    ring: consuming SubmissionRing
  ) {
    self.image = image
    self.index = index
    file = image.file
    ledger = image.ledger
    capacity = slots.count
    completions = CompletionRing(capacity: slots.count)
    cachedReads = image.file.cachedReads
    cachedWrites = image.file.cachedWrites
    reportedFailures = image.reportedFailures(of: index)
    self.buffers = buffers
    gather = WriteGather(capacity: slots.count)
    self.slots = slots
    self.ring = ring
  }

  deinit { image.endQueue(index, reportedFailures: reportedFailures) }

  /// The memory of a buffer.
  public func buffer(_ index: Int) -> MemoryExtent { buffers[index] }

  /// Accepts a request; what the page cache can serve is finished before this returns.
  @inlinable
  public mutating func submit(_ request: IORequest) -> SubmitOutcome {
    guard acceptedCount < capacity else { return .full }
    acceptedCount &+= 1
    let refusal = RequestCheck.errorCode(
      request, sectorCount: ledger.sectorCount.load(ordering: .relaxed), alignmentMask: file.alignmentMask,
      isReadOnly: file.isReadOnly)
    if refusal != 0 {
      complete(request.tag, refusal)
      return .accepted
    }
    if let memory = request.memory, isMadeAtOnce(request), request.sectors.count > 0 {
      if gather.take(request, memory) { return .accepted }
      writeGathered()
      if gather.take(request, memory) { return .accepted }
    } else if !gather.isEmpty {
      writeGathered()
    }
    finish(request, moved: moveCached(request))
    return .accepted
  }

  /// Completes what the page cache has served, or starts it on its way through the ring.
  @inlinable @inline(__always)
  mutating func finish(_ request: IORequest, moved: Int) {
    if moved > 0 && UInt64(moved) == request.sectors.byteCount {
      complete(request.tag, 0)
    } else {
      start(request, moved: moved)
    }
  }

  /// Whether a request is a write that goes to the page cache without the ring.
  @inlinable @inline(__always)
  func isMadeAtOnce(_ request: IORequest) -> Bool {
    // A write of parts of pages may have to read the rest of them.
    let isWholePages =
      (request.sectors.start | request.sectors.count) & UInt64(PageGeometry.sectorsPerPage - 1) == 0
    return request.operation == .write && cachedWrites.isTried && isWholePages && !request.forceUnitAccess
  }

  /// Moves what it can between memory and page cache without waiting: the number of bytes, or a negative `errno`.
  @inlinable @inline(__always)
  mutating func moveCached(_ request: IORequest) -> Int {
    guard let memory = request.memory else { return 0 }
    let sectors = request.sectors
    if request.operation == .read { return readCached(sectors, memory) }
    if isMadeAtOnce(request) {
      let moved = ImageSystemCalls.write(
        file.descriptor, memory, offset: sectors.byteOffset, flags: cachedWrites.flags)
      ledger.noteWrite()
      return moved
    }
    return 0
  }

  /// Reads from the mapping, or what the page cache has.
  @inlinable @inline(__always)
  mutating func readCached(_ sectors: SectorRange, _ memory: MemoryExtentList) -> Int {
    let offset = sectors.byteOffset
    let byteCount = sectors.byteCount
    if file.mapped.offers(offset, byteCount: byteCount) {
      let moved = file.mapped.read(memory, offset: offset)
      faultWatch.noteCopy(of: file.mapped.parts)
      if moved >= 0 { return moved }
    }
    guard cachedReads.isTried else { return 0 }
    let moved = ImageSystemCalls.read(file.descriptor, memory, offset: offset, flags: cachedReads.flags)
    if moved > 0, let parts = file.mapped.parts { parts.noteRead(file.descriptor, offset, byteCount: byteCount) }
    return moved
  }

  @inlinable @inline(__always)
  mutating func complete(_ tag: UInt64, _ errorCode: CInt) {
    completions.append(IOCompletion(tag: tag, errorCode: errorCode))
  }

  /// Hands what is prepared to the kernel and collects results; does not wait.
  @inlinable
  public mutating func advance() {
    if !gather.isEmpty { writeGathered() }
    if slottedCount > 0 { advanceRing() }
  }

  /// Takes one finished request.
  @inlinable
  public mutating func nextCompletion() -> IOCompletion? {
    guard let completion = completions.takeFirst() else { return nil }
    acceptedCount &-= 1
    return completion
  }

  /// Arms the wait descriptor.
  @inlinable
  public mutating func prepareToWait() -> WaitReadiness {
    if !completions.isEmpty || !gather.isEmpty { return .workPending }
    return armWaitDescriptor()
  }
}

/// How requests reach the page cache without the queue's ring.
@usableFromInline
struct CachedAccess: Equatable, Sendable {
  /// Whether it is tried at all.
  @usableFromInline var isTried: Bool
  /// The flags of `preadv2(2)` or `pwritev2(2)`.
  @usableFromInline var flags: CInt

  static let never = CachedAccess(isTried: false, flags: 0)
  static let withoutWaiting = CachedAccess(isTried: true, flags: pv_rwf_nowait)
  static let plain = CachedAccess(isTried: true, flags: 0)
}
