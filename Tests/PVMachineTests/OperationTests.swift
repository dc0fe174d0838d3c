// SPDX-License-Identifier: MIT

import BlockBack
import BlockFront
import BlockIO
import Glibc
import GuestMemory
import PVMachine
import PVTestSupport
import Testing
import XenBus
import XenHypervisor
import XenStore
import XenWire

@Suite("What a disk behind the whole stack can be asked")
struct OperationTests {
  @Test(
    "16 MiB are one request of 4096 segments in eight descriptor pages, whatever the ABI",
    arguments: BlockProtocol.allCases, [true, false])
  func largestIndirect(blockProtocol: BlockProtocol, isPersistent: Bool) throws {
    let byteCount = 16 << 20
    let image = try MemoryDisk(geometry: BlockGeometry(sectorCount: UInt64(byteCount / 512) + 8))
    var configuration = DiskConfiguration()
    configuration.blockProtocol = blockProtocol
    configuration.indirectSegments = 4096
    configuration.frontPersistent = isPersistent
    let disk = try Machine().attach(image, as: configuration)
    do {
      var driver = QueueDriver(try disk.makeQueue(0, buffers: BufferDemand(count: 1, byteCount: byteCount)))
      let buffer = driver.queue.buffer(0)
      let region = try #require(buffer.region)
      // Each sector says which one it is.
      for sector in 0..<byteCount / 512 { region.store(UInt64(sector) | 0xA5 << 56, at: sector * 512) }
      let memory = ExtentArray([buffer])
      let range = SectorRange(start: 8, count: UInt64(byteCount / 512))
      #expect(driver.run(IORequest(tag: 1, operation: .write, sectors: range, memory: memory.list)) == 0)
      var isRight = true
      for sector in 0..<byteCount / 512 {
        isRight = isRight && image.contents.load(UInt64.self, at: (sector + 8) * 512) == UInt64(sector) | 0xA5 << 56
      }
      #expect(isRight, "all is where it belongs")
      region.fill(0)
      #expect(driver.run(IORequest(tag: 2, operation: .read, sectors: range, memory: memory.list)) == 0)
      isRight = true
      for sector in 0..<byteCount / 512 {
        isRight = isRight && region.load(UInt64.self, at: sector * 512) == UInt64(sector) | 0xA5 << 56
      }
      #expect(isRight, "and comes back")
      let back = disk.counters[0].back
      #expect(back[QueueCounter.indirect_req.rawValue] == 2 && back[QueueCounter.segments.rawValue] == 2 * 4096)
      #expect(back[QueueCounter.wr_sect.rawValue] == 32768 && back[QueueCounter.rd_sect.rawValue] == 32768)
      withExtendedLifetime(memory) {}
    }
    #expect(disk.detach() == 0)
  }

  @Test("a secure discard reaches the image as one, in every form of the rings", arguments: RingVariant.allCases)
  func secureDiscard(variant: RingVariant) throws {
    var behaviour = MemoryDisk.Behaviour()
    behaviour.queueCount = 1
    for blockProtocol in BlockProtocol.allCases {
      for isSecure in [true, false] {
        let discard = DiscardAbility(isSecureSupported: isSecure, leavesZeros: true)
        let gate = GatedDisk(
          try MemoryDisk(geometry: BlockGeometry(sectorCount: 2048, discard: discard), behaviour: behaviour))
        var configuration = DiskConfiguration()
        configuration.rings.variant = variant
        configuration.blockProtocol = blockProtocol
        let disk = try Machine().attach(gate, as: configuration)
        do {
          var driver = QueueDriver(try disk.makeQueue(0, buffers: BufferDemand(count: 1, byteCount: 4096)))
          #expect(driver.run(at: 4096, 8192, .secureDiscard) == (isSecure ? 0 : EOPNOTSUPP))
          #expect(driver.run(at: 4096, 8192, .discard) == 0)
        }
        #expect(gate.log.map(\.operation) == (isSecure ? [.secureDiscard, .discard] : [.discard]))
        #expect(gate.log.allSatisfy { $0.sectors == SectorRange(start: 8, count: 16) })
        #expect(disk.detach() == 0)
      }
    }
  }

