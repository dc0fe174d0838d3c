// SPDX-License-Identifier: MIT

/// A request as a real Linux blkfront left it in a ring, with what another decoder made of it.
public struct CapturedRequest: Sendable, CustomStringConvertible {
  /// A segment, as it was read from the slot or the descriptor page.
  public struct Piece: Equatable, Sendable {
    /// The grant reference.
    public let reference: UInt32
    /// The first sector in the page.
    public let first: UInt8
    /// The last sector in the page.
    public let last: UInt8
  }

  /// Which of the three forms it has.
  public enum Form: String, Sendable {
    case direct, indirect, discard
  }

  /// The slot's 112 bytes.
  public let slot: [UInt8]
  /// The form.
  public let form: Form
  /// The descriptor page's bytes as far as they count; their padding holds stale memory.
  public let descriptors: [UInt8]
  /// The segments.
  public let pieces: [Piece]
  private let line: String

  /// A number of the decoded line: `operation`, `inner`, `segments`, `handle`, `id`, `sector`, `page`, `flag`, `count`.
  public func number(_ name: String) -> UInt64? { line.field(name).flatMap { UInt64($0) } }

  /// The decoded line.
  public var description: String { line }

  /// Reads all that are kept here.
  public static func all() throws -> [CapturedRequest] {
    let slots = try Records.bytes("captured-requests.bin")
    let lines = try Records.lines("captured-requests.txt").filter { !$0.hasPrefix("#") }
    precondition(slots.count == lines.count * 112, "a line for each slot")
    return lines.enumerated().compactMap { index, line in
      guard let form = line.split(separator: " ").dropFirst().first.flatMap({ Form(rawValue: String($0)) }) else {
        return nil
      }
      let pieces = (line.field("list") ?? "").split(separator: ",").compactMap { text -> Piece? in
        let numbers = text.split { $0 == ":" || $0 == "-" }
        guard numbers.count == 3, let reference = UInt32(numbers[0]), let first = UInt8(numbers[1]),
          let last = UInt8(numbers[2])
        else { return nil }
        return Piece(reference: reference, first: first, last: last)
      }
      return CapturedRequest(
        slot: Array(slots[index * 112..<(index + 1) * 112]), form: form,
        descriptors: line.field("descriptors").flatMap { bytes(hex: $0) } ?? [], pieces: pieces, line: line)
    }
  }
}

/// Ring pages as they stood between a real blkfront and a real blkback, cut after the last slot in use.
public enum CapturedRing: String, Sendable {
  /// Slot 5 is an unanswered write of 32 segments.
  case write128kPending = "3-write128k-pending"
  /// Answers to eight writes of 32 segments in slots 6...13.
  case write1mAnswered = "4-write1m-answered"
  /// The answer to a flush in slot 25.
  case flushAnswered = "8-flush-answered"
  /// Slot 26 is an unanswered discard of 128 sectors.
  case discardPending = "9-discard-pending"

  /// The page's bytes.
  public func bytes() throws -> [UInt8] { try Records.bytes("rings/\(rawValue).bin") }

  /// The 32 descriptors of ``write128kPending``, and the stale eight bytes behind them.
  public static func write128kDescriptors() throws -> [UInt8] {
    try Records.bytes("rings/3-write128k-descriptors.bin")
  }
}
