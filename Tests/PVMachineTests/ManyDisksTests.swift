// SPDX-License-Identifier: MIT

import BlockBack
import BlockIO
import DiskImages
import PVMachine
import Testing
import XenBus
import XenHypervisor

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

  @Test(
    "64 disks with the buffers of 64 default mounts have room, whatever the layout of the grants", arguments: [1, 2])
  func room(grantVersion: Int) throws {
    var machineConfiguration = MachineConfiguration()
    machineConfiguration.grantVersion = grantVersion
    let machine = try Machine(machineConfiguration)
    let before = machine.ledger
    // What a mount asks for, for each queue: 64 requests of 1 MiB with both ends rounded out, and one for itself.
    let demand = BufferDemand(count: 65, byteCount: 1 << 20 + 8192)
    let table = machine.guest.grantTable
    let disk = try machine.attach(NullImage(sectorCount: 4096))
    let (pages, references) = (machine.guest.memory.allocatedPageCount, table.allocatedReferenceCount)
    do {
      let queue = try disk.makeQueue(0, buffers: demand)
      let taken = (
        pages: machine.guest.memory.allocatedPageCount - pages, references: table.allocatedReferenceCount - references
      )
      #expect(taken.references > 65 * 256 && 64 * 4 * (taken.references + 32) < table.referenceLimit)
      #expect(64 * 4 * (taken.pages + 32) < machine.guest.memory.pageCount)
      _ = consume queue
    }
    #expect(disk.detach() == 0)
    #expect(machine.ledger == before)
  }

  @Test("64 disks get 64 names and numbers, past xvdz, and a number is one disk's alone, whatever it is called")
  func names() throws {
    let machine = try Machine()
    var disks: [AttachedDisk<NullImage>] = []
    for _ in 0..<64 {
      var configuration = DiskConfiguration()
      configuration.device = machine.freeDevice().name
      disks.append(try machine.attach(NullImage(sectorCount: 64), as: configuration))
    }
    let devices = disks.map(\.definition.device)
    #expect(Set(devices.map(\.number)).count == 64 && Set(devices.map(\.name)).count == 64)
    let names = [0, 15, 16, 25, 26, 51, 52, 63].map { devices[$0].name }
    #expect(names == ["xvda", "xvdp", "xvdq", "xvdz", "xvdaa", "xvdaz", "xvdba", "xvdbl"])
    let numbers = [0, 15, 16, 26].map { devices[$0].number }
    #expect(numbers == [51712, 51952, 268_439_552, 268_442_112])
    for name in ["xvda", "51712", "d0p0", "0xca00", "xvdaa"] {
      var configuration = DiskConfiguration()
      configuration.device = name
      let refusal = #expect(throws: MachineError.self) {
        try machine.attach(NullImage(sectorCount: 64), as: configuration)
      }
      #expect(refusal?.sentence.contains("already") == true, "\(name)")
    }
    // Those that were there are whole, and a name that is given back is the next one's.
    var queue = try disks[0].blockingQueue(0, bufferByteCount: 4096)
    #expect(try queue.read(512, at: 0).count == 512)
    #expect(disks[26].detach() == 0)
    #expect(machine.freeDevice().name == "xvdaa")
    #expect(machine.freeDevice(besides: [devices[26].number]).name == "xvdbm")
    for disk in disks where disk.phase == .connected && disk !== disks[0] { #expect(disk.detach() == 0) }
  }
}