  @Test("a flush that the disk does not know is taken back in the store, a barrier too, and counts as done")
  func withdrawal() throws {
    let gate = GatedDisk(try MemoryDisk(geometry: BlockGeometry(sectorCount: 2048)))
    let machine = try Machine()
    let disk = try machine.attach(gate)
    let folder = disk.definition.backendPath
    do {
      var driver = QueueDriver(try disk.makeQueue(0, buffers: BufferDemand(count: 1, byteCount: 4096)))
      gate.fail(.flush, with: EOPNOTSUPP)
      func node(_ name: String, becomes value: String) throws -> Bool {
        let deadline = time(nil) + 10
        while try machine.toolstack.read("\(folder)/\(name)") != value, time(nil) < deadline { usleep(500) }
        return try machine.toolstack.read("\(folder)/\(name)") == value
      }
      #expect(try node("feature-flush-cache", becomes: "1") && node("feature-barrier", becomes: "1"))
      #expect(driver.run(.flush()) == 0)
      #expect(try node("feature-flush-cache", becomes: "0") && node("feature-barrier", becomes: "1"))
      #expect(driver.run(.flush()) == 0, "by a barrier now")
      #expect(try node("feature-barrier", becomes: "0"))
      gate.forget()
      #expect(driver.run(.flush()) == 0)
      #expect(gate.log.isEmpty, "nobody asks any more")
    }
    #expect(disk.detach() == 0)
  }

  @Test("a disk that nobody uses lets go of its pages after 60 seconds, and not before", arguments: Placement.allCases)
  func idleGrants(placement: Placement) throws {
    let machine = try Machine()
    var configuration = DiskConfiguration()
    configuration.placement = placement
    configuration.spinNanoseconds = 0
    let image = try MemoryDisk(geometry: BlockGeometry(sectorCount: 2048))
    let disk = try machine.attach(image, as: configuration)
    do {
      var driver = QueueDriver(try disk.makeQueue(0, buffers: BufferDemand(count: 1, byteCount: 4096)))
      let memory = try ScatteredMemory(byteCount: 65536)
      let kept = { disk.counters[0].back[QueueCounter.grants_persistent.rawValue] }
      #expect(driver.run(at: 0, 65536, .write, memory) == 0)
      let used = kept()
      #expect(used >= 16)
      machine.advanceClock(seconds: 50)
      for _ in 0..<20 { driver.queue.advance() }
      #expect(kept() == used)
      #expect(driver.run(at: 0, 4096, .write, try memory.prefix(4096)) == 0, "one page is used again")
      machine.advanceClock(seconds: 30)
      for _ in 0..<20 { driver.queue.advance() }
      machine.advanceClock(seconds: 45)
      let deadline = time(nil) + 10
      while kept() > 0, time(nil) < deadline {
        driver.queue.advance()
        usleep(1000)
      }
      #expect(kept() == 0, "nobody used any for 75 seconds")
      #expect(driver.run(at: 0, 65536, .write, memory) == 0)
      #expect(kept() > 0)
    }
    #expect(disk.detach() == 0)
  }

  @Test("memory that is short empties the pools of every ring", arguments: Placement.allCases)
  func squeeze(placement: Placement) throws {
    let machine = try Machine()
    var configuration = DiskConfiguration()
    configuration.placement = placement
    configuration.frontPersistent = false
    configuration.spinNanoseconds = 0
    let disk = try machine.attach(try MemoryDisk(geometry: BlockGeometry(sectorCount: 2048)), as: configuration)
    do {
      var driver = QueueDriver(try disk.makeQueue(0, buffers: BufferDemand(count: 1, byteCount: 4096)))
      let memory = try ScatteredMemory(byteCount: 65536)
      #expect(driver.run(at: 0, 65536, .write, memory) == 0)
      #expect(
        machine.ledger.bufferPages == 16, "the page of descriptors came back before the sixteen of data were mapped")
      disk.squeezeBuffers()
      let deadline = time(nil) + 10
      while machine.ledger.bufferPages > 0, time(nil) < deadline {
        driver.queue.advance()
        usleep(200)
      }
      #expect(machine.ledger.bufferPages == 0)
      #expect(driver.run(at: 0, 65536, .read, memory) == 0)
    }
    #expect(disk.detach() == 0)
    #expect(machine.ledger.bufferPages == 0)
  }
}
