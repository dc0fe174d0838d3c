// SPDX-License-Identifier: MIT

public import XenWire

/// A ring as it lies in memory: the numbers of its geometry, as areas that can be drawn and counted.
///
/// The numbers are those that both ends of a disk run with (``RingGeometry``), so that the drawing cannot say anything else.
public struct RingPicture: Equatable, Sendable {
  /// The form of the rings.
  public let plan: RingPlan
  /// Bytes in the cache line that it is drawn with.
  public let lineSize: Int
  /// The runs of pages that the frontend grants: one, or more where rings are apart.
  public let areas: [RingArea]

  /// Lays a ring out; the plan must have no complaint.
  /// - Parameter lineSize: bytes in a cache line; nil takes the plan's alignment, or 64.
  public init(_ plan: RingPlan = RingPlan(), lineSize: Int? = nil) {
    precondition(RingPicture.complaint(plan, lineSize: lineSize) == nil, "what does not go together cannot be drawn")
    self.plan = plan
    self.lineSize = lineSize ?? (plan.alignment > 0 ? plan.alignment : BlockLimits.ringHeaderSize)
    areas = RingPicture.areas(plan, RingGeometry(plan), lineSize: self.lineSize)
  }

  /// The sentence that says why a plan cannot be drawn, or nil.
  public static func complaint(_ plan: RingPlan, lineSize: Int? = nil) -> String? {
    if ![1, 2, 4, 8, 16].contains(plan.ringPages) {
      return "a ring has 1, 2, 4, 8 or 16 pages, not \(plan.ringPages)"
    }
    if ![0, 64, 128].contains(plan.alignment) { return "slots are aligned to 64 or 128, not to \(plan.alignment)" }
    if let lineSize, ![32, 64, 128, 256].contains(lineSize) {
      return "a cache line has 32, 64, 128 or 256 bytes, not \(lineSize)"
    }
    if plan.variant == .wide, !(BlockLimits.directSegments...256).contains(plan.segmentsPerRequest) {
      return "a wide slot holds 11 to 256 segments, not \(plan.segmentsPerRequest)"
    }
    if ![6, 8].contains(plan.segmentEntrySize) {
      return "an entry of the segment ring has 6 or 8 bytes, not \(plan.segmentEntrySize)"
    }
    return plan.complaint.map { "the rings would have \($0)" }
  }

  /// The area that requests travel in.
  public var requests: RingArea { areas[0] }
  /// The area that responses travel in.
  public var responses: RingArea { plan.isSplit ? areas[1] : areas[0] }
  /// Requests in flight at once.
  public var requestSlots: Int { Int(RingGeometry(plan).depth) }
  /// Segments in a slot.
  public var directSegments: Int { plan.directSegments }
  /// Segments that one request can name in all.
  public var mostSegments: Int { plan.segmentLimit(offered: .max) }
  /// Data bytes of a request whose segments lie in its slot.
  public var directBytes: Int { directSegments * 4096 }
  /// Data bytes of the largest request.
  public var mostBytes: Int { mostSegments * 4096 }
  /// Data bytes that a full ring has in flight.
  public var bytesInFlight: Int {
    guard plan.variant == .segmentRing, let segments = areas.last else { return requestSlots * mostBytes }
    // What the segment ring cannot name goes in requests of the old form, one slot each; one slot names the whole of it.
    return segments.slotCount * 4096 + (requestSlots - 1) * directBytes
  }

  /// What the drawing shows, in a line.
  public var title: String {
    var words = [plan.variant.rawValue]
    if plan.variant == .wide { words.append("with \(plan.segmentsPerRequest) segments") }
    if plan.variant != .slim32 { words.append(plan.blockProtocol.rawValue) }
    if plan.variant == .segmentRing { words.append("entries of \(plan.segmentEntrySize) bytes") }
    if plan.isSplit { words.append(plan.indexPlacement == .apart ? "split" : "split, indices together") }
    if plan.usesWholePage { words.append("whole-page") }
    if plan.alignment > 0 { words.append("align=\(plan.alignment)") }
    words.append(plan.ringPages == 1 ? "1 page" : "\(plan.ringPages) pages")
    words.append("\(lineSize)-byte lines")
    return words.joined(separator: ", ")
  }

  private static func areas(_ plan: RingPlan, _ geometry: RingGeometry, lineSize: Int) -> [RingArea] {
    typealias Word = RingArea.Word
    let indexing: SlotIndexing = plan.usesWholePage ? .wholePage : .powerOfTwo
    let numbers = plan.format.numbers
    let requestSize = numbers.segmentsOffset + plan.directSegments * numbers.segmentStride
    let start = geometry.requestPages * 4096
    var requests = RingArea(
      name: "shared ring", pages: geometry.requestPages, lineSize: lineSize,
      words: [
        Word(name: "request producer", offset: geometry.requestProducerOffset, writer: .front),
        Word(name: "request event", offset: geometry.requestEventOffset, writer: .back),
      ], headerSize: geometry.requestsOffset, slotSize: geometry.requestStride, requestSize: requestSize,
      responseSize: geometry.responseSize, indexing: indexing)
    let back = [
      Word(name: "response producer", offset: geometry.responseProducerOffset, writer: .back),
      Word(name: "response event", offset: geometry.responseEventOffset, writer: .front),
    ]
    var areas: [RingArea] = []
    if let consumer = geometry.responseConsumerOffset {
      requests.name = "request ring"
      requests.responseSize = 0
      requests.words.append(Word(name: "response consumer", offset: consumer, writer: .front))
      let words = back.map { Word(name: $0.name, offset: $0.offset - start, writer: $0.writer) }
      areas = [
        requests,
        RingArea(
          name: "response ring", pages: geometry.responsePages, lineSize: lineSize, words: words,
          headerSize: geometry.responsesOffset - start, slotSize: geometry.responseStride, requestSize: 0,
          responseSize: geometry.responseSize, indexing: indexing),
      ]
    } else {
      requests.words += back
      areas = [requests]
    }
    if geometry.segmentPages > 0 {
      // Of an aligned entry the last two bytes are padding.
      areas.append(
        RingArea(
          name: "segment ring", pages: geometry.segmentPages, lineSize: lineSize, words: [], headerSize: 0,
          slotSize: geometry.segmentEntrySize, requestSize: min(geometry.segmentEntrySize, 6), responseSize: 0,
          indexing: .wholePage))
    }
    return areas
  }
}
