// SPDX-License-Identifier: MIT

import BlockBack
import BlockIO
import GuestMemory
import PVPeers
import PVTestSupport
import Testing
import XenWire

extension ScriptedFrontend.Setup {
  /// A backend of a variant.
  init(_ variant: RingVariant, _ change: (inout RingPlan) -> Void = { _ in }) {
    self.init()
    var plan = RingPlan()
    plan.variant = variant
    change(&plan)
    self.plan = plan
    abilities.maxIndirectSegments = plan.segmentLimit(offered: 4096)
  }
}

/// What a backend of each variant refuses, as a backend of the classic protocol does: an error for a request that cannot be,
/// "unsupported" for a form that the variant does not have, and nothing touched.
@Suite("A frontend that breaks the rules of a variant")
struct VariantRuleTests {
  /// Puts a request, runs the backend, and holds the one answer against what is expected; the disk must stay untouched.
  func expect<Format: RingFormat>(
    _ frontend: ScriptedFrontend<Format>, _ operation: BlockOperation, _ rule: String,
    status: BlockStatus = .error, _ put: () -> Void
  ) {
    frontend.disk.forget()
    put()
    let answers = frontend.run()
    #expect(answers == [BlockResponse(id: 7, operation: operation, status: status)], "\(rule)")
    #expect(frontend.disk.log.isEmpty, "\(rule): the disk was asked")
    #expect(frontend.back?.isBroken == false)
    #expect(frontend.mappedPages == 0, "\(rule): pages stay mapped")
  }

  @Test("wide: more segments than were agreed are an error, and there is no indirect form")
  func wide() throws {
    let setup = ScriptedFrontend<WideFormat<ABI64>>.Setup(.wide) { $0.segmentsPerRequest = 32 }
    let frontend = try ScriptedFrontend<WideFormat<ABI64>>(setup)
    let pages = try frontend.grantPages(33)
    let segments = pages.map { $0.segment() }
    frontend.direct(.write, Array(segments.prefix(32)))
    #expect(frontend.run().map(\.status) == [.okay])
    expect(frontend, .read, "33 segments") { frontend.direct(.read, Array(segments.prefix(32)), count: 33) }
    expect(frontend, .write, "255 segments") { frontend.direct(.write, Array(segments.prefix(32)), count: 255) }
    expect(frontend, .write, "no segments") { frontend.direct(.write, []) }
    expect(frontend, .write, "a bad last segment") {
      frontend.direct(.write, segments.prefix(31) + [pages[31].segment(3, 2)])
    }
    expect(frontend, .indirect, "opcode 6", status: .unsupported) { frontend.direct(.indirect, [segments[0]]) }
    expect(frontend, .segmentRun, "opcode 7", status: .unsupported) { frontend.direct(.segmentRun, [segments[0]]) }
    #expect(frontend.tearDown())
  }

