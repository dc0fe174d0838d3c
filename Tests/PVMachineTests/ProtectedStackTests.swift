// SPDX-License-Identifier: MIT

import BlockFront
import BlockIO
import Glibc
import GuestMemory
import PVMachine
import PVTestSupport
import Protection
import Testing
import XenBus
import XenHypervisor
import XenWire

extension Way {
  /// Ways to carry protection information, in every form that can.
  static let protected: [Way] = [
    Way(.classic, "sector") { $0.rings.protection = .sector },
    Way(.classic, "sector, direct requests only, x86_32") {
      $0.rings.protection = .sector
      $0.indirectSegments = 0
      $0.blockProtocol = .x86_32
    },
    Way(.classic, "sector, a backend that is not trusted, threads") {
      $0.rings.protection = .sector
      $0.isBackendTrusted = false
      $0.placement = .threads
    },
    Way(.classic, "sector, nothing persistent") {
      $0.rings.protection = .sector
      $0.frontPersistent = false
    },
    Way(.wide, "sector, 40 segments") {
      $0.rings.protection = .sector
      $0.rings.segmentsPerRequest = 40
    },
    Way(.segmentRing, "sector") { $0.rings.protection = .sector },
    Way(.slim64, "sector, split") {
      $0.rings.protection = .sector
      $0.rings.isSplit = true
    },
    Way(.slim32, "sector, split, whole pages") {
      $0.rings.protection = .sector
      $0.rings.isSplit = true
      $0.rings.usesWholePage = true
    },
    Way(.slim64, "slot") { $0.rings.protection = .slot },
    Way(.slim64, "slot, x86_32, align=128") {
      $0.rings.protection = .slot
      $0.blockProtocol = .x86_32
      $0.rings.alignment = 128
    },
    Way(.slim32, "slot, in slots of 64 bytes") {
      $0.rings.protection = .slot
      $0.rings.alignment = 64
    },
  ]
}

@Suite("A stack that carries protection information")
struct ProtectedStackTests {
  @Test("random I/O leaves what it leaves on a disk, and nothing is found", arguments: Way.protected)
  func randomIO(way: Way) throws {
    let disk = try StackDataTests().exercise(way.configuration, mapping: .remap, rounds: 200)
    #expect(disk.frontend.plan.protection == way.configuration.rings.protection)
    #expect(disk.findings.count == 0)
  }

  @Test("ways that cannot be are refused with a sentence")
  func refusals() {
    for (variant, isSplit) in [(RingVariant.classic, false), (.slim32, false), (.slim64, true)] {
      var configuration = DiskConfiguration()
      configuration.rings.variant = variant
      configuration.rings.isSplit = isSplit
      configuration.rings.protection = .slot
      #expect(configuration.complaint?.contains("protection information") == true)
    }
  }

  @Test("a backend that offers none leaves the frontend without, and the disk works")
  func notOffered() throws {
    var configuration = DiskConfiguration()
    configuration.rings.protection = .sector
    configuration.offer = RingOffer()
    let disk = try StackDataTests().exercise(configuration, mapping: .alias, rounds: 30)
    #expect(disk.frontend.plan.protection == .off)
  }

  @Test("a bit that flips in the image comes out at the far end of the stack as an error, and the sector is named")
  func flippedInImage() throws {
    let memory = try MemoryDisk(geometry: BlockGeometry(sectorCount: 2048))
    let path = "/tmp/pvdisk-test-\(UInt32.random(in: 0 ... .max)).dif"
    defer { unsafe unlink(path) }
    let image = ProtectedDisk(memory, tags: try TagFile(path: path, form: ProtectionForm(), sectorCount: 2048))
    var configuration = DiskConfiguration()
    configuration.rings.protection = .sector
    let machine = try Machine()
    let disk = try machine.attach(image, as: configuration)
    do {
      var driver = QueueDriver(try disk.makeQueue(0, buffers: BufferDemand(count: 2, byteCount: 16_384)))
      let data = try ScatteredMemory(byteCount: 16_384)
      data.bytes = Array(repeating: 0x3C, count: 16_384)
      #expect(driver.run(at: 64 * 512, 16_384, .write, data) == 0)
      memory.contents.store(UInt8(0), at: 71 * 512 + 9)
      #expect(driver.run(at: 64 * 512, 16_384, .read, data) == 5)
      #expect(image.findings.violations.map(\.sector) == [71])
      #expect(driver.run(at: 72 * 512, 4096, .read, try data.prefix(4096)) == 0)
      #expect(disk.findings.count == 0, "nothing was wrong on the way")
    }
    #expect(disk.detach() == 0)
  }
}
