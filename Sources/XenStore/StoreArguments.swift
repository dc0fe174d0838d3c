// SPDX-License-Identifier: MIT

import XenWire

/// A request's payload, read as the strings with a NUL behind each that most requests consist of.
///
/// Numbers are read as C's `atoi` does, because clients rely on what xenstored accepts.
struct StoreArguments {
  let bytes: ArraySlice<UInt8>

  /// The only string; nil when there is not exactly one NUL, at the very end.
  var only: String? {
    guard let end = bytes.firstIndex(of: 0), end == bytes.endIndex - 1 else { return nil }
    return String(decoding: bytes[..<end], as: UTF8.self)
  }

  /// The number of NULs.
  var count: Int { bytes.reduce(0) { $0 + ($1 == 0 ? 1 : 0) } }

  /// The first strings, no more than `limit`; what stands behind the last NUL is no string.
  func strings(_ limit: Int = .max) -> [String] {
    var result: [String] = []
    var rest = bytes
    while result.count < limit, let end = rest.firstIndex(of: 0) {
      result.append(String(decoding: rest[..<end], as: UTF8.self))
      rest = rest[(end + 1)...]
    }
    return result
  }

  /// The first string and everything behind its NUL.
  var headAndRest: (String, ArraySlice<UInt8>)? {
    guard let end = bytes.firstIndex(of: 0) else { return nil }
    return (String(decoding: bytes[..<end], as: UTF8.self), bytes[(end + 1)...])
  }

  /// What C's `atoi` makes of a text: leading blanks and a sign are allowed, the rest is ignored, no digits are 0.
  static func number(_ text: String) -> Int {
    var rest = text.utf8.drop { $0 == 0x20 || ($0 >= 0x09 && $0 <= 0x0D) }
    var isNegative = false
    if let sign = rest.first, sign == UInt8(ascii: "-") || sign == UInt8(ascii: "+") {
      isNegative = sign == UInt8(ascii: "-")
      rest = rest.dropFirst()
    }
    var value = 0
    for digit in rest {
      guard digit >= 0x30, digit <= 0x39 else { break }
      value = min(value * 10 + Int(digit - 0x30), Int(Int32.max))
    }
    return isNegative ? -value : value
  }

  /// A domain's number: decimal digits, at most 65535.
  static func domain(_ text: String?) throws(StoreError) -> DomainID {
    guard let text, !text.isEmpty, text.utf8.allSatisfy({ $0 >= 0x30 && $0 <= 0x39 }), let number = UInt16(text) else {
      throw .invalid
    }
    return DomainID(rawValue: number)
  }
}

/// What the store answers to one request.
enum StoreReply {
  /// `OK`.
  case okay
  /// Text, with a NUL behind it on the wire.
  case text(String)
  /// Bytes as they are.
  case bytes([UInt8])
}
