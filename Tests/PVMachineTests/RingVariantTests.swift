// SPDX-License-Identifier: MIT

import BlockFront
import BlockIO
import DiskImages
import PVMachine
import PVTestSupport
import Testing
import XenBus
import XenHypervisor
import XenWire

extension Way {
  /// A variant with modifiers.
  init(_ variant: RingVariant, _ modifiers: String = "", _ change: (inout DiskConfiguration) -> Void = { _ in }) {
    self.init(modifiers.isEmpty ? variant.rawValue : "\(variant.rawValue), \(modifiers)") { configuration in
      configuration.rings.variant = variant
      change(&configuration)
    }
  }

  /// Every variant and every modifier at least once, alone and together.
  static let variants: [Way] = [
    Way(.wide),
    Way(.wide, "32 segments, x86_32") {
      $0.rings.segmentsPerRequest = 32
      $0.blockProtocol = .x86_32
    },
    Way(.wide, "64 segments, split, whole pages, 4 ring pages") {
      $0.rings.segmentsPerRequest = 64
      $0.rings.isSplit = true
      $0.rings.usesWholePage = true
      $0.ringPages = 4
    },
    Way(.segmentRing),
    Way(.segmentRing, "packed, x86_32") {
      $0.rings.segmentEntrySize = 6
      $0.blockProtocol = .x86_32
    },
    Way(.segmentRing, "packed, split, a few large requests") {
      $0.rings.segmentEntrySize = 6
      $0.rings.isSplit = true
      $0.indirectSegments = 682
    },
    Way(.slim64),
    Way(.slim64, "x86_32, whole pages") {
      $0.blockProtocol = .x86_32
      $0.rings.usesWholePage = true
    },
    Way(.slim64, "split, align=128") {
      $0.rings.isSplit = true
      $0.rings.alignment = 128
    },
    Way(.slim64, "grants of the frontend not persistent") { $0.frontPersistent = false },
    Way(.slim32),
    Way(.slim32, "split, whole pages, 1024 segments") {
      $0.rings.isSplit = true
      $0.rings.usesWholePage = true
      $0.indirectSegments = 1024
    },
    Way(.slim32, "in slots of 64 bytes") { $0.rings.alignment = 64 },
    Way(.slim32, "two segments and nothing else") { $0.indirectSegments = 0 },
    Way(.slim32, "mappings of the backend not persistent") { $0.backPersistent = false },
    Way(.slim64, "a tuple in each slot") { $0.rings.protection = .slot },
    Way(.slim32, "split, align=64, a tuple in each slot") {
      ($0.rings.isSplit, $0.rings.alignment, $0.rings.protection) = (true, 64, .slot)
    },
    Way(.classic, "a tuple for each sector") { $0.rings.protection = .sector },
    Way(.classic, "a tuple for each sector, nothing persistent, nobody trusted") {
      ($0.rings.protection, $0.frontPersistent, $0.isBackendTrusted) = (.sector, false, false)
    },
    Way(.slim32, "a tuple for each sector, two segments and nothing else") {
      ($0.rings.protection, $0.indirectSegments) = (.sector, 0)
    },
    Way(.slim32, "split, whole pages, a tuple for each sector") {
      ($0.rings.isSplit, $0.rings.usesWholePage, $0.rings.protection) = (true, true, .sector)
    },
    Way(.segmentRing, "a tuple for each sector") { $0.rings.protection = .sector },
    Way(.wide, "32 segments, a tuple for each sector") {
      ($0.rings.segmentsPerRequest, $0.rings.protection) = (32, .sector)
    },
    Way(.classic, "split") { $0.rings.isSplit = true },
    Way(.classic, "split, index words together") {
      $0.rings.isSplit = true
      $0.rings.indexPlacement = .together
    },
    Way(.classic, "whole pages") { $0.rings.usesWholePage = true },
    Way(.classic, "align=64") { $0.rings.alignment = 64 },
    Way(.classic, "align=128, x86_32, whole pages") {
      $0.rings.alignment = 128
      $0.blockProtocol = .x86_32
      $0.rings.usesWholePage = true
    },
    Way(.classic, "split, a response ring of one page for sixteen of requests") {
      $0.rings.isSplit = true
      $0.ringPages = 16
      $0.rings.responseRingPages = 1
    },
  ]
}

@Suite("Every form of the rings carries the same data")
struct RingVariantTests {
  @Test("random I/O through every variant and modifier leaves what it leaves on a disk", arguments: Way.variants)
  func inline(way: Way) throws { try StackDataTests().exercise(way.configuration, mapping: .remap, rounds: 250) }

  @Test("and between two threads", arguments: Way.variants)
  func threads(way: Way) throws {
    var configuration = way.configuration
    configuration.placement = .threads
    try StackDataTests().exercise(configuration, mapping: .remap, rounds: 120, seed: 11)
  }

  @Test("a frontend of any variant and a backend of any other end in a protocol that both speak")
  func matrix() throws {
    for wish in RingVariant.allCases {
      for offer in RingVariant.allCases {
        var configuration = DiskConfiguration()
        configuration.rings.variant = wish
        configuration.rings.isSplit = true
        configuration.offer = offer == .classic ? RingOffer() : .only(offer)
        let disk = try StackDataTests().exercise(configuration, mapping: .alias, rounds: 30)
        #expect(disk.frontend.plan.variant == (wish == offer ? wish : .classic), "\(wish) on \(offer)")
        #expect(disk.frontend.plan.isSplit == (offer != .classic), "\(wish) on \(offer)")
      }
    }
  }

  @Test("what makes no sense together is refused with a sentence that names the option")
  func refusals() throws {
    let cases: [(String, (inout DiskConfiguration) -> Void)] = [
      ("--align must be 64 or 128, not 32", { $0.rings.alignment = 32 }),
      (
        "with --protocol wide, --indirect-segments must be between 11 and 256, not 300",
        {
          $0.rings.variant = .wide
          $0.rings.segmentsPerRequest = 300
        }
      ),
      (
        "with --protocol slim64, --indirect-segments can be 256 at most, not 300",
        {
          $0.rings.variant = .slim64
          $0.indirectSegments = 300
        }
      ),
      (
        "with --protocol slim32, --indirect-segments can be 1024 at most, not 2000",
        {
          $0.rings.variant = .slim32
          $0.indirectSegments = 2000
        }
      ),
      (
        "--dif slot needs slots with room for it: --protocol slim64, or slim32 with --align 64; "
          + "--dif sector goes with every one",
        { ($0.rings.variant, $0.rings.protection) = (.slim32, .slot) }
      ),
      ("--response-pages is for --split rings; a shared ring has no response ring", { $0.rings.responseRingPages = 1 }),
      (
        "--split-indices is for --split rings; a shared ring has all its index words in one header",
        { $0.rings.indexPlacement = .together }
      ),
      (
        "the rings would have index words together on one line and aligned to 128 at the same time; "
          + "use more --ring-pages or fewer of these options",
        {
          $0.rings.isSplit = true
          $0.rings.indexPlacement = .together
          $0.rings.alignment = 128
        }
      ),
    ]
    for (sentence, change) in cases {
      var configuration = DiskConfiguration()
      change(&configuration)
      #expect(configuration.complaint == sentence)
    }
    #expect(DiskConfiguration().complaint == nil)
    for way in Way.variants { #expect(way.configuration.complaint == nil, "\(way.testDescription)") }
  }
}
