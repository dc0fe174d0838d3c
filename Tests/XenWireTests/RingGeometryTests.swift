// SPDX-License-Identifier: MIT

import Testing
import XenWire

@Suite("Where everything of a queue's rings is")
struct RingGeometryTests {
  func plan(_ variant: RingVariant, pages: Int = 1, _ change: (inout RingPlan) -> Void = { _ in }) -> RingPlan {
    var plan = RingPlan(.x86_64, ringPages: pages)
    plan.variant = variant
    change(&plan)
    return plan
  }

  func slots(_ plan: RingPlan) -> UInt32 { RingGeometry(plan).requestCount }

  @Test("a classic ring is what it always was")
  func classic() {
    for (pages, count) in [(1, UInt32(32)), (2, 64), (4, 128), (8, 256), (16, 512)] {
      let geometry = RingGeometry(RingPlan(.x86_64, ringPages: pages))
      #expect(geometry.depth == count && geometry.responseCount == count && geometry.pageCount == pages)
      #expect(geometry.requestStride == 112 && geometry.responseStride == 112 && geometry.headerSize == 64)
      #expect(geometry.requestProducerOffset == 0 && geometry.requestEventOffset == 4)
      #expect(geometry.responseProducerOffset == 8 && geometry.responseEventOffset == 12)
      #expect(geometry.responseConsumerOffset == nil && geometry.segmentCount == 0)
      #expect(RingGeometry(RingPlan(.x86_32, ringPages: pages)).requestStride == 108)
    }
  }

  @Test("a whole page holds 126, 63 and 36 requests, and 252 or 336 responses, where the header is one line")
  func wholePage() {
    #expect(slots(plan(.slim32) { $0.usesWholePage = true }) == 126)
    #expect(slots(plan(.slim64) { $0.usesWholePage = true }) == 63)
    #expect(slots(plan(.classic) { $0.usesWholePage = true }) == 36)
    #expect(slots(plan(.slim32)) == 64 && slots(plan(.slim64)) == 32)
    func split(_ plan: RingPlan) -> RingGeometry {
      var plan = plan
      plan.isSplit = true
      plan.usesWholePage = true
      plan.indexPlacement = .together
      return RingGeometry(plan)
    }
    #expect(split(plan(.slim32)).requestCount == 126 && split(plan(.slim32)).responseCount == 252)
    #expect(split(plan(.slim64)).requestCount == 63 && split(plan(.classic)).requestCount == 36)
    #expect(split(RingPlan(.x86_32)).responseCount == 336)
    let apart = RingGeometry(
      plan(.slim32) {
        $0.isSplit = true
        $0.usesWholePage = true
      })
    #expect(apart.requestCount == 124 && apart.responseCount == 248, "index words on lines of their own cost a line")
  }

  @Test("split rings have their words on the lines of those who write them")
  func split() {
    let geometry = RingGeometry(plan(.slim32) { $0.isSplit = true })
    #expect(geometry.requestProducerOffset == 0 && geometry.responseConsumerOffset == 4)
    #expect(geometry.requestEventOffset == 64 && geometry.requestsOffset == 128)
    #expect(geometry.responseProducerOffset == 4096 && geometry.responseEventOffset == 4096 + 64)
    #expect(geometry.responsesOffset == 4096 + 128 && geometry.responseStride == 16 && geometry.pageCount == 2)
    let wide = RingGeometry(
      plan(.slim32) {
        $0.isSplit = true
        $0.alignment = 128
      })
    #expect(wide.requestEventOffset == 128 && wide.requestsOffset == 256 && wide.requestStride == 128)
    #expect(wide.responseEventOffset == 4096 + 128 && wide.responseStride == 16, "responses stay dense")
    let together = RingGeometry(
      plan(.classic) {
        $0.isSplit = true
        $0.indexPlacement = .together
      })
    #expect(together.requestEventOffset == 4 && together.responseConsumerOffset == 8 && together.requestsOffset == 64)
    #expect(together.responseProducerOffset == 4096 && together.responseEventOffset == 4100)
  }

