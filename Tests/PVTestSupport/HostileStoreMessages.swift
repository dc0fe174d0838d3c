// SPDX-License-Identifier: MIT

/// What a hostile client of a XenStore sends.
///
/// Messages that are nearly right, messages that are nonsense, lengths that lie, and messages that end too early. The same
/// seed gives the same bytes.
public struct HostileStoreMessages {
  private var state: UInt64

  /// Starts a stream of messages.
  public init(seed: UInt64) { state = (seed &+ 1) &* 0x9E37_79B9_7F4A_7C15 | 1 }

  private static let words: [[UInt8]] = [
    "/", "a", "\0", "b", "/local/domain/1", "/local/domain/5", "@releaseDomain", "@introduceDomain", "T", "F", "n1",
    "r2", "b5", "1", "-1", "x y", "data", "\0", "/", "2147483648", "nodes", "memory", "*", "//", "a/b", "\0",
  ].map { Array($0.utf8) }
  private static let lengths: [UInt32] = [0, 1, 4096, 4097, 1 << 31, .max, 0x8000_0010, 65_536]

  private mutating func random(_ limit: UInt64) -> Int {
    state ^= state << 13
    state ^= state >> 7
    state ^= state << 17
    return Int((state >> 11) % limit)
  }

  /// Whether the next thing that has one chance in `odds` happens.
  public mutating func chance(_ odds: Int) -> Bool { random(UInt64(odds)) == 0 }

  /// Puts a message behind the bytes.
  public mutating func append(to bytes: inout [UInt8]) {
    let start = bytes.count
    // CONTROL is left out: a log file of the client's choosing is what it is for.
    let type = UInt32(1 + random(28))
    let transaction = random(8) == 0 ? UInt32(random(4)) : 0
    for field in [type, UInt32(truncatingIfNeeded: state), transaction, 0] { append(field, to: &bytes) }
    if random(12) == 0 {
      for _ in 0..<random(64) { bytes.append(UInt8(truncatingIfNeeded: random(256))) }
    } else {
      // Most requests name a short path first, so that many of them get past the first check.
      bytes.append(contentsOf: Self.words[[0, 1, 3, 4, 5, 24][random(6)]])
      if random(3) == 0 { bytes.append(contentsOf: [0x2F, UInt8(0x61 + random(6))]) }
      bytes.append(0)
      for _ in 0..<random(4) { bytes.append(contentsOf: Self.words[random(UInt64(Self.words.count))]) }
      if random(2) == 0 { bytes.append(0) }
    }
    var length = UInt32(bytes.count - start - 16)
    if random(400) == 0 { length = Self.lengths[random(UInt64(Self.lengths.count))] }
    for index in 0..<4 { bytes[start + 12 + index] = UInt8(truncatingIfNeeded: length >> UInt32(index * 8)) }
    if random(500) == 0 { bytes.removeLast(random(UInt64(bytes.count - start))) }
  }

  private func append(_ value: UInt32, to bytes: inout [UInt8]) {
    for index in 0..<4 { bytes.append(UInt8(truncatingIfNeeded: value >> UInt32(index * 8))) }
  }
}
