// SPDX-License-Identifier: MIT

public import BlockIO
public import CLinux
public import GuestMemory

/// Measures a queue from inside the process: no file system, no system call of its own.
public struct StackBenchmark: Sendable {
  /// What is asked of the queue.
  public enum Access: String, Sendable, CaseIterable {
    /// Reads at random places.
    case randomRead
    /// Writes at random places.
    case randomWrite
    /// Reads from front to back.
    case sequentialRead
  }

  /// What came out.
  public struct Result: Equatable, Sendable {
    /// Requests completed.
    public var requests: UInt64
    /// Time taken, in nanoseconds.
    public var nanoseconds: UInt64

    /// Describes an outcome.
    public init(requests: UInt64, nanoseconds: UInt64) {
      self.requests = requests
      self.nanoseconds = nanoseconds
    }

    /// Nanoseconds for each request.
    public var nanosecondsPerRequest: Double { Double(nanoseconds) / Double(max(requests, 1)) }
    /// Requests in a second.
    public var requestsPerSecond: Double { Double(requests) * 1e9 / Double(max(nanoseconds, 1)) }
  }

  /// The kind of request.
  public var access: Access
  /// Bytes in each, a multiple of 512.
  public var blockByteCount: Int
  /// Requests in flight.
  public var depth: Int
  /// How long, in nanoseconds.
  public var duration: UInt64
  /// Whether both ends are armed before each request, as behind a user who asks for one thing after the other and waits.
  public var armsBetween = false

  /// Plans a measurement.
  public init(access: Access, blockByteCount: Int, depth: Int, duration: UInt64) {
    self.access = access
    self.blockByteCount = blockByteCount
    self.depth = depth
    self.duration = duration
  }

  /// The buffers that the queue must be made with.
  public var demand: BufferDemand {
    BufferDemand(count: depth, byteCount: PageGeometry.pages(for: blockByteCount) << PageGeometry.pageShift)
  }

  /// Keeps `depth` requests in flight on a queue until the time is over.
  @inlinable
  public func run<Queue: BlockQueue & ~Copyable>(on queue: inout Queue, sectorCount: UInt64) -> Result {
    var plan = AccessPlan(self, sectorCount: sectorCount)
    let extents = (0..<depth).map { slot in extent(queue.buffer(slot)) }
    // SAFETY: the extents live until the last request has completed.
    return unsafe extents.withUnsafeBufferPointer { extents in
      guard let base = extents.baseAddress else { return Result(requests: 0, nanoseconds: 0) }
      return unsafe loop(&queue, &plan, base)
    }
  }

  @usableFromInline
  func extent(_ buffer: MemoryExtent) -> MemoryExtent {
    MemoryExtent(address: buffer.address, byteCount: blockByteCount)
  }

  @inlinable
  func loop<Queue: BlockQueue & ~Copyable>(
    _ queue: inout Queue, _ plan: inout AccessPlan, _ extents: UnsafePointer<MemoryExtent>
  ) -> Result {
    var done: UInt64 = 0
    let start = pv_monotonic_nanoseconds()
    for slot in 0..<depth {
      let request = unsafe plan.next(UInt64(slot), MemoryExtentList(unsafeStart: extents + slot, count: 1))
      _ = queue.submit(request)
    }
    var elapsed: UInt64 = 0
    repeat {
      queue.advance()
      // At most a round of completions: a disk that finishes a request while it is submitted would never end one.
      var taken = 0
      while taken < depth, let completion = queue.nextCompletion() {
        taken &+= 1
        done &+= 1
        if armsBetween { _ = queue.prepareToWait() }
        let slot = Int(truncatingIfNeeded: completion.tag)
        let list = unsafe MemoryExtentList(unsafeStart: extents + slot, count: 1)
        if elapsed < duration { _ = queue.submit(plan.next(completion.tag, list)) }
      }
      // With one request at a time a user sleeps after each: both ends are armed and notified every time.
      if depth == 1 || taken == 0 { _ = queue.prepareToWait() }
      if done & 63 < UInt64(depth) || taken == 0 { elapsed = pv_monotonic_nanoseconds() &- start }
    } while elapsed < duration || queue.inFlight > 0
    return Result(requests: done, nanoseconds: pv_monotonic_nanoseconds() &- start)
  }
}

/// Where the requests of a benchmark go.
@usableFromInline
struct AccessPlan {
  @usableFromInline let operation: IOOperation
  @usableFromInline let isRandom: Bool
  @usableFromInline let sectors: UInt64
  @usableFromInline let blocks: UInt64
  @usableFromInline var position: UInt64 = 0
  @usableFromInline var chance: UInt64 = 0x9E37_79B9_7F4A_7C15

  @usableFromInline
  init(_ benchmark: StackBenchmark, sectorCount: UInt64) {
    operation = benchmark.access == .randomWrite ? .write : .read
    isRandom = benchmark.access != .sequentialRead
    sectors = UInt64(benchmark.blockByteCount / PageGeometry.sectorSize)
    blocks = max(1, sectorCount / sectors)
  }

  @inlinable
  mutating func next(_ tag: UInt64, _ memory: MemoryExtentList) -> IORequest {
    if isRandom {
      chance ^= chance << 13
      chance ^= chance >> 7
      chance ^= chance << 17
      position = chance % blocks
    } else {
      position = position &+ 1 < blocks ? position &+ 1 : 0
    }
    return IORequest(
      tag: tag, operation: operation, sectors: SectorRange(start: position &* sectors, count: sectors),
      memory: memory)
  }
}
