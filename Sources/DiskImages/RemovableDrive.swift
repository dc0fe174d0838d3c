// SPDX-License-Identifier: MIT

public import BlockIO
import CLinux
import Glibc
public import GuestMemory
import Synchronization

/// A drive whose medium can be taken out and put in while the drive is in use: a CD-ROM drive.
///
/// An empty drive has no sectors, and every request fails with `ENOMEDIUM`. A queue changes to a new medium when it has
/// finished what it began on the old one; the old image's file is closed when the last queue has let go of it.
///
/// **Assumptions.** All media have the drive's logical sector size; nothing is written.
public final class RemovableDrive: BlockDevice {
  /// A queue that follows the medium.
  public typealias Queue = RemovableDriveQueue

  private let medium: Mutex<RawImage?>
  /// Bytes in a logical sector of every medium.
  public let logicalSectorSize: Int
  /// The queues that may be made.
  public let queueCount: Int
  /// Grows with every change of the medium.
  let changes = Atomic<UInt64>(0)

  /// Makes a drive with a medium in it, which must be open for reading alone.
  public init(_ medium: RawImage) {
    precondition(medium.options.access == .readOnly, "a removable medium is read-only")
    logicalSectorSize = medium.geometry.logicalSectorSize
    queueCount = medium.queueCount
    self.medium = Mutex(medium)
  }

  /// What is in the drive.
  public var current: RawImage? { medium.withLock { $0 } }

  /// The medium's size; no sectors without one.
  public var geometry: BlockGeometry {
    current?.geometry
      ?? BlockGeometry(
        sectorCount: 0, logicalSectorSize: logicalSectorSize, physicalSectorSize: logicalSectorSize, isReadOnly: true,
        hasVolatileCache: false)
  }

  /// Takes the medium out.
  /// - Returns: whether there was one.
  @discardableResult
  public func eject() -> Bool {
    let old = medium.withLock { medium in
      defer { medium = nil }
      return medium
    }
    if old != nil { changes.add(1, ordering: .releasing) }
    return old != nil
  }

  /// Puts a medium in, in the place of what is there.
  /// - Throws: when it does not suit the drive.
  public func insert(_ image: RawImage) throws(BlockError) {
    guard image.options.access == .readOnly, image.queueCount >= queueCount else {
      throw .unsupported("\(image.path) must be opened for reading, with a queue for each of the drive's")
    }
    guard image.geometry.logicalSectorSize == logicalSectorSize else {
      throw .unsupported("\(image.path) has other sectors than the drive's \(logicalSectorSize) bytes")
    }
    medium.withLock { $0 = image }
    changes.add(1, ordering: .releasing)
  }

  /// Makes a queue with its buffers.
  public func makeQueue(_ index: Int, buffers: BufferDemand) throws(BlockError) -> RemovableDriveQueue {
    let pool: BufferPool
    do throws(SystemError) { pool = try BufferPool(buffers) } catch {
      throw .system(call: "\(error.call)", path: "", code: error.code)
    }
    let set = epoll_create1(CInt(EPOLL_CLOEXEC))
    guard set >= 0 else { throw .system(call: "epoll_create1", path: "", code: pv_errno()) }
    var queue = RemovableDriveQueue(drive: self, index: index, buffers: pool, count: buffers.count, waitDescriptor: set)
    try queue.adopt()
    return queue
  }

  /// Where data is on the medium.
  public func nextData(from offset: UInt64) -> UInt64? { current?.nextData(from: offset) }
  /// Where holes are on the medium.
  public func nextHole(from offset: UInt64) -> UInt64 { current?.nextHole(from: offset) ?? 0 }
}

/// A queue of a ``RemovableDrive``: owned by one thread.
public struct RemovableDriveQueue: BlockQueue, ~Copyable {
  private let drive: RemovableDrive
  private let index: Int
  private let buffers: BufferPool
  private var inner: RawImageQueue?
  private var seen: UInt64 = 0
  private var refused: [IOCompletion] = []
  /// The most requests in flight.
  public let capacity: Int
  /// An epoll instance around the descriptor of whatever medium is in.
  public let waitDescriptor: CInt

  init(drive: RemovableDrive, index: Int, buffers: consuming BufferPool, count: Int, waitDescriptor: CInt) {
    self.drive = drive
    self.index = index
    self.buffers = buffers
    self.waitDescriptor = waitDescriptor
    capacity = max(64, count)
    refused.reserveCapacity(capacity)
  }

  deinit { Glibc.close(waitDescriptor) }

  /// Requests not yet handed back.
  public private(set) var inFlight = 0
  /// A buffer's memory.
  public func buffer(_ index: Int) -> MemoryExtent { buffers[index] }

  private var hasChanged: Bool { drive.changes.load(ordering: .acquiring) != seen }

  /// Changes to the medium that is in the drive now.
  mutating func adopt() throws(BlockError) {
    seen = drive.changes.load(ordering: .acquiring)
    if let old = inner.take() { _ = consume old }
    guard let image = drive.current else { return }
    let queue = try image.makeQueue(index, buffers: BufferDemand(count: capacity, byteCount: 0))
    var event = unsafe epoll_event()
    unsafe event.events = EPOLLIN.rawValue
    if queue.waitDescriptor >= 0 { _ = unsafe epoll_ctl(waitDescriptor, EPOLL_CTL_ADD, queue.waitDescriptor, &event) }
    inner = consume queue
  }

  /// Takes a request; one that comes while the medium is changed, or while there is none, fails.
  public mutating func submit(_ request: IORequest) -> SubmitOutcome {
    guard inFlight < capacity else { return .full }
    if hasChanged || inner == nil {
      refused.append(IOCompletion(tag: request.tag, errorCode: ENOMEDIUM))
    } else if case .full = inner?.submit(request) ?? .full {
      return .full
    }
    inFlight += 1
    return .accepted
  }

  /// Moves what is in flight, and follows the medium.
  public mutating func advance() {
    inner?.advance()
    guard hasChanged, inFlight == refused.count else { return }
    // A medium whose queue cannot be made is as good as none.
    do throws(BlockError) { try adopt() } catch { inner = nil }
  }

  /// Hands back a finished request.
  public mutating func nextCompletion() -> IOCompletion? {
    guard let completion = refused.popLast() ?? inner?.nextCompletion() else { return nil }
    inFlight -= 1
    return completion
  }

  /// Arms the medium's wake-up.
  public mutating func prepareToWait() -> WaitReadiness {
    if !refused.isEmpty { return .workPending }
    return inner?.prepareToWait() ?? .maySleep
  }
}
