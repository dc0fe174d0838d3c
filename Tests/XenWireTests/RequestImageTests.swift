// SPDX-License-Identifier: MIT

import Testing
import XenRecords
import XenWire

@Suite("Requests as bytes, against images made by the C headers")
struct RequestImageTests {
  let golden: GoldenVectors

  init() throws { golden = try GoldenVectors.load() }

  /// Runs a check for the three ABIs, each with the C headers' name for its layout.
  func forEachABI(_ check: some Checker) throws {
    try check.run(ABI64.self, "x86_64", golden)
    try check.run(ABI32.self, "x86_32", golden)
    try check.run(ABIArm.self, "x86_64", golden)
  }

  protocol Checker {
    func run<ABI: RingFormat>(_ abi: ABI.Type, _ name: String, _ golden: GoldenVectors) throws
  }

  struct Encoding: Checker {
    func run<ABI: RingFormat>(_ abi: ABI.Type, _ name: String, _ golden: GoldenVectors) throws {
      var slot = RequestSlot<ABI>()
      var count = slot.encodeDirect(
        .read, segmentCount: 2, handle: 0xCA00, id: 0x1122_3344_5566_7788, sector: 0x0102_0304_0506_0708)
      slot.setDirectSegment(Self.segment(8, 0, 7), at: 0)
      slot.setDirectSegment(Self.segment(0x1234, 2, 5), at: 1)
      #expect(count == ABI.segmentsOffset + 16)
      #expect(try SlotBytes.spilled(slot) == golden.image(name, "read_request"))

      slot = RequestSlot<ABI>()
      count = slot.encodeDirect(.write, segmentCount: 11, handle: 0xCA10, id: 31, sector: 2048)
      for index in 0..<11 { slot.setDirectSegment(Self.segment(UInt32(100 + index), 0, 7), at: index) }
      #expect(count == ABI.slotSize)
      #expect(try SlotBytes.spilled(slot) == golden.image(name, "write_request_11seg"))

      slot = RequestSlot<ABI>()
      slot.encodeDirect(.flushDiskCache, segmentCount: 0, handle: 0xCA00, id: 5, sector: 0)
      #expect(try SlotBytes.spilled(slot) == golden.image(name, "flush_request_empty"))

      slot = RequestSlot<ABI>()
      count = slot.encodeDiscard(isSecure: true, handle: 0xCA00, id: 7, sector: 4096, count: 0x1_0000_0000)
      #expect(try SlotBytes.spilled(slot, count: count) == golden.image(name, "discard_request"))

      slot = RequestSlot<ABI>()
      count = slot.encodeIndirect(.write, segmentCount: 32, handle: 0xCA00, id: 9, sector: 0x8000)
      for page in 0..<8 { slot.setIndirectReference(GrantReference(rawValue: UInt32(200 + page)), at: page) }
      let image = try #require(golden.image(name, "indirect_request"))
      #expect(try SlotBytes.spilled(slot, count: image.count) == image)
      #expect(count == ABI.indirectReferencesOffset + 32)
    }

    static func segment(_ reference: UInt32, _ first: UInt8, _ last: UInt8) -> Segment {
      Segment(reference: GrantReference(rawValue: reference), firstSector: first, lastSector: last)
    }
  }

  struct Decoding: Checker {
    func run<ABI: RingFormat>(_ abi: ABI.Type, _ name: String, _ golden: GoldenVectors) throws {
      let read = try SlotBytes.filled(abi, try #require(golden.image(name, "read_request")))
      #expect(read.operation == .read && read.directSegmentCount == 2 && read.directHandle == 0xCA00)
      #expect(read.id == 0x1122_3344_5566_7788 && read.sector == 0x0102_0304_0506_0708)
      #expect(read.directSegment(0) == Encoding.segment(8, 0, 7))
      #expect(read.directSegment(1) == Encoding.segment(0x1234, 2, 5))

      let write = try SlotBytes.filled(abi, try #require(golden.image(name, "write_request_11seg")))
      #expect(write.operation == .write && write.directSegmentCount == 11 && write.id == 31 && write.sector == 2048)
      #expect(write.directHandle == 0xCA10)
      for index in 0..<11 { #expect(write.directSegment(index) == Encoding.segment(UInt32(100 + index), 0, 7)) }

      let flush = try SlotBytes.filled(abi, try #require(golden.image(name, "flush_request_empty")))
      #expect(flush.operation == .flushDiskCache && flush.directSegmentCount == 0 && flush.id == 5)

      let discard = try SlotBytes.filled(abi, try #require(golden.image(name, "discard_request")))
      #expect(discard.operation == .discard && discard.discardFlag == 1 && discard.directHandle == 0xCA00)
      #expect(discard.id == 7 && discard.sector == 4096 && discard.discardCount == 0x1_0000_0000)

      let indirect = try SlotBytes.filled(abi, try #require(golden.image(name, "indirect_request")))
      #expect(indirect.operation == .indirect && indirect.innerOperation == .write)
      #expect(indirect.indirectSegmentCount == 32 && indirect.id == 9 && indirect.sector == 0x8000)
      #expect(indirect.indirectHandle == 0xCA00)
      for page in 0..<8 { #expect(indirect.indirectReference(page).rawValue == UInt32(200 + page)) }
    }
  }

  struct Reuse: Checker {
    func run<ABI: RingFormat>(_ abi: ABI.Type, _ name: String, _ golden: GoldenVectors) throws {
      var slot = try SlotBytes.filled(abi, Array(repeating: 0xA5, count: ABI.slotSize))
      let count = slot.encodeIndirect(.read, segmentCount: 513, handle: 1, id: 2, sector: 3)
      slot.setIndirectReference(GrantReference(rawValue: 77), at: 0)
      slot.setIndirectReference(GrantReference(rawValue: 78), at: 1)
      let bytes = try SlotBytes.spilled(slot, count: count)
      #expect(!bytes.contains(0xA5), "old bytes shine through in \(ABI.name)")
      let again = try SlotBytes.filled(abi, bytes)
      #expect((0..<8).map { again.indirectReference($0).rawValue } == [77, 78, 0, 0, 0, 0, 0, 0])

      slot = try SlotBytes.filled(abi, Array(repeating: 0xA5, count: ABI.slotSize))
      let direct = slot.encodeDirect(.write, segmentCount: 1, handle: 1, id: 2, sector: 3)
      slot.setDirectSegment(Encoding.segment(9, 0, 0), at: 0)
      #expect(try !SlotBytes.spilled(slot, count: direct).contains(0xA5))
      let discard = slot.encodeDiscard(isSecure: false, handle: 1, id: 2, sector: 3, count: 4)
      #expect(try !SlotBytes.spilled(slot, count: discard).contains(0xA5))
    }
  }

  @Test("the encoder writes the C image of every form, byte for byte")
  func encoding() throws { try forEachABI(Encoding()) }

  @Test("the decoder reads the C image of every form")
  func decoding() throws { try forEachABI(Decoding()) }

  @Test("a slot that is used again lets no old byte out")
  func reuse() throws { try forEachABI(Reuse()) }
}
