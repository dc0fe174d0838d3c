// SPDX-License-Identifier: MIT

import BlockBack
import BlockIO
import PVMachine
import PVTestSupport
import Protection
import Testing
import XenBus
import XenHypervisor
import XenWire

@Suite("A disk that moves between forms of the ring in mid-I/O")
struct VariantMigrationTests {
  static let byteCount = 1 << 20

  /// From one form to another and back.
  struct Journey: CustomTestStringConvertible, Sendable {
    let testDescription: String
    let from: BackendKnobs
    let to: BackendKnobs
    var configuration = DiskConfiguration()

    /// A frontend that would take any form, and two backends that offer one each.
    init(from: RingVariant, to: RingVariant) {
      testDescription = "\(from.rawValue) to \(to.rawValue)"
      self.from = Self.knobs { $0.rings = .only(from) }
      self.to = Self.knobs { $0.rings = .only(to) }
      configuration.rings.variant = .slim32
      configuration.rings.fallbacks = [.slim64, .segmentRing, .wide]
      configuration.rings.segmentsPerRequest = 64
    }

    /// A frontend with a wish, and backends that grant it and do not.
    init(_ name: String, _ wish: (inout RingWish) -> Void, _ to: (inout BackendKnobs) -> Void) {
      testDescription = name
      from = Self.knobs { $0.rings = .everything }
      self.to = Self.knobs {
        $0.rings = .everything
        to(&$0)
      }
      wish(&configuration.rings)
    }

    static func knobs(_ change: (inout BackendKnobs) -> Void) -> BackendKnobs {
      var knobs = BackendKnobs()
      change(&knobs)
      return knobs
    }

    static let pairs: [Journey] = RingVariant.allCases.flatMap { from in
      RingVariant.allCases.filter { $0 != from }.map { Journey(from: from, to: $0) }
    }

    static let modifiers: [Journey] = [
      Journey("split rings to one ring", { $0.isSplit = true }, { $0.rings.canSplit = false }),
      Journey("whole pages to powers of two", { $0.usesWholePage = true }, { $0.rings.canUseWholePage = false }),
      Journey("lines of 128 to 64", { $0.alignment = 128 }, { $0.rings.maxAlignment = 64 }),
      Journey(
        "a tuple in each slot to none",
        {
          $0.variant = .slim64
          $0.protection = .slot
        }, { $0.rings.protection = .off }),
      Journey(
        "a tuple in each slot of slim64 to one for each sector of a classic ring",
        {
          $0.variant = .slim64
          $0.protection = .slot
        }, { $0.rings.requestSizeVersion = 0 }),
      Journey("a tuple for each sector to none", { $0.protection = .sector }, { $0.rings.protection = .off }),
      Journey(
        "tuples of type 3 with a checksum to type 1 with a CRC",
        {
          $0.protection = .sector
          $0.protectionProfile = RingProtectionProfile.all[5]
        }, { $0.rings.protectionProfiles = [.standard] }),
      Journey(
        "wide slots of 256 segments to 16", { $0.variant = .wide }, { $0.rings.maxRequestSegments = 16 }),
      Journey(
        "everything at once to what Linux speaks",
        {
          $0.variant = .slim32
          $0.isSplit = true
          $0.usesWholePage = true
          $0.alignment = 128
          $0.protection = .sector
        }, { $0 = BackendKnobs() }),
    ]
  }

  @Test(
    "leaves what random I/O leaves on a disk, there and back, for every pair of forms",
    arguments: Journey.pairs + Journey.modifiers)
  func journey(journey: Journey) throws {
    for placement in Placement.allCases {
      let image = try lateDisk(byteCount: Self.byteCount, seed: 31)
      let machine = try Machine()
      let before = machine.ledger
      var configuration = journey.configuration
      configuration.backend = journey.from
      configuration.placement = placement
      configuration.spinNanoseconds = 0
      let disk = try machine.attach(image, as: configuration)
      var plans = [disk.agreement.plan]
      do {
        var user = try RandomUser(disk, byteCount: Self.byteCount, seed: 17)
        for knobs in [journey.to, journey.from, journey.to] {
          try #require(try user.run(25))
          try user.fill(24)
          user.driver.queue.advance()
          disk.replaceBackend(with: knobs)
          try #require(disk.wait(for: .connected, with: knobs, driving: &user))
          plans.append(disk.agreement.plan)
        }
        try #require(try user.run(25))
        try #require(try user.drain())
        let isRight = image.bytes == user.model.bytes
        #expect(isRight)
      }
      #expect(plans[0] != plans[1] && plans[0] == plans[2] && plans[1] == plans[3], "the forms did differ")
      #expect(disk.findings.front.count == 0 && disk.findings.back.count == 0)
      #expect(disk.detach() == 0)
      #expect(machine.ledger == before)
    }
  }
}