  @Test(
    "segment-ring: a run must begin in the ring and be no longer than it; it may go round its end", arguments: [6, 8])
  func segmentRing(entrySize: Int) throws {
    typealias Format = SegmentRingFormat<ABI64>
    let setup = ScriptedFrontend<Format>.Setup(.segmentRing) { $0.segmentEntrySize = entrySize }
    let frontend = try ScriptedFrontend<Format>(setup)
    let count = UInt32(4096 / entrySize)
    let pages = try frontend.grantPages(20)
    for (index, page) in pages.enumerated() { page.fill(UInt8(index + 1)) }
    let segments = pages.map { $0.segment() }
    frontend.run(.write, sector: 16, start: count - 5, segments)
    #expect(frontend.run().map(\.status) == [.okay], "round the end")
    for index in 0..<20 { #expect(frontend.disk.disk.holds(UInt8(index + 1), at: 16 + UInt64(index) * 8, sectors: 8)) }
    expect(frontend, .write, "a run that begins behind the ring") { frontend.run(.write, start: count, segments) }
    expect(frontend, .read, "a run that begins far behind it") { frontend.run(.read, start: .max, segments) }
    expect(frontend, .read, "a run of nothing") { frontend.run(.read, start: 0, []) }
    expect(frontend, .read, "longer than the ring") {
      frontend.run(.read, start: 0, count: Int(count) + 1, segments)
    }
    expect(frontend, .write, "65535 segments") { frontend.run(.write, start: 0, count: 65535, segments) }
    expect(frontend, .write, "a bad last segment") {
      frontend.run(.write, start: 7, segments.prefix(12) + [pages[0].segment(0, 8)])
    }
    expect(frontend, .discard, "a run that discards") { frontend.run(.discard, start: 0, segments) }
    expect(frontend, .segmentRun, "a run of runs") { frontend.run(.segmentRun, start: 0, segments) }
    expect(frontend, .write, "behind the disk's end") { frontend.run(.write, sector: 2047, start: 0, segments) }
    expect(frontend, .indirect, "opcode 6", status: .unsupported) { frontend.direct(.indirect, [segments[0]]) }
    frontend.direct(.read, Array(segments.prefix(11)))
    #expect(frontend.run().map(\.status) == [.okay], "requests of the old form stay legal")
    #expect(frontend.tearDown())
  }

  @Test("slim64: four segments direct, 256 in the one page of descriptors")
  func slim64() throws {
    try slim(Slim64Format<ABI64>.self, .slim64, direct: 4, indirect: 256)
    try slim(Slim64Format<ABI32>.self, .slim64, direct: 4, indirect: 256, .x86_32)
  }

  @Test("slim32: two segments direct, 1024 in four pages of descriptors")
  func slim32() throws { try slim(Slim32Format.self, .slim32, direct: 2, indirect: 1024) }

  func slim<Format: RingFormat>(
    _ format: Format.Type, _ variant: RingVariant, direct: Int, indirect: Int, _ abi: BlockProtocol = .x86_64
  ) throws {
    let frontend = try ScriptedFrontend<Format>(.init(variant) { $0.blockProtocol = abi })
    let pages = try frontend.grantPages(8)
    let tables = try frontend.grantPages(4)
    let names = tables.map(\.reference)
    let good = pages.map { $0.segment() }
    frontend.direct(.write, Array(good.prefix(direct)))
    #expect(frontend.run().map(\.status) == [.okay])
    expect(frontend, .read, "one segment more") {
      frontend.direct(.read, Array(good.prefix(direct)), count: direct + 1)
    }
    expect(frontend, .read, "eleven segments") { frontend.direct(.read, Array(good.prefix(direct)), count: 11) }
    expect(frontend, .segmentRun, "opcode 7", status: .unsupported) { frontend.direct(.segmentRun, [good[0]]) }
    expect(frontend, .write, "no descriptors") { frontend.indirect(.write, count: 0, names) }
    expect(frontend, .write, "one descriptor too many") { frontend.indirect(.write, count: indirect + 1, names) }
    expect(frontend, .read, "65535 descriptors") { frontend.indirect(.read, count: 65535, names) }
    expect(frontend, .flushDiskCache, "an indirect flush") { frontend.indirect(.flushDiskCache, count: 1, names) }
    expect(frontend, .indirect, "an indirect of indirects") { frontend.indirect(.indirect, count: 1, names) }
    expect(frontend, .read, "a page of descriptors that is not granted") {
      frontend.indirect(.read, count: 1, Array(repeating: GrantReference(rawValue: 4000), count: 4))
    }
    for (rule, entry) in [
      ("behind the disk's end", (sector: UInt64(2048), segment: good[1])),
      ("one sector over the end", (sector: 2041, segment: good[1])),
      ("a sector that wraps", (sector: .max - 3, segment: good[1])),
      ("first after last", (sector: 0, segment: pages[1].segment(5, 4))),
      ("last sector 8", (sector: 0, segment: pages[1].segment(0, 8))),
      ("a page that is not granted", (sector: 0, segment: Segment(reference: .invalid, firstSector: 0, lastSector: 7))),
    ] {
      frontend.describe([(sector: 64, segment: good[0]), entry], in: tables)
      expect(frontend, .write, "a good descriptor and \(rule)") { frontend.indirect(.write, count: 2, names) }
    }
    #expect(frontend.tearDown())
  }

  @Test("a request may scatter over the disk: each descriptor goes where it says, in both directions")
  func scatter() throws {
    let frontend = try ScriptedFrontend<Slim32Format>(.init(.slim32))
    let pages = try frontend.grantPages(6)
    let tables = try frontend.grantPages(1)
    for (index, page) in pages.enumerated() { page.fill(UInt8(index + 1)) }
    // Two neighbours, one far behind, one before, and the same place twice: the last one wins.
    let places: [UInt64] = [800, 808, 2040, 0, 400, 400]
    frontend.describe(zip(places, pages).map { (sector: $0, segment: $1.segment()) }, in: tables)
    frontend.indirect(.write, count: 6, tables.map(\.reference))
    #expect(frontend.run() == [BlockResponse(id: 7, operation: .write, status: .okay)])
    #expect(
      frontend.disk.log.map { [$0.sectors.start, $0.sectors.count] } == [
        [800, 16], [2040, 8], [0, 8], [400, 8], [400, 8],
      ])
    for (byte, place) in [(1, 800), (2, 808), (3, 2040), (4, 0), (6, 400)] as [(UInt8, UInt64)] {
      #expect(frontend.disk.disk.holds(byte, at: place, sectors: 8), "\(place)")
    }
    for page in pages { page.fill(0xFF) }
    frontend.indirect(.read, count: 6, tables.map(\.reference))
    #expect(frontend.run().map(\.status) == [.okay])
    for (page, byte) in zip(pages, [1, 2, 3, 4, 6, 6] as [UInt8]) { #expect(page.holds(byte)) }
    #expect(frontend[.rd_sect] == 48 && frontend[.wr_sect] == 48 && frontend[.rd_req] == 1 && frontend[.wr_req] == 1)
    #expect(frontend.tearDown())
  }

  @Test("a scattered request ends with the first error, answers once and lets go of its pages")
  func scatteredError() throws {
    let frontend = try ScriptedFrontend<Slim32Format>(.init(.slim32))
    let pages = try frontend.grantPages(3)
    let tables = try frontend.grantPages(1)
    frontend.describe(pages.enumerated().map { (sector: UInt64($0) * 100, segment: $1.segment()) }, in: tables)
    frontend.disk.fail(.write, with: 5)
    frontend.indirect(.write, count: 3, tables.map(\.reference))
    #expect(frontend.run() == [BlockResponse(id: 7, operation: .write, status: .error)])
    #expect(frontend.disk.log.count == 1, "what follows the error is not begun")
    #expect(frontend.mappedPages == 0)
    #expect(frontend.tearDown())
  }

  @Test(
    "split rings: a front that asks beyond the room for its responses parks the queue, and no response is overwritten")
  func overcommitted() throws {
    var setup = ScriptedFrontend<ABI64>.Setup(.classic) {
      ($0.isSplit, $0.ringPages, $0.responseRingPages) = (true, 16, 1)
    }
    setup.abilities.maxIndirectSegments = 0
    let frontend = try ScriptedFrontend<ABI64>(setup)
    let page = try frontend.grantPage()
    #expect(frontend.ring.slotCount == 128 && frontend.ring.geometry.requestCount == 512)
    for id in 0..<128 { frontend.direct(.read, id: UInt64(id), [page.segment()]) }
    #expect(frontend.run().count == 128)
    let before = (0..<128).map { frontend.ring.response(UInt32($0)).id }
    frontend.direct(.read, id: 1000, [page.segment()])
    #expect(frontend.run().isEmpty, "it has not said that it read any of the 128")
    #expect(frontend.back?.isBroken == true && frontend[.ring_broken] == 1)
    #expect((0..<128).map { frontend.ring.response(UInt32($0)).id } == before)
    #expect(frontend.tearDown())
  }

  @Test(
    "split rings: a front that says what it has read is served on", arguments: [UInt32(0), 0x7FFF_FFFE, 0xFFFF_FFFE])
  func consuming(start: UInt32) throws {
    var setup = ScriptedFrontend<Slim32Format>.Setup(.slim32) {
      ($0.isSplit, $0.usesWholePage, $0.indexPlacement) = (true, true, .together)
    }
    setup.start = start
    let frontend = try ScriptedFrontend<Slim32Format>(setup)
    let page = try frontend.grantPage()
    // The scripted end finds its places by the index itself, which a count of 126 allows up to the wrap of the index.
    for lap in 0..<(start == 0 ? 10 : 1) {
      let batch = start == 0xFFFF_FFFE ? 2 : 126
      for id in 0..<batch { frontend.direct(.read, id: UInt64(lap * 126 + id), [page.segment()]) }
      #expect(frontend.run().map(\.id) == (0..<batch).map { UInt64(lap * 126 + $0) })
      frontend.ring.responseConsumer = frontend.consumed
    }
    #expect(frontend.back?.isBroken == false)
    #expect(frontend.tearDown())
  }
}

extension MemoryDisk {
  /// Whether every byte of some sectors is this one.
  func holds(_ byte: UInt8, at sector: UInt64, sectors: UInt64) -> Bool {
    (Int(sector) * 512..<Int(sector + sectors) * 512).allSatisfy { contents.load(UInt8.self, at: $0) == byte }
  }
}
