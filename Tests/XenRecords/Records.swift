// SPDX-License-Identifier: MIT

import Foundation

/// Files that were recorded elsewhere and that tests compare with.
enum Records {
  /// A file's bytes.
  static func bytes(_ name: String) throws -> [UInt8] {
    let url = Bundle.module.bundleURL.appendingPathComponent("Resources").appendingPathComponent(name)
    return Array(try Data(contentsOf: url))
  }

  /// A file's lines, without empty ones.
  static func lines(_ name: String) throws -> [String] {
    String(decoding: try bytes(name), as: UTF8.self).split(separator: "\n").map(String.init)
  }
}

/// Bytes from hexadecimal digits; nil when they are not that.
public func bytes(hex text: some StringProtocol) -> [UInt8]? {
  guard text.count.isMultiple(of: 2) else { return nil }
  var bytes: [UInt8] = []
  var rest = text[...]
  while !rest.isEmpty {
    guard let byte = UInt8(rest.prefix(2), radix: 16) else { return nil }
    bytes.append(byte)
    rest = rest.dropFirst(2)
  }
  return bytes
}

extension String {
  /// The name's value in a line of `name=value` words.
  func field(_ name: String) -> String? {
    split(separator: " ").first { $0.hasPrefix("\(name)=") }.map { String($0.dropFirst(name.count + 1)) }
  }
}
