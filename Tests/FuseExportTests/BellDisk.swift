// SPDX-License-Identifier: MIT

import BlockIO
import CLinux
import FuseExport
import Glibc
import GuestMemory
import PVTestSupport
import Synchronization

/// A disk of one queue that finishes everything at once and yet has something to say between requests.
final class BellDisk: BlockDevice {
  private let disk: MemoryDisk
  /// Readable when the queue is to be advanced.
  let bell = eventfd(0, CInt(EFD_CLOEXEC | EFD_NONBLOCK))
  /// Bells that the queue has heard.
  let heard = Atomic(0)

  init() throws {
    var behaviour = MemoryDisk.Behaviour()
    behaviour.queueCount = 1
    disk = try MemoryDisk(geometry: BlockGeometry(sectorCount: 8192), behaviour: behaviour)
  }

  deinit { close(bell) }

  var geometry: BlockGeometry { disk.geometry }
  var queueCount: Int { 1 }

  func makeQueue(_ index: Int, buffers: BufferDemand) throws(BlockError) -> Queue {
    Queue(disk: self, queue: try disk.makeQueue(index, buffers: buffers))
  }

  /// Rings, and waits until the queue has heard it; false when it did not within ten seconds.
  func ring() -> Bool {
    let before = heard.load(ordering: .acquiring)
    eventfd_write(bell, 1)
    for _ in 0..<10_000 {
      if heard.load(ordering: .acquiring) > before { return true }
      usleep(1000)
    }
    return false
  }

  struct Queue: BlockQueue, ~Copyable {
    let disk: BellDisk
    var queue: MemoryDiskQueue

    init(disk: BellDisk, queue: consuming MemoryDiskQueue) {
      self.disk = disk
      self.queue = queue
    }

    var capacity: Int { queue.capacity }
    var inFlight: Int { queue.inFlight }
    var waitDescriptor: CInt { disk.bell }
    func buffer(_ index: Int) -> MemoryExtent { queue.buffer(index) }
    mutating func submit(_ request: IORequest) -> SubmitOutcome { queue.submit(request) }
    mutating func nextCompletion() -> IOCompletion? { queue.nextCompletion() }
    mutating func prepareToWait() -> WaitReadiness { queue.prepareToWait() }

    mutating func advance() {
      var count: eventfd_t = 0
      if unsafe eventfd_read(disk.bell, &count) == 0 { disk.heard.add(Int(count), ordering: .acquiringAndReleasing) }
      queue.advance()
    }
  }
}
