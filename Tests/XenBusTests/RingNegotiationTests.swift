// SPDX-License-Identifier: MIT

import Testing
import XenBus
import XenStore
import XenWire

@Suite("Agreeing on the form of the rings")
struct RingNegotiationTests {
  /// Both folders in a store of their own.
  struct Bench {
    let store = StoreServer()
    let front: DeviceFolder
    let back: DeviceFolder

    init() throws {
      let connection = store.connect(as: .control)
      front = DeviceFolder(store: connection, path: try #require(StorePath("/front")))
      back = DeviceFolder(store: connection, path: try #require(StorePath("/back")))
      try connection.makeDirectory(front.path)
      try connection.makeDirectory(back.path)
    }

    func write(_ name: String, _ text: String, to folder: DeviceFolder) throws {
      try folder.store.write(folder.path / name, text)
    }

    func nodes(_ folder: DeviceFolder) throws -> [String: String] {
      var nodes: [String: String] = [:]
      for name in try folder.store.directory(folder.path) {
        nodes[name] = try folder.store.read(folder.path / name)
      }
      return nodes
    }

    /// The whole conversation: offer, wish, choice, acceptance.
    func agree(
      _ wish: RingWish, _ offer: RingOffer, _ blockProtocol: BlockProtocol = .x86_64, pages: Int = 1
    ) throws -> (front: RingPlan, back: RingPlan) {
      try offer.write(to: back)
      let plan = wish.plan(blockProtocol, ringPages: pages, RingOffer(reading: back))
      try plan.erase(from: front, in: nil)
      try plan.write(to: front, in: nil)
      return (plan, try offer.accept(front, blockProtocol, ringPages: pages))
    }
  }

  static let wishes: [RingWish] = RingVariant.allCases.flatMap { variant in
    (0..<24).map { bits in
      var wish = RingWish()
      wish.variant = variant
      wish.isSplit = bits & 1 != 0
      wish.usesWholePage = bits & 2 != 0
      wish.indexPlacement = bits & 4 != 0 && bits < 8 ? .together : .apart
      wish.alignment = [0, 64, 128][bits / 8]
      wish.segmentsPerRequest = 32
      wish.segmentEntrySize = bits & 1 != 0 ? 6 : 8
      return wish
    }
  }

  @Test("whatever is wished and offered, both ends come to the same form, and it is no more than either had")
  func matrix() throws {
    var offers = RingVariant.allCases.map { RingOffer.only($0) }
    offers += [RingOffer(), .everything]
    for mask in 0..<8 {
      var offer = RingOffer.everything
      offer.canSplit = mask & 1 != 0
      offer.canUseWholePage = mask & 2 != 0
      offer.maxAlignment = mask & 4 != 0 ? 64 : 0
      offers.append(offer)
    }
    for wish in Self.wishes {
      for offer in offers {
        let (front, back) = try Bench().agree(wish, offer)
        var normal = front
        normal.responseRingPages = front.isSplit ? RingGeometry(front).responsePages : nil
        #expect(back == normal)
        #expect(RingGeometry(front) == RingGeometry(back))
        #expect(front.variant == (offer.offers(wish.variant) ? wish.variant : .classic))
        #expect(front.isSplit == (wish.isSplit && offer.canSplit))
        #expect(front.usesWholePage == (wish.usesWholePage && offer.canUseWholePage))
        #expect(front.alignment == min(wish.alignment, offer.maxAlignment))
      }
    }
  }

  @Test("an end that knows nothing of the proposals sees and shows a classic peer")
  func strangers() throws {
    let bench = try Bench()
    try RingOffer().write(to: bench.back)
    #expect(try bench.nodes(bench.back).isEmpty, "nothing offered, nothing written")
    for wish in Self.wishes {
      let plan = wish.plan(.x86_32, ringPages: 4, RingOffer(reading: bench.back))
      #expect(plan == RingPlan(.x86_32, ringPages: 4))
      try plan.write(to: bench.front, in: nil)
    }
    #expect(try bench.nodes(bench.front).isEmpty)
    #expect(try RingOffer.everything.accept(bench.front, .arm, ringPages: 2) == RingPlan(.arm, ringPages: 2))
  }

  @Test("the keys are spelt correctly, and the classic ones are not touched")
  func spelling() throws {
    let bench = try Bench()
    try RingOffer.everything.write(to: bench.back)
    #expect(
      try bench.nodes(bench.back) == [
        "max-request-segments": "256", "feature-segment-ring": "1", "feature-request-size": "1",
        "indirect-descriptors": "1", "feature-separate-req-and-rsp": "1", "feature-whole-page-ring": "1",
        "alignment": "128", "feature-dif": "2", "feature-dif-profiles": "63",
      ])
    var wish = RingWish()
    wish.variant = .slim32
    wish.isSplit = true
    wish.usesWholePage = true
    wish.alignment = 64
    _ = try bench.agree(wish, .everything, pages: 16)
    #expect(
      try bench.nodes(bench.front) == [
        "indirect-descriptors": "1", "feature-separate-req-and-rsp": "1", "feature-whole-page-ring": "1",
        "alignment": "64", "rsp-ring-page-order": "3",
      ])
  }

