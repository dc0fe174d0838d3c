// SPDX-License-Identifier: MIT

import BlockBack
import BlockIO
import DiskImages
import PVMachine
import Testing

@Suite("Many disks on one machine")
struct ManyDisksTests {
  @Test("64 disks of 4 queues each live on one machine, and leave nothing behind")
  func sixtyFour() throws {
    let machine = try Machine()
    let before = machine.ledger
    var disks: [AttachedDisk<NullImage>] = []
    for index in 0..<64 {
      var configuration = DiskConfiguration()
      configuration.device = "\(1 << 28 | index << 8)"
      configuration.queues = 4
      disks.append(try machine.attach(NullImage(sectorCount: 4096, queueCount: 4), as: configuration))
    }
    for disk in disks {
      #expect(disk.queueCount == 4)
      for index in [0, 3] {
        var queue = try disk.blockingQueue(index, bufferByteCount: 8192)
        try queue.write(Array(repeating: 1, count: 8192), at: 4096)
        #expect(try queue.read(4096, at: 0).count == 4096)
      }
      #expect(disk.counters[3].back[QueueCounter.responses.rawValue] == 2)
    }
    let refusal = #expect(throws: MachineError.self) {
      try machine.attach(NullImage(sectorCount: 8), as: DiskConfiguration())
    }
    #expect(refusal?.sentence.contains("256 queues") == true)
    for disk in disks { #expect(disk.detach() == 0) }
    #expect(machine.ledger == before)
  }
}
