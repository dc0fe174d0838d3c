// SPDX-License-Identifier: MIT

import Testing
import XenRecords
import XenWire

/// The literal bytes of each form of each variant; docs/protocol-variants.md has the same layouts as tables.
@Suite("Requests of the proposed variants as bytes")
struct VariantImageTests {
  static let id: UInt64 = 0x1122_3344_5566_7788
  static let sector: UInt64 = 0x0102_0304_0506_0708
  static let idBytes: [UInt8] = [0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11]
  static let sectorBytes: [UInt8] = [8, 7, 6, 5, 4, 3, 2, 1]

  /// Encodes into a slot full of garbage, so that a byte that is not written shows; answers the bytes in use.
  func bytes<Format: RingFormat>(
    _ format: Format.Type, _ encode: (inout RequestSlot<Format>) -> Int
  ) throws -> [UInt8] {
    var slot = try SlotBytes.filled(format, Array(repeating: 0xA5, count: min(Format.slotSize, 128)))
    let count = encode(&slot)
    return try SlotBytes.spilled(slot, count: count)
  }

  func segment(_ index: Int) -> Segment {
    Segment(reference: GrantReference(rawValue: 0x0A0B_0C00 + UInt32(index)), firstSector: 2, lastSector: 5)
  }

  func seg8(_ index: Int) -> [UInt8] { [UInt8(index), 0x0C, 0x0B, 0x0A, 2, 5, 0, 0] }
  func seg6(_ index: Int) -> [UInt8] { [UInt8(index), 0x0C, 0x0B, 0x0A, 2, 5] }

  func direct<Format: RingFormat>(_ format: Format.Type, segments: Int) throws -> [UInt8] {
    try bytes(format) { slot in
      let count = slot.encodeDirect(.write, segmentCount: segments, handle: 0xCA10, id: Self.id, sector: Self.sector)
      for index in 0..<segments { slot.setDirectSegment(segment(index), at: index) }
      return count
    }
  }

  @Test("wide: the classic head and as many aligned segments as were agreed")
  func wide() throws {
    let segments = (0..<200).flatMap { seg8($0) }
    let head64: [UInt8] = [1, 200, 0x10, 0xCA, 0, 0, 0, 0] + Self.idBytes + Self.sectorBytes
    #expect(try direct(WideFormat<ABI64>.self, segments: 200) == head64 + segments)
    let head32: [UInt8] = [1, 200, 0x10, 0xCA] + Self.idBytes + Self.sectorBytes
    #expect(try direct(WideFormat<ABI32>.self, segments: 200) == head32 + segments)
    let most = try direct(WideFormat<ABI64>.self, segments: 256)
    #expect(most.prefix(4) == [1, 0, 0x10, 0xCA] && most.count == 2072, "256 is 0 in eight bits, and spills nowhere")
    #expect(try SlotBytes.filled(WideFormat<ABI64>.self, Array(most.prefix(112))).directSegmentCount == 256)
    let flush = try bytes(WideFormat<ABI64>.self) {
      $0.encodeDirect(.flushDiskCache, segmentCount: 0, handle: 0, id: 1, sector: 0)
    }
    #expect(try SlotBytes.filled(WideFormat<ABI64>.self, flush).directSegmentCount == 0)
  }

  @Test("segment-ring: the run's start and length stand where the segments were")
  func run() throws {
    let form: (BlockOperation) -> [UInt8] = { [7, $0.rawValue, 0x10, 0xCA] }
    let tail: [UInt8] = [0x55, 1, 0, 0, 0x56, 1, 0, 0]
    let run64 = try bytes(SegmentRingFormat<ABI64>.self) {
      $0.encodeRun(.write, start: 341, count: 342, handle: 0xCA10, id: Self.id, sector: Self.sector)
    }
    #expect(run64 == form(.write) + [0, 0, 0, 0] + Self.idBytes + Self.sectorBytes + tail)
    let run32 = try bytes(SegmentRingFormat<ABI32>.self) {
      $0.encodeRun(.read, start: 341, count: 342, handle: 0xCA10, id: Self.id, sector: Self.sector)
    }
    #expect(run32 == form(.read) + Self.idBytes + Self.sectorBytes + tail)
    let slot = try SlotBytes.filled(SegmentRingFormat<ABI64>.self, run64)
    #expect(slot.operation == .segmentRun && slot.innerOperation == .write && slot.id == Self.id)
    #expect(slot.sector == Self.sector && slot.runStart == 341 && slot.runCount == 342 && slot.directHandle == 0xCA10)
    #expect(try direct(SegmentRingFormat<ABI64>.self, segments: 11) == direct(ABI64.self, segments: 11))
    #expect(try direct(SegmentRingFormat<ABI32>.self, segments: 11) == direct(ABI32.self, segments: 11))
  }