  @Test("a response ring has the fewest pages in which every request has its response, or as many as were asked for")
  func responsePages() {
    #expect(RingGeometry(plan(.classic, pages: 16) { $0.isSplit = true }).responsePages == 4)
    let small = RingGeometry(
      plan(.classic, pages: 16) {
        $0.isSplit = true
        $0.responseRingPages = 1
      })
    #expect(small.requestCount == 512 && small.responseCount == 128 && small.depth == 128)
  }

  @Test("alignment rounds header and slots; 32 slots of 112 bytes become 16 of 128")
  func alignment() {
    let a64 = RingGeometry(plan(.classic) { $0.alignment = 64 })
    #expect(a64.requestStride == 128 && a64.headerSize == 64 && a64.requestCount == 16)
    let a128 = RingGeometry(plan(.classic) { $0.alignment = 128 })
    #expect(a128.requestStride == 128 && a128.headerSize == 128 && a128.requestCount == 16)
    #expect(slots(plan(.classic) { ($0.alignment, $0.usesWholePage) = (128, true) }) == 31)
    #expect(a128.requestProducerOffset == 0 && a128.responseEventOffset == 4, "what the front writes")
    #expect(a128.responseProducerOffset == 64 && a128.requestEventOffset == 68, "what the back writes")
    #expect(slots(plan(.slim64) { ($0.alignment, $0.usesWholePage) = (64, true) }) == 63)
    #expect(slots(plan(.slim64) { ($0.alignment, $0.usesWholePage) = (128, true) }) == 31)
    #expect(RingGeometry(plan(.slim32) { $0.alignment = 64 }).requestStride == 64, "Roger's payload in 64 bytes")
  }

  @Test("wide rings have the slots of the reference's table")
  func wide() {
    let table: [(Int, Int, [(pages: Int, fit: UInt32, count: UInt32)])] = [
      (11, 112, [(1, 36, 32), (4, 145, 128), (16, 584, 512), (32, 1169, 1024)]),
      (32, 280, [(1, 14, 8), (4, 58, 32), (16, 233, 128), (32, 467, 256)]),
      (64, 536, [(1, 7, 4), (4, 30, 16), (16, 122, 64), (32, 244, 128)]),
      (128, 1048, [(1, 3, 2), (4, 15, 8), (16, 62, 32), (32, 125, 64)]),
      (256, 2072, [(1, 1, 1), (4, 7, 4), (16, 31, 16), (32, 63, 32)]),
    ]
    for (segments, size, rows) in table {
      for row in rows {
        let wide = plan(.wide, pages: row.pages) { $0.segmentsPerRequest = segments }
        #expect(
          wide.slotSize == size && wide.directSegments == segments && wide.segmentLimit(offered: 4096) == segments)
        #expect(slots(wide) == row.count, "\(segments) segments, \(row.pages) pages")
        var whole = wide
        whole.usesWholePage = true
        #expect(slots(whole) == row.fit, "\(segments) segments, \(row.pages) whole pages")
      }
    }
  }

  @Test("a page of segments holds 682 of six bytes or 512 of eight")
  func segmentRing() {
    let packed = RingGeometry(plan(.segmentRing) { $0.segmentEntrySize = 6 })
    #expect(packed.segmentCount == 682 && packed.segmentsOffset == 4096 && packed.pageCount == 2)
    #expect(RingGeometry(plan(.segmentRing)).segmentCount == 512)
    let split = RingGeometry(plan(.segmentRing) { $0.isSplit = true })
    #expect(split.segmentsOffset == 8192 && split.pageCount == 3)
  }
}

@Suite("The thread's arithmetic, with the numbers that come out of the code")
struct ThreadArithmeticTests {
  let page = 4096

  func plan(_ variant: RingVariant, pages: Int = 1) -> RingPlan {
    var plan = RingPlan(.x86_64, ringPages: pages)
    plan.variant = variant
    return plan
  }

