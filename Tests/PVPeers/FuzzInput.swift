// SPDX-License-Identifier: MIT

/// A fuzzer's bytes, read as a sequence of choices; zeros when they have run out.
@frozen
public struct FuzzInput {
  @usableFromInline let bytes: [UInt8]
  @usableFromInline var position = 0

  /// Reads bytes.
  @inlinable public init(_ bytes: [UInt8]) { self.bytes = bytes }

  /// Whether the bytes have run out.
  @inlinable public var isAtEnd: Bool { position >= bytes.count }
  /// How many bytes have not been read.
  public var remaining: Int { bytes.count - position }
  /// What has not been read.
  public var rest: [UInt8] { Array(bytes.dropFirst(position)) }

  /// The next byte.
  @inlinable
  public mutating func byte() -> UInt8 {
    guard position < bytes.count else { return 0 }
    defer { position &+= 1 }
    return bytes[position]
  }

  /// The next bytes as a number, the low byte first.
  @inlinable
  public mutating func number<T: FixedWidthInteger>(_ type: T.Type) -> T {
    var value: T = 0
    for shift in 0..<(T.bitWidth / 8) { value |= T(truncatingIfNeeded: byte()) << T(shift * 8) }
    return value
  }

  /// The next bytes.
  public mutating func take(_ count: Int) -> [UInt8] {
    var taken: [UInt8] = []
    taken.reserveCapacity(count)
    append(count, to: &taken)
    return taken
  }

  /// Puts the next bytes behind others.
  public mutating func append(_ count: Int, to list: inout [UInt8]) {
    let there = min(count, bytes.count - position)
    list.append(contentsOf: bytes[position..<position + there])
    list.append(contentsOf: repeatElement(0, count: count - there))
    position += there
  }

  /// A short text.
  public mutating func text() -> String { String(decoding: take(Int(byte() % 24)), as: UTF8.self) }
}

/// Stops the program with a sentence when a rule is broken.
@inlinable
public func demand(_ isKept: Bool, _ rule: @autoclosure () -> String) {
  if !isKept { broken(rule()) }
}

/// Stops the program with a sentence.
@usableFromInline
func broken(_ rule: String) -> Never { fatalError("broken: \(rule)") }
