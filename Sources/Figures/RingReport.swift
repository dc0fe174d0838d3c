// SPDX-License-Identifier: MIT

/// A ring's layout for programs: the numbers behind the drawing.
public struct RingReport: Codable, Equatable, Sendable {
  /// One area.
  public struct Area: Codable, Equatable, Sendable {
    /// As `shared ring`.
    public var name: String
    /// Pages granted.
    public var pages: Int
    /// Bytes before slot 0.
    public var headerBytes: Int
    /// Bytes from one slot to the next.
    public var slotBytes: Int
    /// Bytes of a slot that a response covers.
    public var responseBytes: Int
    /// Slots that fit.
    public var slotsThatFit: Int
    /// Slots in use.
    public var slots: Int
    /// Offset and writer of each index word.
    public var words: [Word]
    /// Lines touched by each slot in use.
    public var linesTouched: [Int]
    /// How many slots lie on so many lines.
    public var histogram: [String: Int]
    /// Slots on more lines than their size asks for.
    public var straddlingSlots: Int
    /// Slots that begin on one page and end on another.
    public var crossingSlots: [Int]
    /// Who stores to each line: `F`, `B`, `FB` or nothing.
    public var lineWriters: [String]
    /// Bytes that nothing ever covers.
    public var wastedBytes: Int
    /// Those of them that are behind the last slot.
    public var tailBytes: Int
    /// Bytes of a slot that lie idle while a response is in it.
    public var idleBytesOfResponse: Int
  }

  /// An index word.
  public struct Word: Codable, Equatable, Sendable {
    /// As `request producer`.
    public var name: String
    /// Its first byte.
    public var offset: Int
    /// `F` or `B`.
    public var writer: String
  }

  /// What is drawn.
  public var title: String
  /// Bytes in a cache line.
  public var lineBytes: Int
  /// Segments in a slot.
  public var directSegments: Int
  /// Segments that one request can name in all.
  public var mostSegments: Int
  /// Requests in flight.
  public var requests: Int
  /// Data bytes of the largest request.
  public var requestDataBytes: Int
  /// Data bytes that a full ring has in flight.
  public var dataBytesInFlight: Int
  /// The runs of granted pages.
  public var areas: [Area]

  /// Takes the numbers of a picture.
  public init(_ picture: RingPicture) {
    title = picture.title
    lineBytes = picture.lineSize
    directSegments = picture.directSegments
    mostSegments = picture.mostSegments
    requests = picture.requestSlots
    requestDataBytes = picture.mostBytes
    dataBytesInFlight = picture.bytesInFlight
    areas = picture.areas.map { area in
      Area(
        name: area.name, pages: area.pages, headerBytes: area.headerSize, slotBytes: area.slotSize,
        responseBytes: area.responseSize, slotsThatFit: area.fit, slots: area.slotCount,
        words: area.words.map { Word(name: $0.name, offset: $0.offset, writer: $0.writer.letters) },
        linesTouched: area.linesTouched,
        histogram: Dictionary(uniqueKeysWithValues: area.histogram.map { ("\($0.key)", $0.value) }),
        straddlingSlots: area.straddlingSlots, crossingSlots: area.crossingSlots,
        lineWriters: (0..<area.lineCount).map { area.writers(ofLine: $0).letters }, wastedBytes: area.wastedBytes,
        tailBytes: area.tailBytes, idleBytesOfResponse: area.idleBytesOfResponse)
    }
  }
}
