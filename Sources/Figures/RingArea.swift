// SPDX-License-Identifier: MIT

/// Who stores to a byte of shared memory.
public struct RingWriters: OptionSet, Hashable, Sendable {
  /// The set as bits.
  public let rawValue: UInt8
  /// Wraps the bits.
  public init(rawValue: UInt8) { self.rawValue = rawValue }
  /// The frontend: it writes requests, their producer, and the event that it waits for.
  public static let front = RingWriters(rawValue: 1)
  /// The backend: it writes responses, their producer, and the event that it waits for.
  public static let back = RingWriters(rawValue: 2)

  /// `F`, `B`, `FB` or nothing.
  public var letters: String { (contains(.front) ? "F" : "") + (contains(.back) ? "B" : "") }
}

/// How a free-running index finds its slot.
public enum SlotIndexing: String, Sendable {
  /// By its low bits: the slots are a power of two.
  case powerOfTwo = "power-of-two"
  /// By a cursor of each side: every slot that fits is used.
  case wholePage = "whole-page"
}

/// One run of granted pages with a header and slots, as numbers: everything that can be said of it follows from them.
public struct RingArea: Equatable, Sendable {
  /// An index word of the header.
  public struct Word: Equatable, Sendable {
    /// As `request producer`.
    public var name: String
    /// Its first byte.
    public var offset: Int
    /// Who stores to it.
    public var writer: RingWriters
    /// Bytes in it.
    public static let byteCount = 4
  }

  /// As `shared ring`.
  public var name: String
  /// Pages granted.
  public var pages: Int
  /// Bytes in a cache line.
  public var lineSize: Int
  /// The index words.
  public var words: [Word]
  /// Bytes before slot 0.
  public var headerSize: Int
  /// Bytes from one slot to the next.
  public var slotSize: Int
  /// Bytes of a slot that the largest request covers; 0 where no requests are.
  public var requestSize: Int
  /// Bytes of a slot that a response covers; 0 where no responses are.
  public var responseSize: Int
  /// How an index finds its slot.
  public var indexing: SlotIndexing

  /// Bytes granted.
  public var byteCount: Int { pages * 4096 }
  /// Slots that fit.
  public var fit: Int { (byteCount - headerSize) / slotSize }
  /// Slots in use.
  public var slotCount: Int {
    guard indexing == .powerOfTwo, fit > 0 else { return fit }
    return 1 << (Int.bitWidth - 1 - fit.leadingZeroBitCount)
  }
  /// Cache lines in the area.
  public var lineCount: Int { byteCount / lineSize }

  /// Where a slot begins.
  public func offset(ofSlot index: Int) -> Int { headerSize + index * slotSize }
  /// The cache lines that a slot lies on.
  public func lines(ofSlot index: Int) -> ClosedRange<Int> {
    offset(ofSlot: index) / lineSize...(offset(ofSlot: index) + slotSize - 1) / lineSize
  }
  /// The number of cache lines that a slot lies on.
  public func linesTouched(bySlot index: Int) -> Int { lines(ofSlot: index).count }
  /// Lines touched by each slot in use.
  public var linesTouched: [Int] { (0..<slotCount).map(linesTouched(bySlot:)) }
  /// The fewest lines that a slot of this size can lie on.
  public var leastLines: Int { (slotSize + lineSize - 1) / lineSize }
  /// Whether a slot lies on more lines than its size asks for.
  public func straddles(_ index: Int) -> Bool { linesTouched(bySlot: index) > leastLines }
  /// How many slots in use lie on more lines than their size asks for.
  public var straddlingSlots: Int { (0..<slotCount).count(where: straddles) }
  /// How many slots in use lie on so many lines.
  public var histogram: [Int: Int] { linesTouched.reduce(into: [:]) { $0[$1, default: 0] += 1 } }
  /// Lines that a slot lies on, on average.
  public var averageLines: Double { Double(linesTouched.reduce(0, +)) / Double(max(slotCount, 1)) }
  /// Slots in use that begin on one page and end on another.
  public var crossingSlots: [Int] {
    (0..<slotCount).filter { offset(ofSlot: $0) / 4096 != (offset(ofSlot: $0) + slotSize - 1) / 4096 }
  }

  /// What a byte is for.
  public enum Use: Equatable, Sendable {
    /// An index word, by its place in ``RingArea/words``.
    case word(Int)
    /// A slot's byte that a request covers and no response.
    case request(slot: Int)
    /// A slot's byte that a response covers, and a request too where both share the ring.
    case response(slot: Int)
    /// A slot's byte that nothing covers.
    case spare(slot: Int)
    /// Nobody's: header padding, and what is left behind the last slot.
    case unused
  }

  /// What the byte at an offset is for.
  public func use(ofByte offset: Int) -> Use {
    for (index, word) in words.enumerated() where (word.offset..<word.offset + Word.byteCount).contains(offset) {
      return .word(index)
    }
    let slot = (offset - headerSize) / slotSize
    guard offset >= headerSize, slot < slotCount else { return .unused }
    let place = (offset - headerSize) % slotSize
    if place < responseSize { return .response(slot: slot) }
    return place < requestSize ? .request(slot: slot) : .spare(slot: slot)
  }

  /// Who stores to the byte at an offset.
  public func writers(ofByte offset: Int) -> RingWriters {
    switch use(ofByte: offset) {
    case .word(let index): words[index].writer
    case .request: .front
    case .response(let slot):
      offset - self.offset(ofSlot: slot) < requestSize ? [.front, .back] : .back
    case .spare, .unused: []
    }
  }

  /// Who stores to a cache line; both means that it has to travel back and forth.
  public func writers(ofLine line: Int) -> RingWriters {
    let bytes = line * lineSize..<(line + 1) * lineSize
    var writers: RingWriters = []
    for word in words where bytes.contains(word.offset) { writers.formUnion(word.writer) }
    let first = max(0, (bytes.lowerBound - headerSize) / slotSize)
    var slot = first
    while slot < slotCount, offset(ofSlot: slot) < bytes.upperBound {
      let start = offset(ofSlot: slot)
      if start + requestSize > bytes.lowerBound, requestSize > 0 { writers.formUnion(.front) }
      if start + responseSize > bytes.lowerBound, responseSize > 0 { writers.formUnion(.back) }
      slot += 1
    }
    return writers
  }

  /// How many cache lines these ends, and no other, store to.
  public func lines(writtenBy writers: RingWriters) -> Int {
    (0..<lineCount).count(where: { self.writers(ofLine: $0) == writers })
  }

  /// Bytes that no index word, request or response ever covers.
  public var wastedBytes: Int {
    byteCount - words.count * Word.byteCount - slotCount * max(requestSize, responseSize)
  }

  /// Bytes behind the last slot in use.
  public var tailBytes: Int { byteCount - offset(ofSlot: slotCount) }

  /// Bytes of a slot that lie idle while a response is in it.
  public var idleBytesOfResponse: Int { responseSize > 0 ? slotSize - responseSize : 0 }
}
