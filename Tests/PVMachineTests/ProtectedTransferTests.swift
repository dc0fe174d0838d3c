// SPDX-License-Identifier: MIT

import BlockBack
import BlockFront
import BlockIO
import GuestMemory
import PVMachine
import PVTestSupport
import Protection
import Testing
import XenBus
import XenWire

/// A way for tuples to travel, and what they are like.
struct Protected: CustomTestStringConvertible, Sendable {
  let testDescription: String
  var configuration = DiskConfiguration()
  let profile: RingProtectionProfile
  var form: ProtectionForm {
    ProtectionForm(
      type: ProtectionType(rawValue: profile.type) ?? .type1,
      guardKind: profile.usesInternetChecksum ? .internetChecksum : .crc)
  }

  init(
    _ variant: RingVariant, _ protection: RingProtection, _ profile: RingProtectionProfile, isPersistent: Bool = true
  ) {
    testDescription =
      "\(variant.rawValue), \(protection.rawValue), type \(profile.type)"
      + (profile.usesInternetChecksum ? ", checksum" : "") + (isPersistent ? "" : ", not persistent")
    configuration.rings.variant = variant
    configuration.rings.protection = protection
    configuration.rings.protectionProfile = profile
    configuration.frontPersistent = isPersistent
    self.profile = profile
  }

  static let sectorForms: [Protected] =
    RingProtectionProfile.all.map { Protected(.classic, .sector, $0) }
    + RingVariant.allCases.map { Protected($0, .sector, .standard, isPersistent: false) }
    + [Protected(.slim32, .sector, RingProtectionProfile.all[1])]
  static let all =
    sectorForms + RingProtectionProfile.all.map { Protected(.slim64, .slot, $0) } + [
      Protected(.classic, .off, .standard)
    ]
}

@Suite("Protection information that the caller makes (DIX)")
struct ProtectedTransferTests {
  static let sector: UInt64 = 40
  static let sectors = 600

  /// A disk, one queue, and 600 sectors of data with tuples for them.
  struct Bench: ~Copyable {
    let image: MemoryDisk
    let disk: AttachedDisk<MemoryDisk>
    var driver: QueueDriver<AttachedDisk<MemoryDisk>.Queue>
    let data: ScatteredMemory
    let tuples: ScatteredMemory

    static func make(_ way: Protected) throws -> Bench {
      let image = try MemoryDisk(geometry: BlockGeometry(sectorCount: 4096))
      let disk = try Machine().attach(image, as: way.configuration)
      var random = SeededGenerator(seed: 12)
      let data = try ScatteredMemory(pieces: [512 * 3, 512 * 301, 512 * 296])
      data.bytes = random.bytes(512 * ProtectedTransferTests.sectors)
      let tuples = try ScatteredMemory(byteCount: 8 * ProtectedTransferTests.sectors)
      var cursor = TupleCursor(tuples.list)
      ProtectionScanner(form: way.form).generate(
        data.list, sector: ProtectedTransferTests.sector, start: UInt32(ProtectedTransferTests.sector), into: &cursor)
      let queue = try disk.makeQueue(0, buffers: BufferDemand(count: 1, byteCount: 4096))
      return Bench(image: image, disk: disk, driver: QueueDriver(queue), data: data, tuples: tuples)
    }

    mutating func run(_ operation: IOOperation, _ data: ScatteredMemory, _ tuples: ScatteredMemory) -> CInt {
      let range = SectorRange(
        start: ProtectedTransferTests.sector, count: UInt64(ProtectedTransferTests.sectors))
      let request = IORequest(tag: 3, operation: operation, sectors: range, memory: data.list)
      guard case .accepted = driver.queue.submit(request, tuples: tuples.list[0]) else { return -1 }
      return driver.nextCompletion()?.errorCode ?? -1
    }
  }

