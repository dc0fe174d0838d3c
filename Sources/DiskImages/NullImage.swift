// SPDX-License-Identifier: MIT

public import BlockIO
public import GuestMemory

/// A disk that completes everything at once and moves no data: what is left when it is measured is everybody else's time.
public final class NullImage: BlockDevice {
  /// Size and abilities.
  public let geometry: BlockGeometry
  /// The number of queues that may be made.
  public let queueCount: Int

  /// Makes a disk of `sectorCount` 512-byte sectors.
  public init(sectorCount: UInt64, logicalSectorSize: Int = 512, queueCount: Int = 1) {
    geometry = BlockGeometry(
      sectorCount: sectorCount, logicalSectorSize: logicalSectorSize, physicalSectorSize: 4096,
      discard: DiscardAbility())
    self.queueCount = queueCount
  }

  /// Makes a queue, and memory for the buffers.
  public func makeQueue(_ index: Int, buffers: BufferDemand) throws(BlockError) -> NullImageQueue {
    precondition(index >= 0 && index < queueCount, "no such queue")
    do throws(SystemError) {
      return NullImageQueue(sectorCount: geometry.sectorCount, buffers: try BufferPool(buffers))
    } catch {
      throw .system(call: error.call.description, path: "the queue's buffers", code: error.code)
    }
  }
}

/// A queue of a ``NullImage``.
public struct NullImageQueue: BlockQueue, ~Copyable {
  /// The most requests that can be in flight at once.
  public let capacity: Int
  /// Requests accepted and not yet taken back.
  public var inFlight: Int { completions.tail &- completions.head }
  /// Everything completes inside `submit`.
  public var waitDescriptor: CInt { -1 }

  @usableFromInline let sectorCount: UInt64
  @usableFromInline var completions: CompletionRing
  private let buffers: BufferPool

  init(sectorCount: UInt64, buffers: consuming BufferPool) {
    capacity = max(64, buffers.count)
    self.sectorCount = sectorCount
    completions = CompletionRing(capacity: capacity)
    self.buffers = buffers
  }

  /// The memory of a buffer.
  public func buffer(_ index: Int) -> MemoryExtent { buffers[index] }

  /// Completes a request.
  @inlinable
  public mutating func submit(_ request: IORequest) -> SubmitOutcome {
    guard completions.tail &- completions.head < capacity else { return .full }
    let isInside = request.operation == .flush || request.sectors.fits(in: sectorCount)
    completions.append(IOCompletion(tag: request.tag, errorCode: isInside ? 0 : RequestCheck.outsideDisk))
    return .accepted
  }

  /// Does nothing.
  @inlinable public mutating func advance() {}
  /// Takes a finished request.
  @inlinable public mutating func nextCompletion() -> IOCompletion? { completions.takeFirst() }
  /// There is work only while completions wait to be taken.
  @inlinable
  public mutating func prepareToWait() -> WaitReadiness { completions.isEmpty ? .maySleep : .workPending }
}
