// SPDX-License-Identifier: MIT

public import XenWire

/// The wire forms of a block ring: what Linux speaks, and what the overhaul of 2012 proposed.
public enum RingVariant: String, CaseIterable, Sendable {
  /// What Linux speaks: 11 segments in a slot, more through descriptor pages.
  case classic
  /// Spectra Logic's: as many segments in a slot as both ends agree on.
  case wide
  /// Intel's: a ring of segments beside the ring of requests.
  case segmentRing = "segment-ring"
  /// Konrad Wilk's: 64 bytes, 4 segments, one page of 16-byte indirect entries.
  case slim64
  /// Roger Pau Monné's: 32 bytes, 2 segments, four pages of indirect entries.
  case slim32
}

/// Where the index words of split rings are.
public enum IndexPlacement: String, CaseIterable, Sendable {
  /// Each end's words on a line of their own.
  case apart
  /// All in the first line of the page, as the thread's text can be read.
  case together
}

/// What a ring is drawn from.
public struct RingOptions: Equatable, Sendable {
  /// The wire form.
  public var variant = RingVariant.classic
  /// The ABI, for the forms that have more than one.
  public var abi = BlockProtocol.x86_64
  /// Pages of the ring: 1, 2, 4, 8 or 16.
  public var pages = 1
  /// 64 or 128 rounds header and slots up to the line; nil leaves them as they are.
  public var alignment: Int?
  /// Whether requests and responses have rings of their own.
  public var isSplit = false
  /// Where split rings have their index words.
  public var indexPlacement = IndexPlacement.apart
  /// Whether every slot that fits is used.
  public var isWholePage = false
  /// Segments in a slot of the wide form.
  public var wideSegments = 32
  /// Whether the segment ring's entries are packed to six bytes.
  public var isPacked = false
  /// Bytes in the machine's cache line, when it is not the alignment.
  public var lineSize: Int?

  /// One classic ring of one page.
  public init() {}

  /// The cache line that the ring is drawn with.
  public var drawnLineSize: Int { lineSize ?? alignment ?? 64 }

  /// The sentence that says what does not go together, or nil.
  public var complaint: String? {
    if ![1, 2, 4, 8, 16].contains(pages) { return "a ring has 1, 2, 4, 8 or 16 pages, not \(pages)" }
    if let alignment, alignment != 64, alignment != 128 { return "slots are aligned to 64 or 128, not to \(alignment)" }
    if ![32, 64, 128, 256].contains(drawnLineSize) {
      return "a cache line has 32, 64, 128 or 256 bytes, not \(drawnLineSize)"
    }
    if !(1...256).contains(wideSegments) { return "a slot holds 1 to 256 segments, not \(wideSegments)" }
    if isPacked, variant != .segmentRing { return "only the segment ring's entries can be packed to six bytes" }
    if variant == .slim32, abi != .x86_64 { return "a slim32 slot is the same on every ABI" }
    return nil
  }
}

/// A ring as it lies in memory, computed from the sizes of its parts.
public struct RingPicture: Equatable, Sendable {
  /// What it was made from.
  public let options: RingOptions
  /// The runs of pages that the frontend grants: one, or more where rings are apart.
  public let areas: [RingArea]
  /// Segments in a slot.
  public let directSegments: Int
  /// Segments that one request can name in all.
  public let mostSegments: Int
  /// Bytes of a segment in a slot.
  public let segmentSize: Int

  /// Lays a ring out; the options must have no complaint.
  public init(_ options: RingOptions) {
    precondition(options.complaint == nil, "what does not go together cannot be drawn")
    self.options = options
    let form = SlotForm(options)
    directSegments = form.directSegments
    mostSegments = form.mostSegments
    segmentSize = form.segmentSize
    var areas = options.isSplit ? RingPicture.splitAreas(options, form) : [RingPicture.sharedArea(options, form)]
    if options.variant == .segmentRing { areas.append(RingPicture.segmentArea(options)) }
    self.areas = areas
  }

  /// The area that requests travel in.
  public var requests: RingArea { areas[0] }
  /// Requests in flight at once.
  public var requestSlots: Int {
    guard options.isSplit else { return requests.slotCount }
    return min(requests.slotCount, areas[1].slotCount)
  }
  /// Data bytes of a request whose segments lie in its slot.
  public var directBytes: Int { directSegments * 4096 }
  /// Data bytes of the largest request.
  public var mostBytes: Int { mostSegments * 4096 }
  /// Data bytes that a full ring has in flight.
  public var bytesInFlight: Int {
    guard options.variant == .segmentRing, let segments = areas.last else { return requestSlots * mostBytes }
    // What the segment ring cannot name goes in requests of the old form, one slot each; one slot names the whole of it.
    return segments.slotCount * 4096 + (requestSlots - 1) * directBytes
  }

