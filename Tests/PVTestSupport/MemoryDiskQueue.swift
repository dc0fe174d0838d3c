// SPDX-License-Identifier: MIT

public import BlockIO
import CLinux
import Glibc
public import GuestMemory

/// One queue of a ``MemoryDisk``.
@safe public struct MemoryDiskQueue: BlockQueue, ~Copyable {
  // SAFETY: `pending` and `finished` have room for `capacity` requests each, and belong to this value.
  private let disk: MemoryDisk
  private let buffers: MappedMemory
  private let bufferByteCount: Int
  private let pending: UnsafeMutablePointer<IORequest>
  private var pendingCount = 0
  private let finished: UnsafeMutablePointer<IOCompletion>
  private var finishedCount = 0
  private let timer: CInt
  private var generator: SeededGenerator
  private let isAsynchronous: Bool
  /// The most requests in flight.
  public let capacity: Int

  init(disk: MemoryDisk, index: Int, buffers demand: BufferDemand) throws(SystemError) {
    let memory = try MappedMemory(anonymousByteCount: max(demand.count * demand.byteCount, 4096))
    let timer =
      disk.behaviour.asynchronySeed == nil ? -1 : timerfd_create(CLOCK_MONOTONIC, CInt(TFD_NONBLOCK | TFD_CLOEXEC))
    buffers = memory
    bufferByteCount = demand.byteCount
    self.disk = disk
    self.timer = timer
    capacity = disk.behaviour.capacity
    unsafe pending = .allocate(capacity: capacity)
    unsafe finished = .allocate(capacity: capacity)
    isAsynchronous = timer >= 0
    generator = SeededGenerator(seed: (disk.behaviour.asynchronySeed ?? 0) &+ UInt64(index))
  }

  deinit {
    unsafe pending.deallocate()
    unsafe finished.deallocate()
    if timer >= 0 { close(timer) }
  }

  /// Requests not yet handed back.
  public var inFlight: Int { pendingCount + finishedCount }
  /// A timer that stands for the device's interrupt.
  public var waitDescriptor: CInt { timer }
  /// A buffer's memory.
  public func buffer(_ index: Int) -> MemoryExtent {
    MemoryExtent(
      address: buffers.region.slice(at: index * bufferByteCount, byteCount: bufferByteCount).address,
      byteCount: bufferByteCount)
  }

  /// Takes a request.
  public mutating func submit(_ request: IORequest) -> SubmitOutcome {
    guard inFlight < capacity else { return .full }
    unsafe (pending + pendingCount).initialize(to: request)
    pendingCount += 1
    return .accepted
  }

  /// Carries out all requests, or some, in any order.
  public mutating func advance() {
    guard isAsynchronous else {
      for index in 0..<pendingCount { unsafe finish(pending[index]) }
      pendingCount = 0
      return
    }
    var expirations: UInt64 = 0
    // SAFETY: eight local bytes.
    unsafe _ = read(timer, &expirations, 8)
    while pendingCount > 0 && generator.next() & 3 != 0 {
      let index = Int(generator.next() % UInt64(pendingCount))
      unsafe finish(pending[index])
      pendingCount -= 1
      unsafe pending[index] = pending[pendingCount]
    }
  }

  private mutating func finish(_ request: IORequest) {
    let completion = IOCompletion(tag: request.tag, errorCode: disk.execute(request))
    unsafe (finished + finishedCount).initialize(to: completion)
    finishedCount += 1
  }

  /// Hands back a finished request.
  public mutating func nextCompletion() -> IOCompletion? {
    guard finishedCount > 0 else { return nil }
    finishedCount -= 1
    return unsafe finished[finishedCount]
  }

  /// Sets the timer when something is under way.
  public mutating func prepareToWait() -> WaitReadiness {
    guard finishedCount == 0 else { return .workPending }
    guard pendingCount > 0 else { return .maySleep }
    guard isAsynchronous, generator.next() & 7 != 0 else { return .workPending }
    var time = itimerspec()
    time.it_value.tv_nsec = 1000 + Int(generator.next() % 100_000)
    // SAFETY: a local structure.
    unsafe timerfd_settime(timer, 0, &time, nil)
    return .maySleep
  }
}
