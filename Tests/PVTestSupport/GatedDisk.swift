// SPDX-License-Identifier: MIT

public import BlockIO
public import GuestMemory
import Synchronization

/// A disk that writes down what it is asked, and finishes requests when the test says so.
public final class GatedDisk: BlockDevice {
  /// One request as it came.
  public struct Entry: Equatable, Sendable, CustomStringConvertible {
    /// What to do.
    public let operation: IOOperation
    /// Where.
    public let sectors: SectorRange
    /// How many pieces of memory it named.
    public let extentCount: Int

    /// The operation, its start and its length.
    public var description: String { "\(operation) \(sectors.start)+\(sectors.count)" }
  }

  struct State: Sendable {
    var log: [Entry] = []
    var isOpen = true
    var released: [Int] = []
    var errors: [IOOperation: CInt] = [:]
  }

  /// The bytes.
  public let disk: MemoryDisk
  let state = Mutex(State())

  /// Puts a gate before a disk; it is open.
  public init(_ disk: MemoryDisk) { self.disk = disk }

  /// Everything that was asked, in order.
  public var log: [Entry] { state.withLock { $0.log } }
  /// Forgets what was asked.
  public func forget() { state.withLock { $0.log = [] } }
  /// Whether requests finish as soon as the queue is advanced.
  public var isOpen: Bool {
    get { state.withLock { $0.isOpen } }
    set { state.withLock { $0.isOpen = newValue } }
  }
  /// Lets one of the waiting requests finish at the next advance, by its place among them.
  public func release(_ place: Int = 0) { state.withLock { $0.released.append(place) } }
  /// Makes an operation fail with an `errno` from now on; 0 takes that back.
  public func fail(_ operation: IOOperation, with errorCode: CInt) {
    state.withLock { $0.errors[operation] = errorCode == 0 ? nil : errorCode }
  }

  /// The size and the abilities.
  public var geometry: BlockGeometry { disk.geometry }
  /// The queues that may be made.
  public var queueCount: Int { disk.queueCount }
  /// Makes a queue without buffers.
  public func makeQueue(_ index: Int, buffers: BufferDemand) throws(BlockError) -> GatedDiskQueue {
    GatedDiskQueue(gate: self, capacity: max(buffers.count, 64))
  }
}

/// The queue of a ``GatedDisk``.
public struct GatedDiskQueue: BlockQueue, ~Copyable {
  private let gate: GatedDisk
  private var pending: [IORequest] = []
  private var finished: [IOCompletion] = []
  /// The most requests in flight.
  public let capacity: Int

  init(gate: GatedDisk, capacity: Int) {
    self.gate = gate
    self.capacity = capacity
  }

  /// Requests not yet handed back.
  public var inFlight: Int { pending.count + finished.count }
  /// Nothing to wait for: the test decides.
  public var waitDescriptor: CInt { -1 }
  /// There are no buffers.
  public func buffer(_ index: Int) -> MemoryExtent { preconditionFailure("a gated disk has no buffers") }

  /// Takes a request and notes it.
  public mutating func submit(_ request: IORequest) -> SubmitOutcome {
    guard inFlight < capacity else { return .full }
    let entry = GatedDisk.Entry(
      operation: request.operation, sectors: request.sectors, extentCount: request.memory?.count ?? 0)
    gate.state.withLock { $0.log.append(entry) }
    pending.append(request)
    return .accepted
  }

  /// Carries out what the gate lets through.
  public mutating func advance() {
    let (isOpen, places) = gate.state.withLock { state in
      defer { state.released = [] }
      return (state.isOpen, state.released)
    }
    if isOpen {
      while !pending.isEmpty { finish(pending.removeFirst()) }
    } else {
      for place in places where place < pending.count { finish(pending.remove(at: place)) }
    }
  }

  private mutating func finish(_ request: IORequest) {
    let planned = gate.state.withLock { $0.errors[request.operation] }
    finished.append(IOCompletion(tag: request.tag, errorCode: planned ?? gate.disk.execute(request)))
  }

  /// Hands back a finished request.
  public mutating func nextCompletion() -> IOCompletion? { finished.isEmpty ? nil : finished.removeFirst() }

  /// There is work when something has finished, or may.
  public mutating func prepareToWait() -> WaitReadiness {
    let mayFinish = gate.state.withLock { $0.isOpen || !$0.released.isEmpty }
    return finished.isEmpty && (pending.isEmpty || !mayFinish) ? .maySleep : .workPending
  }
}
