// SPDX-License-Identifier: MIT

/// A fuzzer's bytes, read as a sequence of choices; zeros when they have run out.
public struct FuzzInput {
  private let bytes: [UInt8]
  private var position = 0

  /// Reads bytes.
  public init(_ bytes: [UInt8]) { self.bytes = bytes }

  /// Whether the bytes have run out.
  public var isAtEnd: Bool { position >= bytes.count }
  /// What has not been read.
  public var rest: [UInt8] { Array(bytes.dropFirst(position)) }

  /// The next byte.
  public mutating func byte() -> UInt8 {
    guard position < bytes.count else { return 0 }
    defer { position += 1 }
    return bytes[position]
  }

  /// The next bytes as a number, the low byte first.
  public mutating func number<T: FixedWidthInteger>(_ type: T.Type) -> T {
    var value: T = 0
    for shift in 0..<(T.bitWidth / 8) { value |= T(truncatingIfNeeded: byte()) << T(shift * 8) }
    return value
  }

  /// The next bytes.
  public mutating func take(_ count: Int) -> [UInt8] { (0..<count).map { _ in byte() } }

  /// A short text.
  public mutating func text() -> String { String(decoding: take(Int(byte() % 24)), as: UTF8.self) }
}

/// Stops the program with a sentence when a rule is broken.
public func demand(_ isKept: Bool, _ rule: String) {
  if !isKept { fatalError("broken: \(rule)") }
}
