// SPDX-License-Identifier: MIT

public import GuestMemory

/// A disk: what an image, a wrapper around one, and the PV frontend all are.
///
/// This is the control plane: it may lock, allocate and throw. Requests travel through ``Queue`` values, one for each
/// thread that does I/O.
public protocol BlockDevice: AnyObject, Sendable {
  /// The data plane of one queue.
  associatedtype Queue: BlockQueue & ~Copyable

  /// Size, sector sizes and abilities, as they are now (a disk can grow while it is used).
  var geometry: BlockGeometry { get }

  /// The number of queues that may be made; asking for an index beyond it is a programming error.
  var queueCount: Int { get }

  /// Makes one queue and the buffers that its user wants to name in requests. Each index is made at most once at a time.
  /// - Throws: ``BlockError`` when the resources cannot be had.
  func makeQueue(_ index: Int, buffers: BufferDemand) throws(BlockError) -> Queue

  /// The first byte at or after `offset` that holds data, or nil when there is none: `lseek(2)` `SEEK_DATA`.
  /// A disk that cannot tell answers `offset`.
  func nextData(from offset: UInt64) -> UInt64?

  /// The first byte at or after `offset` that lies in a hole; the end of the disk counts as one: `lseek(2)` `SEEK_HOLE`.
  /// A disk that cannot tell answers its size.
  func nextHole(from offset: UInt64) -> UInt64
}

extension BlockDevice {
  /// A disk that cannot tell is all data.
  public func nextData(from offset: UInt64) -> UInt64? { offset < geometry.byteCount ? offset : nil }
  /// A disk that cannot tell has its only hole at the end.
  public func nextHole(from offset: UInt64) -> UInt64 { geometry.byteCount }
}

/// The buffers that a queue's user asks for: memory that the queue can move without a copy.
public struct BufferDemand: Equatable, Sendable {
  /// The number of buffers; at most one request uses one at a time, so also the useful queue depth.
  public var count: Int
  /// Bytes in each, a whole number of pages; each buffer is contiguous and page-aligned.
  public var byteCount: Int

  /// A queue whose buffers this one's user will name, too, each in one request at a time; a device may spare a copy by that.
  ///
  /// Buffers stay until both queues are gone.
  public var neighbour: Int?

  /// Asks for `count` buffers of `byteCount` bytes.
  public init(count: Int, byteCount: Int, neighbour: Int? = nil) {
    self.neighbour = neighbour
    precondition(count >= 0 && byteCount >= 0 && byteCount % PageGeometry.pageSize == 0, "buffers are whole pages")
    self.count = count
    self.byteCount = byteCount
  }
}

/// The data plane of one queue: owned by one thread, never shared, nothing in it allocates, locks or waits.
///
/// Use: `submit` any number of requests, `advance` once, then take completions until there are none. Before sleeping call
/// `prepareToWait`; it says whether the thread may sleep, and on ``waitDescriptor`` until when.
public protocol BlockQueue: ~Copyable, SendableMetatype {
  /// The most requests that can be in flight at once.
  var capacity: Int { get }
  /// Requests accepted and not yet handed back by `nextCompletion`.
  var inFlight: Int { get }
  /// Becomes readable when `advance` has something to do; -1 when everything completes inside `advance`.
  var waitDescriptor: CInt { get }

  /// The memory of buffer `index`, as demanded in `makeQueue`.
  func buffer(_ index: Int) -> MemoryExtent

  /// Accepts a request, or answers `.full` and leaves it with the caller. Nothing is promised to start before `advance`.
  mutating func submit(_ request: IORequest) -> SubmitOutcome
  /// Starts what was submitted and collects what has finished; does not wait.
  mutating func advance()
  /// Takes one finished request, in no particular order.
  mutating func nextCompletion() -> IOCompletion?
  /// Arms wake-ups. `.workPending` means that `advance` must run again before anybody sleeps.
  mutating func prepareToWait() -> WaitReadiness
}

/// Whether a queue took a request.
public enum SubmitOutcome: Sendable {
  /// It will be completed exactly once.
  case accepted
  /// No room; nothing was kept. Try again after a completion.
  case full
}

/// Whether a queue's owner may sleep.
public enum WaitReadiness: Sendable {
  /// Nothing to do until the wait descriptor is readable.
  case maySleep
  /// Something came in meanwhile: call `advance` again.
  case workPending
}
