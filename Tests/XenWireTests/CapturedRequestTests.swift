// SPDX-License-Identifier: MIT

import Testing
import XenRecords
import XenWire

@Suite("Requests of a real Linux blkfront")
struct CapturedRequestTests {
  /// The bytes of each form that mean something; the others are padding or whatever stood in the slot before.
  ///
  /// Linux does not write the handle of a discard: its slot shows what was there before (16 in one capture).
  static func meaningful(_ request: CapturedRequest) -> [Range<Int>] {
    switch request.form {
    case .direct: [0..<4, 8..<24] + request.pieces.indices.map { 24 + 8 * $0..<30 + 8 * $0 }
    case .discard: [0..<2, 8..<32]
    case .indirect: [0..<4, 8..<26, 28..<32]
    }
  }

  @Test("the decoder reads every captured slot as the other decoder did", arguments: try CapturedRequest.all())
  func decoding(request: CapturedRequest) throws {
    let slot = try SlotBytes.filled(ABI64.self, request.slot)
    #expect(slot.id == request.number("id"))
    #expect(slot.sector == request.number("sector"))
    switch request.form {
    case .direct:
      #expect(UInt64(slot.operation.rawValue) == request.number("operation"))
      #expect(UInt64(slot.directHandle) == request.number("handle"))
      #expect(slot.directSegmentCount == request.pieces.count)
      for (index, piece) in request.pieces.enumerated() { expect(slot.directSegment(index), piece) }
    case .discard:
      #expect(slot.operation == .discard)
      #expect(UInt64(slot.discardFlag) == request.number("flag"))
      #expect(slot.discardCount == request.number("count"))
      #expect(UInt64(slot.directHandle) == request.number("handle"))
    case .indirect:
      #expect(slot.operation == .indirect)
      #expect(UInt64(slot.innerOperation.rawValue) == request.number("inner"))
      #expect(UInt64(slot.indirectHandle) == request.number("handle"))
      #expect(slot.indirectSegmentCount == request.pieces.count)
      #expect(UInt64(slot.indirectReference(0).rawValue) == request.number("page"))
      #expect(request.descriptors.count == 8 * request.pieces.count)
      for (index, piece) in request.pieces.enumerated() { expect(Self.segment(request.descriptors, index), piece) }
    }
  }

  @Test("the encoder writes every byte of a captured slot that means something", arguments: try CapturedRequest.all())
  func encoding(request: CapturedRequest) throws {
    let id = try #require(request.number("id"))
    let sector = try #require(request.number("sector"))
    var slot = RequestSlot<ABI64>()
    switch request.form {
    case .direct:
      let operation = BlockOperation(rawValue: UInt8(try #require(request.number("operation"))))
      slot.encodeDirect(operation, segmentCount: request.pieces.count, handle: 51712, id: id, sector: sector)
      for (index, piece) in request.pieces.enumerated() { slot.setDirectSegment(Self.segment(piece), at: index) }
    case .discard:
      slot.encodeDiscard(
        isSecure: request.number("flag") == 1, handle: 51712, id: id, sector: sector,
        count: try #require(request.number("count")))
    case .indirect:
      let inner = BlockOperation(rawValue: UInt8(try #require(request.number("inner"))))
      slot.encodeIndirect(inner, segmentCount: request.pieces.count, handle: 51712, id: id, sector: sector)
      slot.setIndirectReference(
        GrantReference(rawValue: UInt32(try #require(request.number("page")))), at: 0)
      for (index, piece) in request.pieces.enumerated() {
        let bytes = withBytes(of: Self.segment(piece).bits)
        #expect(bytes.prefix(6) == request.descriptors[8 * index..<8 * index + 6])
      }
    }
    let written = try SlotBytes.spilled(slot)
    for range in Self.meaningful(request) { #expect(written[range] == request.slot[range], "bytes \(range)") }
  }

  @Test("all three forms and both directions are among the captures")
  func variety() throws {
    let requests = try CapturedRequest.all()
    #expect(Set(requests.map(\.form)) == [.direct, .indirect, .discard])
    #expect(Set(requests.compactMap { $0.number("operation") }) == [0, 1, 3])
    #expect(Set(requests.compactMap { $0.number("inner") }) == [0, 1])
    #expect(requests.contains { $0.pieces.count > 200 })
    #expect(requests.contains { $0.form == .direct && $0.pieces.count == 11 })
  }

  private func expect(_ segment: Segment, _ piece: CapturedRequest.Piece) {
    #expect(segment == Self.segment(piece))
    #expect(segment.isValid)
  }

  static func segment(_ piece: CapturedRequest.Piece) -> Segment {
    Segment(reference: GrantReference(rawValue: piece.reference), firstSector: piece.first, lastSector: piece.last)
  }

  static func segment(_ bytes: [UInt8], _ index: Int) -> Segment {
    Segment(bits: bytes[8 * index..<8 * index + 8].reversed().reduce(UInt64(0)) { $0 << 8 | UInt64($1) })
  }

  private func withBytes(of bits: UInt64) -> [UInt8] { (0..<8).map { UInt8(truncatingIfNeeded: bits >> (8 * $0)) } }
}