  @Test("slim64: four segments end at byte 56, where the protection information begins")
  func slim64() throws {
    let segments = (0..<4).flatMap { seg8($0) }
    let direct64 = try direct(Slim64Format<ABI64>.self, segments: 4)
    #expect(direct64 == [1, 4, 0x10, 0xCA, 0, 0, 0, 0] + Self.idBytes + Self.sectorBytes + segments)
    #expect(direct64.count == 56)
    #expect(try direct(Slim64Format<ABI32>.self, segments: 4).count == 52)
    #expect(try direct(Slim64Format<ABI64>.self, segments: 4) == direct(ABI64.self, segments: 4))
    #expect(Slim64Format<ABI64>.protectionOffset == 56 && Slim64Format<ABI64>.slotSize == 64)
  }

  @Test("slim64: the indirect form has one reference, four unused segments and the count behind them")
  func slim64Indirect() throws {
    let unused = [UInt8](repeating: 0, count: 32)
    let indirect64 = try bytes(Slim64Format<ABI64>.self) {
      let count = $0.encodeIndirect(.read, segmentCount: 0x0102, handle: 0xCA10, id: Self.id, sector: 99)
      $0.setIndirectReference(GrantReference(rawValue: 0x0A0B_0C0D), at: 0)
      return count
    }
    let head: [UInt8] = [6, 0, 0x10, 0xCA]
    #expect(indirect64 == head + [0, 0, 0, 0] + Self.idBytes + [0x0D, 0x0C, 0x0B, 0x0A] + unused + [2, 1])
    #expect(indirect64.count == 54, "the thread's 52 bytes and the count")
    let indirect32 = try bytes(Slim64Format<ABI32>.self) {
      let count = $0.encodeIndirect(.read, segmentCount: 0x0102, handle: 0xCA10, id: Self.id, sector: 99)
      $0.setIndirectReference(GrantReference(rawValue: 0x0A0B_0C0D), at: 0)
      return count
    }
    #expect(indirect32 == head + Self.idBytes + [0x0D, 0x0C, 0x0B, 0x0A] + unused + [2, 1])
    #expect(indirect32.count == 50, "the thread's 48 bytes and the count")
    let slot = try SlotBytes.filled(Slim64Format<ABI64>.self, indirect64)
    #expect(slot.indirectSegmentCount == 0x0102 && slot.id == Self.id && slot.sector == 0)
    #expect(slot.indirectHandle == 0xCA10 && slot.indirectReference(0).rawValue == 0x0A0B_0C0D)
  }

  @Test("slim32: every form is packed, and the id is elsewhere in each")
  func slim32() throws {
    let direct = try direct(Slim32Format.self, segments: 2)
    #expect(direct == [1, 2, 0x10, 0xCA] + Self.idBytes + Self.sectorBytes + seg6(0) + seg6(1))
    #expect(direct.count == 32)
    let indirect = try bytes(Slim32Format.self) {
      let count = $0.encodeIndirect(.write, segmentCount: 1024, handle: 0xCA10, id: Self.id, sector: 99)
      for page in 0..<4 { $0.setIndirectReference(GrantReference(rawValue: 0x100 + UInt32(page)), at: page) }
      return count
    }
    let references: [UInt8] = [0, 1, 0, 0, 1, 1, 0, 0, 2, 1, 0, 0, 3, 1, 0, 0]
    #expect(indirect == [6, 1, 0, 4, 0x10, 0xCA] + Self.idBytes + references)
    #expect(indirect.count == 30)
    let discard = try bytes(Slim32Format.self) {
      $0.encodeDiscard(isSecure: true, handle: 0xCA10, id: Self.id, sector: Self.sector, count: 0x1_0000_0000)
    }
    #expect(discard == [5, 1] + Self.idBytes + Self.sectorBytes + [0, 0, 0, 0, 1, 0, 0, 0])
    #expect(discard.count == 26)
  }