  @Test("is accepted where it is right, and comes back with what is read", arguments: Protected.all)
  func right(way: Protected) throws {
    var bench = try Bench.make(way)
    #expect(bench.disk.agreement.plan.protectionProfile == way.profile)
    #expect(bench.run(.write, bench.data, bench.tuples) == 0)
    let isWritten = Array(bench.image.bytes[40 * 512..<640 * 512]) == bench.data.bytes
    #expect(isWritten)
    let data = try ScatteredMemory(byteCount: 512 * Self.sectors)
    let tuples = try ScatteredMemory(byteCount: 8 * Self.sectors)
    #expect(bench.run(.read, data, tuples) == 0)
    let isSame = data.bytes == bench.data.bytes && tuples.bytes == bench.tuples.bytes
    #expect(isSame)
    #expect(bench.disk.findings.back.count == 0 && bench.disk.findings.front.count == 0)
  }

  @Test("is refused by the backend where a guard is wrong, and the sector is named", arguments: Protected.sectorForms)
  func wrongGuard(way: Protected) throws {
    var bench = try Bench.make(way)
    bench.tuples.bytes[8 * 577 + 1] ^= 0x10
    #expect(bench.run(.write, bench.data, bench.tuples) == ProtectionViolation.errorCode)
    #expect(bench.disk.findings.back.violations.map(\.sector) == [617])
    #expect(bench.disk.findings.front.violations.map(\.sector) == [617])
    let sentence = bench.disk.findings.back.violations.first?.sentence ?? ""
    #expect(sentence.hasPrefix("sector 617 is not as it was written"), "\(sentence)")
    #expect(bench.disk.counters[0].back[QueueCounter.protection_errors.rawValue] == 1)
    #expect(bench.disk.counters[0].front[FrontCounter.protection_errors.rawValue] == 1)
    let isUntouched = bench.image.bytes[617 * 512..<618 * 512].allSatisfy { $0 == 0 }
    #expect(isUntouched, "what nobody vouches for is not written")
  }

  @Test(
    "is refused where a reference tag is another sector's, but for type 3, which has none",
    arguments: Protected.sectorForms)
  func wrongReference(way: Protected) throws {
    var bench = try Bench.make(way)
    bench.tuples.bytes[8 * 5 + 7] ^= 1
    let code = bench.run(.write, bench.data, bench.tuples)
    if way.profile.type == 3 {
      #expect(code == 0)
    } else {
      #expect(code == ProtectionViolation.errorCode)
      #expect(bench.disk.findings.back.violations.map(\.sector) == [45])
    }
  }

  @Test("says itself what nobody shall check: an application tag of all ones")
  func escaped() throws {
    var bench = try Bench.make(Protected(.classic, .sector, .standard))
    bench.tuples.bytes[8 * 9] ^= 0x10
    bench.tuples.bytes[8 * 9 + 2] = 0xFF
    bench.tuples.bytes[8 * 9 + 3] = 0xFF
    #expect(bench.run(.write, bench.data, bench.tuples) == 0)
  }

  @Test(
    "is held against the data by the frontend where the rings have no room for it",
    arguments: [Protected(.slim64, .slot, .standard), Protected(.classic, .off, .standard)])
  func atTheFrontend(way: Protected) throws {
    var bench = try Bench.make(way)
    bench.tuples.bytes[8 * 577 + 1] ^= 0x10
    #expect(bench.run(.write, bench.data, bench.tuples) == ProtectionViolation.errorCode)
    #expect(bench.disk.findings.front.violations.map(\.sector) == [617])
    #expect(bench.disk.counters[0].front[FrontCounter.requests.rawValue] == 0, "nothing was sent")
  }

  @Test("is eight bytes a sector, and nothing else is accepted")
  func length() throws {
    var bench = try Bench.make(Protected(.classic, .sector, .standard))
    let short = try bench.tuples.prefix(8 * (Self.sectors - 1))
    #expect(bench.run(.write, bench.data, short) == 22)
    #expect(bench.run(.write, bench.data, bench.tuples) == 0)
  }
}