  @Test("11 segments are 44 KiB a request, 1 441 792 bytes a page of ring, 23 068 672 in sixteen pages")
  func classic() {
    #expect(plan(.classic).directSegments * page == 45_056)
    #expect(32 * plan(.classic).directSegments * page == 1_441_792)
    #expect(Int(RingGeometry(plan(.classic, pages: 16)).depth) * 45_056 == 23_068_672)
    for (segments, perRequest, perRing, perSixteen) in [
      (32, 131_072, 4_194_304, 67_108_864), (256, 1_048_576, 33_554_432, 536_870_912),
      (4096, 16_777_216, 536_870_912, 8_589_934_592),
    ] {
      #expect(plan(.classic).segmentLimit(offered: segments) * page == perRequest)
      #expect(Int(RingGeometry(plan(.classic)).depth) * perRequest == perRing)
      #expect(Int(RingGeometry(plan(.classic, pages: 16)).depth) * perRequest == perSixteen)
    }
  }

  @Test("1 MiB takes 24 requests of 11 segments: 23 carry 1 036 288 bytes, not the 1 081 344 of the thread")
  func pieces() {
    #expect((256 + 10) / 11 == 24)
    #expect(23 * 45_056 == 1_036_288 && 24 * 45_056 == 1_081_344)
  }

  @Test("a 32-bit request has 108 bytes, not 102")
  func thirtyTwoBits() { #expect(RingPlan(.x86_32).slotSize == 108) }

  @Test("256 segments make a slot of 2072 bytes, not 1580 or 1582; 36 of them do not fit in 14 pages")
  func wide() {
    var wide = plan(.wide)
    wide.segmentsPerRequest = 256
    #expect(wide.slotSize == 2072)
    #expect(112 + 245 * 6 == 1582, "the thread's own sum")
    #expect((64 + 32 * 2072 + page - 1) / page == 17, "32 slots need 17 pages, more than order 4 has")
  }

  @Test("a segment ring of one page gives one request 2 793 472 bytes packed or 2 MiB aligned, and the ring 4 145 152")
  func segmentRing() {
    var packed = plan(.segmentRing)
    packed.segmentEntrySize = 6
    let entries = packed.segmentLimit(offered: 4096)
    #expect(entries * page == 2_793_472)
    #expect(plan(.segmentRing).segmentLimit(offered: 4096) * page == 2_097_152)
    let first = 342
    let rest = entries - first
    #expect(rest == 340, "the thread says 342 to 682; the last entry is 681")
    #expect(first * page == 1_400_832 && rest * page == 1_392_640)
    let slots = Int(RingGeometry(packed).depth)
    #expect(slots == 32, "31 besides the first, not 35")
    #expect(first * page + 45_056 + rest * page + (slots - 3) * 45_056 == 4_145_152)
  }

  @Test("slim64 has 16 KiB direct, 1 MiB indirect, and 32 slots: exactly 32 MiB out at once")
  func slim64() {
    #expect(plan(.slim64).directSegments * page == 16_384)
    #expect(plan(.slim64).segmentLimit(offered: 4096) * page == 1 << 20)
    #expect(Int(RingGeometry(plan(.slim64)).depth) << 20 == 33_554_432)
  }

  @Test("slim32 has 8 KiB direct and 4 MiB indirect: 256 MiB in 64 slots, 504 MiB in a whole page of 126")
  func slim32() {
    #expect(plan(.slim32).directSegments * page == 8192)
    let most = plan(.slim32).segmentLimit(offered: 4096)
    #expect(most == 1024 && most * page == 4_194_304)
    #expect(Int(RingGeometry(plan(.slim32)).depth) * most * page == 268_435_456)
    var whole = plan(.slim32)
    whole.usesWholePage = true
    let slots = Int(RingGeometry(whole).depth)
    #expect(slots * most * page == 528_482_304)
    #expect(64 * (4 + most) == 65_792 && slots * (whole.descriptorPages(for: most) + most) == 129_528)
  }

  @Test("2^32 leaves 4 modulo 126, 63, 36 and 252, and 256 modulo 336: no index can be masked or divided")
  func wrap() {
    for (count, rest) in [(126, 4), (63, 4), (36, 4), (252, 4), (336, 256)] { #expect((1 << 32) % count == rest) }
  }
}