  @Test("what tuples are like is agreed on: one profile that both ends have, and type 1 with a CRC without a word")
  func protectionProfiles() throws {
    for profile in RingProtectionProfile.all {
      let bench = try Bench()
      var wish = RingWish()
      wish.protection = .sector
      wish.protectionProfile = profile
      let plans = try bench.agree(wish, .everything, pages: 1)
      #expect(plans.front.protectionProfile == profile && plans.back.protectionProfile == profile)
      let written = try bench.nodes(bench.front)["dif-profile"]
      #expect(written == (profile == .standard ? nil : "\(profile.number)"))
      var old = RingOffer.everything
      old.protectionProfiles = [.standard]
      #expect(try Bench().agree(wish, old, pages: 1).front.protectionProfile == .standard, "the backend knows no other")
      wish.protection = .off
      #expect(
        try Bench().agree(wish, .everything, pages: 1).front.protectionProfile == .standard, "no tuples, no profile")
    }
    for number in ["6", "4294967295"] {
      let bench = try Bench()
      try bench.front.store.write(bench.front.path / "feature-dif", "2")
      try bench.front.store.write(bench.front.path / "dif-profile", number)
      let refusal = #expect(throws: RingRefusal.self) {
        try RingOffer.everything.accept(bench.front, .x86_64, ringPages: 1)
      }
      #expect(refusal?.text == "protection of profile \(number), which was not offered")
    }
    let bench = try Bench()
    try bench.front.store.write(bench.front.path / "feature-dif", "2")
    try bench.front.store.write(bench.front.path / "dif-profile", "3")
    var old = RingOffer.everything
    old.protectionProfiles = [.standard]
    #expect(throws: RingRefusal.self) { try old.accept(bench.front, .x86_64, ringPages: 1) }
  }

  @Test("what the thread misspelt is understood and never written")
  func aliases() throws {
    for (alias, check) in [
      ("feature-seperate-req-and-rsp", { $0.canSplit }), ("seperate-req-and-rsp", { $0.canSplit }),
      ("indiret-descriptor", { $0.hasIndirectDescriptors }), ("slim-version-of-req", { $0.hasIndirectDescriptors }),
    ] as [(String, (RingOffer) -> Bool)] {
      let bench = try Bench()
      #expect(check(RingOffer(reading: bench.back)) == false)
      try bench.write(alias, "1", to: bench.back)
      #expect(check(RingOffer(reading: bench.back)) == true, "\(alias)")
    }
    let bench = try Bench()
    try bench.write("aligment-64-or-other-value", "64", to: bench.front)
    try bench.write("feature-seperate-req-and-rsp", "1", to: bench.front)
    let plan = try RingOffer.everything.accept(bench.front, .x86_64, ringPages: 1)
    #expect(plan.alignment == 64 && plan.isSplit)
    try bench.write("alignment", "128", to: bench.front)
    #expect(try RingOffer.everything.accept(bench.front, .x86_64, ringPages: 1).alignment == 128, "the right one wins")
  }

  @Test("a new choice leaves nothing of the former one")
  func erasing() throws {
    let bench = try Bench()
    try bench.write("ring-page-order", "2", to: bench.front)
    var wish = RingWish()
    wish.variant = .segmentRing
    wish.isSplit = true
    wish.segmentEntrySize = 6
    _ = try bench.agree(wish, .everything)
    #expect(try bench.nodes(bench.front).count == 4)
    let plan = wish.plan(.x86_64, ringPages: 1, RingOffer())
    try plan.erase(from: bench.front, in: nil)
    try plan.write(to: bench.front, in: nil)
    #expect(try bench.nodes(bench.front) == ["ring-page-order": "2"])
  }

  /// What a frontend writes, and what the backend says that it wants.
  static let refused: [([String: String], String)] = [
    (["max-request-segments": "10"], "10 segments in a request, the maximum is 256"),
    (["max-request-segments": "257"], "257 segments in a request, the maximum is 256"),
    (["max-request-segments": "4294967295"], "4294967295 segments in a request, the maximum is 256"),
    (["feature-segment-ring": "1", "segment-entry-size": "7"], "segment entries of 7 bytes"),
    (["feature-segment-ring": "1", "segment-entry-size": "0"], "segment entries of 0 bytes"),
    (["feature-request-size": "2"], "request size version 2, the maximum is 1"),
    (["feature-request-size": "1", "indirect-descriptors": "1"], "slim64 and slim32 at once"),
    (["max-request-segments": "64", "slim-version-of-req": "1"], "wide and slim32 at once"),
    (["feature-separate-req-and-rsp": "3"], "split rings of form 3"),
    (
      ["feature-separate-req-and-rsp": "1", "rsp-ring-page-order": "5"],
      "a response ring of page order 5, the maximum is 4"
    ),
    (
      ["feature-separate-req-and-rsp": "1", "rsp-ring-page-order": "4294967295"],
      "a response ring of page order 4294967295, the maximum is 4"
    ),
    (["feature-dif": "3"], "protection of form 3, the maximum is 2"),
    (["feature-dif": "1"], "protection information in slots of 112 bytes, which have no room for it"),
    (
      ["feature-dif": "1", "indirect-descriptors": "1"],
      "protection information in slots of 32 bytes, which have no room for it"
    ),
    (["alignment": "32"], "an alignment of 32, the maximum is 128"),
    (["alignment": "256"], "an alignment of 256, the maximum is 128"),
    (["alignment": "4294967295"], "an alignment of 4294967295, the maximum is 128"),
    (
      ["feature-separate-req-and-rsp": "2", "alignment": "64"],
      "index words together on one line and aligned to 64 at the same time"
    ),
  ]

  @Test("a choice out of range, or of two forms at once, is refused with a sentence", arguments: refused)
  func hostile(nodes: [String: String], sentence: String) throws {
    let bench = try Bench()
    for (name, text) in nodes { try bench.write(name, text, to: bench.front) }
    #expect(throws: RingRefusal(sentence)) { try RingOffer.everything.accept(bench.front, .x86_64, ringPages: 1) }
  }

  @Test("what was not offered is refused")
  func notOffered() throws {
    let cases: [([String: String], String)] = [
      (["max-request-segments": "64"], "64 segments in a request, the maximum is 0"),
      (["feature-segment-ring": "1"], "segment-ring, which was not offered"),
      (["feature-request-size": "1"], "request size version 1, the maximum is 0"),
      (["indirect-descriptors": "1"], "slim32, which was not offered"),
      (["feature-separate-req-and-rsp": "1"], "split rings, which were not offered"),
      (["feature-whole-page-ring": "1"], "whole pages, which were not offered"),
      (["alignment": "64"], "an alignment of 64, the maximum is 0"),
    ]
    for (nodes, sentence) in cases {
      let bench = try Bench()
      for (name, text) in nodes { try bench.write(name, text, to: bench.front) }
      #expect(throws: RingRefusal(sentence)) { try RingOffer().accept(bench.front, .x86_64, ringPages: 1) }
    }
  }

  @Test("protection that has no room in the slots that were agreed on goes to pages of its own, or away")
  func protection() throws {
    var wish = RingWish()
    wish.variant = .slim64
    wish.protection = .slot
    #expect(try Bench().agree(wish, .everything).back.protection == .slot)
    #expect(try Bench().agree(wish, .only(.slim32)).back.protection == .sector, "classic slots have no room")
    var offer = RingOffer.only(.slim32)
    offer.protection = .slot
    #expect(try Bench().agree(wish, offer).back.protection == .off)
    wish.protection = .sector
    #expect(try Bench().agree(wish, .everything).back.protection == .sector)
    #expect(try Bench().agree(wish, RingOffer()).back.protection == .off)
    var split = RingPlan(.x86_64)
    (split.variant, split.isSplit, split.usesWholePage, split.protection) = (.slim64, true, true, .slot)
    let geometry = RingGeometry(split)
    #expect(geometry.responseStride == 24 && geometry.responseProtectionOffset == 16)
    split.isSplit = false
    #expect(RingGeometry(split).responseProtectionOffset == 56)
  }

  @Test("an offer that makes no sense counts as none")
  func senselessOffers() throws {
    let bench = try Bench()
    for (name, text) in [
      ("max-request-segments", "10"), ("feature-segment-ring", "yes"), ("feature-request-size", "-1"),
      ("indirect-descriptors", ""), ("feature-separate-req-and-rsp", "0"), ("alignment", "63"),
    ] { try bench.write(name, text, to: bench.back) }
    #expect(RingOffer(reading: bench.back) == RingOffer())
    try bench.write("max-request-segments", "4294967295", to: bench.back)
    try bench.write("alignment", "4096", to: bench.back)
    let offer = RingOffer(reading: bench.back)
    #expect(offer.maxRequestSegments == 256 && offer.maxAlignment == 128)
  }
}