  @Test("slim32: each form is read back from its bytes")
  func slim32Decoding() throws {
    let direct = try SlotBytes.filled(Slim32Format.self, direct(Slim32Format.self, segments: 2))
    #expect(direct.id == Self.id && direct.sector == Self.sector && direct.directSegmentCount == 2)
    #expect(direct.directSegment(0) == segment(0) && direct.directSegment(1) == segment(1))
    let indirect = try SlotBytes.filled(
      Slim32Format.self, [6, 1, 0, 4, 0x10, 0xCA] + Self.idBytes + [UInt8](repeating: 9, count: 16))
    #expect(indirect.operation == .indirect && indirect.innerOperation == .write && indirect.id == Self.id)
    #expect(indirect.indirectSegmentCount == 1024 && indirect.indirectHandle == 0xCA10 && indirect.sector == 0)
    #expect(indirect.indirectReference(3).rawValue == 0x0909_0909)
    let discard = try SlotBytes.filled(
      Slim32Format.self, [5, 1] + Self.idBytes + Self.sectorBytes + [0, 0, 0, 0, 1, 0, 0, 0])
    #expect(discard.operation == .discard && discard.id == Self.id && discard.sector == Self.sector)
    #expect(discard.discardCount == 0x1_0000_0000 && discard.discardFlag == 1)
  }

  @Test("the offsets of slim32 and the sizes of all variants are the reference's")
  func golden() throws {
    let vectors = try GoldenVectors.load()
    let slim = vectors.slim32
    #expect(slim["rw"]?["id"]?.first == Slim32Format.idOffset)
    #expect(slim["rw"]?["sector_number"]?.first == Slim32Format.sectorOffset)
    #expect(slim["rw"]?["seg"] == [Slim32Format.segmentsOffset, 2 * Slim32Format.segmentStride])
    #expect(slim["indirect"]?["nr_indirect"]?.first == Slim32Format.indirectCountOffset)
    #expect(slim["indirect"]?["handle"]?.first == Slim32Format.indirectHandleOffset)
    #expect(slim["indirect"]?["id"]?.first == Slim32Format.indirectIDOffset)
    #expect(slim["indirect"]?["gref"] == [Slim32Format.indirectReferencesOffset, 4 * Slim32Format.indirectPages])
    #expect(slim["discard"]?["id"]?.first == Slim32Format.discardIDOffset)
    #expect(slim["discard"]?["sector_number"]?.first == Slim32Format.discardSectorOffset)
    #expect(slim["discard"]?["nr_sectors"]?.first == Slim32Format.discardCountOffset)
    #expect(Slim32Format.indirectSize == 30 && Slim32Format.slotSize == 32 && Slim32Format.indirectSegments == 1024)
    #expect(Slim64Format<ABI64>.indirectSegments == 256 && WideFormat<ABI64>.slotSize == 2072)
  }

  @Test("the run-time numbers of a format are its compile-time ones, for every format")
  func numbers() {
    for format in SlotFormat.allCases {
      let numbers = format.numbers
      #expect(numbers.slotSize <= SlotMemory.byteCount)
      #expect(numbers.segmentsOffset + numbers.directSegments * numbers.segmentStride <= numbers.slotSize)
    }
    #expect(SlotFormat.slim32.numbers == FormatNumbers(Slim32Format.self))
    #expect(SlotFormat.slim64On32.numbers == FormatNumbers(Slim64Format<ABI32>.self))
    #expect(SlotFormat.wide32.numbers == FormatNumbers(WideFormat<ABI32>.self))
  }
}