  /// What the drawing shows, in a line.
  public var title: String {
    var words = [options.variant.rawValue]
    if options.variant == .wide { words.append("with \(options.wideSegments) segments") }
    if options.variant != .slim32 { words.append(options.abi.rawValue) }
    if options.isPacked { words.append("packed segments") }
    if options.isSplit { words.append(options.indexPlacement == .apart ? "split" : "split, indices together") }
    if options.isWholePage { words.append("whole-page") }
    if let alignment = options.alignment { words.append("align=\(alignment)") }
    words.append(options.pages == 1 ? "1 page" : "\(options.pages) pages")
    words.append("\(options.drawnLineSize)-byte lines")
    return words.joined(separator: ", ")
  }

  private static func sharedArea(_ options: RingOptions, _ form: SlotForm) -> RingArea {
    let header = max(BlockLimits.ringHeaderSize, options.alignment ?? 0)
    // With a header of two lines, what the back writes goes to the second.
    let isApart = header > BlockLimits.ringHeaderSize
    return RingArea(
      name: "shared ring", pages: options.pages, lineSize: options.drawnLineSize,
      words: [
        RingArea.Word(name: "request producer", offset: 0, writer: .front),
        RingArea.Word(name: "request event", offset: isApart ? 68 : 4, writer: .back),
        RingArea.Word(name: "response producer", offset: isApart ? 64 : 8, writer: .back),
        RingArea.Word(name: "response event", offset: isApart ? 4 : 12, writer: .front),
      ], headerSize: header, slotSize: options.aligned(form.slotSize), requestSize: form.requestSize,
      responseSize: form.responseSize, indexing: options.indexing)
  }

  private static func splitAreas(_ options: RingOptions, _ form: SlotForm) -> [RingArea] {
    let line = max(BlockLimits.ringHeaderSize, options.alignment ?? 0)
    let isApart = options.indexPlacement == .apart
    let requests = RingArea(
      name: "request ring", pages: options.pages, lineSize: options.drawnLineSize,
      words: [
        RingArea.Word(name: "request producer", offset: 0, writer: .front),
        RingArea.Word(name: "response consumer", offset: isApart ? 4 : 8, writer: .front),
        RingArea.Word(name: "request event", offset: isApart ? line : 4, writer: .back),
      ], headerSize: isApart ? 2 * line : line, slotSize: options.aligned(form.slotSize),
      requestSize: form.requestSize, responseSize: 0, indexing: options.indexing)
    var responses = RingArea(
      name: "response ring", pages: 1, lineSize: options.drawnLineSize,
      words: [
        RingArea.Word(name: "response producer", offset: 0, writer: .back),
        RingArea.Word(name: "response event", offset: isApart ? line : 4, writer: .front),
      ], headerSize: requests.headerSize, slotSize: form.responseSize, requestSize: 0,
      responseSize: form.responseSize, indexing: options.indexing)
    while responses.slotCount < requests.slotCount { responses.pages *= 2 }
    return [requests, responses]
  }

  /// The ring of segments: no header, as many entries as fit.
  private static func segmentArea(_ options: RingOptions) -> RingArea {
    let size = options.isPacked ? SlotForm.packedSegmentSize : BlockLimits.segmentSize
    return RingArea(
      name: "segment ring", pages: 1, lineSize: options.drawnLineSize, words: [], headerSize: 0, slotSize: size,
      requestSize: options.isPacked ? size : size - 2, responseSize: 0, indexing: .wholePage)
  }
}

extension RingOptions {
  var indexing: SlotIndexing { isWholePage ? .wholePage : .powerOfTwo }

  func aligned(_ size: Int) -> Int {
    guard let alignment else { return size }
    return (size + alignment - 1) / alignment * alignment
  }
}

/// The sizes of one slot.
struct SlotForm {
  static let packedSegmentSize = 6
  static let indirectEntrySize = 16

  var slotSize: Int
  var requestSize: Int
  var responseSize: Int
  var directSegments: Int
  var mostSegments: Int
  var segmentSize = BlockLimits.segmentSize

  init(_ options: RingOptions) {
    let is32 = options.abi == .x86_32
    responseSize = is32 ? ABI32.responseSize : ABI64.responseSize
    let header = is32 ? ABI32.segmentsOffset : ABI64.segmentsOffset
    let entriesPerPage = 4096 / SlotForm.indirectEntrySize
    switch options.variant {
    case .classic:
      slotSize = options.abi.slotSize
      requestSize = slotSize
      directSegments = BlockLimits.directSegments
      mostSegments = BlockLimits.indirectSegments
    case .wide:
      slotSize = header + options.wideSegments * BlockLimits.segmentSize
      requestSize = slotSize
      directSegments = options.wideSegments
      mostSegments = options.wideSegments
    case .segmentRing:
      slotSize = options.abi.slotSize
      requestSize = slotSize
      directSegments = BlockLimits.directSegments
      mostSegments = 4096 / (options.isPacked ? SlotForm.packedSegmentSize : BlockLimits.segmentSize)
    case .slim64:
      slotSize = 64
      requestSize = is32 ? 48 : 52
      directSegments = 4
      mostSegments = entriesPerPage
    case .slim32:
      slotSize = 32
      requestSize = 32
      responseSize = ABI64.responseSize
      directSegments = 2
      mostSegments = 4 * entriesPerPage
      segmentSize = SlotForm.packedSegmentSize
    }
  }
}
