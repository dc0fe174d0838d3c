// SPDX-License-Identifier: MIT

import BlockBack
import BlockIO
import GuestMemory
import PVPeers
import PVTestSupport
import Testing
import XenWire

@Suite("A backend that is told what its data must be")
struct ProtectionRuleTests {
  /// The eight bytes of a tuple in memory.
  static func tuple(_ guardTag: UInt16, sector: UInt32) -> UInt64 {
    (UInt64(guardTag) << 48 | UInt64(sector)).bigEndian
  }

  /// CRC-16/T10-DIF, bit by bit: an implementation of its own to hold the product's against.
  static func crc(_ bytes: [UInt8]) -> UInt16 {
    bytes.reduce(UInt16(0)) { crc, byte in
      (0..<8).reduce(crc ^ UInt16(byte) << 8) { value, _ in value & 0x8000 != 0 ? value << 1 ^ 0x8BB7 : value << 1 }
    }
  }

  func slotFrontend() throws -> (ScriptedFrontend<Slim64Format<ABI64>>, GrantedPage) {
    let frontend = try ScriptedFrontend<Slim64Format<ABI64>>(.init(.slim64) { $0.protection = .slot })
    let page = try frontend.grantPage()
    page.fill(0xA5)
    return (frontend, page)
  }

  func write(_ frontend: ScriptedFrontend<Slim64Format<ABI64>>, _ page: GrantedPage, _ tuple: UInt64) -> [BlockStatus] {
    frontend.put { slot in
      let count = slot.encodeDirect(.write, segmentCount: 1, handle: 0, id: 7, sector: 80)
      slot.setDirectSegment(page.segment(), at: 0)
      _ = slot.encodeProtection(tuple, behind: count)
    }
    return frontend.run().map(\.status)
  }

  @Test("slot: a write whose data, or whose place, is not what the slot says never reaches the disk")
  func slotWrites() throws {
    let (frontend, page) = try slotFrontend()
    let good = Self.crc(Array(repeating: 0xA5, count: 4096))
    #expect(write(frontend, page, Self.tuple(good, sector: 80)) == [.okay])
    #expect(frontend.disk.log.count == 1)
    #expect(write(frontend, page, Self.tuple(good, sector: 88)) == [.error], "meant for another place")
    #expect(write(frontend, page, Self.tuple(good ^ 1, sector: 80)) == [.error])
    #expect(write(frontend, page, 0) == [.error])
    page.region.store(UInt8(0xA4), at: 1000)
    #expect(write(frontend, page, Self.tuple(good, sector: 80)) == [.error], "one bit has flipped in the granted page")
    #expect(frontend.disk.log.count == 1 && frontend[.protection_errors] == 4)
    #expect(frontend.tearDown())
  }

  @Test("slot: the answer to a read says what was read, and nothing else says anything")
  func slotReads() throws {
    let (frontend, page) = try slotFrontend()
    frontend.disk.disk.contents.fill(0x3C, at: 80 * 512, byteCount: 4096)
    frontend.direct(.read, sector: 80, [page.segment()])
    #expect(frontend.run().map(\.status) == [.okay])
    let answer = frontend.ring.responseSlot(0).load(UInt64.self, at: 56)
    #expect(answer == Self.tuple(Self.crc(Array(repeating: 0x3C, count: 4096)), sector: 80))
    frontend.direct(.read, sector: 4000, [page.segment()])
    #expect(frontend.run().map(\.status) == [.error])
    #expect(frontend.ring.responseSlot(1).load(UInt64.self, at: 56) == 0)
    #expect(frontend.tearDown())
  }

  /// A backend that wants a tuple for each sector, two pages of data and a page of tuples.
  func sectorFrontend() throws -> (ScriptedFrontend<ABI64>, [GrantedPage]) {
    let frontend = try ScriptedFrontend<ABI64>(.init(.classic) { $0.protection = .sector })
    let pages = try frontend.grantPages(3)
    for (index, page) in pages.prefix(2).enumerated() { page.fill(UInt8(index + 1)) }
    for sector in 0..<16 {
      let guardTag = Self.crc(Array(repeating: UInt8(sector / 8 + 1), count: 512))
      pages[2].region.store(Self.tuple(guardTag, sector: 80 + UInt32(sector)), at: sector * 8)
    }
    return (frontend, pages)
  }

  func tuples(_ page: GrantedPage, _ first: UInt8 = 0x80, _ last: UInt8 = 0x80) -> Segment { page.segment(first, last) }

  @Test("sector: every sector of a write is held against its tuple")
  func sectorWrites() throws {
    let (frontend, pages) = try sectorFrontend()
    let segments = [pages[0].segment(), pages[1].segment(), tuples(pages[2])]
    frontend.direct(.write, sector: 80, segments)
    #expect(frontend.run().map(\.status) == [.okay])
    #expect(frontend.disk.log.map { [$0.sectors.start, $0.sectors.count] } == [[80, 16]], "the tuples are no data")
    frontend.direct(.write, sector: 88, segments)
    #expect(frontend.run().map(\.status) == [.error], "a write that went astray")
    for place in [0, 4095, 4096, 8191] {
      let region = pages[place / 4096].region
      let byte = region.load(UInt8.self, at: place % 4096)
      region.store(byte ^ 0x10, at: place % 4096)
      frontend.direct(.write, sector: 80, segments)
      #expect(frontend.run().map(\.status) == [.error], "a bit of byte \(place) has flipped")
      region.store(byte, at: place % 4096)
    }
    #expect(frontend[.protection_errors] == 5 && frontend.disk.log.count == 1)
    #expect(frontend.tearDown())
  }

  @Test("sector: a read comes with its tuples")
  func sectorReads() throws {
    let (frontend, pages) = try sectorFrontend()
    pages[2].fill(0xEE)
    frontend.disk.disk.contents.fill(0x3C, at: 80 * 512, byteCount: 8192)
    frontend.direct(.read, sector: 80, [pages[0].segment(), pages[1].segment(), tuples(pages[2])])
    #expect(frontend.run().map(\.status) == [.okay])
    let guardTag = Self.crc(Array(repeating: 0x3C, count: 512))
    for sector in 0..<16 {
      #expect(pages[2].region.load(UInt64.self, at: sector * 8) == Self.tuple(guardTag, sector: 80 + UInt32(sector)))
    }
    #expect(pages[2].region.load(UInt64.self, at: 128) == 0xEEEE_EEEE_EEEE_EEEE, "and nothing behind them is written")
    #expect(frontend.tearDown())
  }

  @Test("sector: pages of tuples that are missing, too many, misplaced or misnamed are errors")
  func sectorShapes() throws {
    let (frontend, pages) = try sectorFrontend()
    let (one, two) = (pages[0].segment(), pages[1].segment())
    let bad: [[Segment]] = [
      [one, two], [tuples(pages[2])], [one, two, tuples(pages[2]), tuples(pages[2])], [one, tuples(pages[2]), two],
      [one, two, tuples(pages[2], 0x81, 0x81)], [one, two, tuples(pages[2], 0x80, 0x88)],
      [one, two, tuples(pages[2], 0x80, 0)], [one, two, tuples(pages[2], 0xFF, 0xFF)],
      [one, two, Segment(reference: .invalid, firstSector: 0x80, lastSector: 0x80)],
    ]
    for (index, segments) in bad.enumerated() {
      frontend.direct(index % 2 == 0 ? .write : .read, sector: 80, segments)
      #expect(frontend.run().map(\.status) == [.error], "case \(index)")
    }
    #expect(frontend.disk.log.isEmpty && frontend.mappedPages == 0)
    #expect(frontend.tearDown())
  }
}
