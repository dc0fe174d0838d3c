// SPDX-License-Identifier: MIT

import ArgumentParser

/// A size as people write it: `512`, `64M`, `1G`, `1.5GiB`.
struct ByteSize: ExpressibleByArgument {
  let byteCount: UInt64

  init?(argument: String) {
    let digits = argument.prefix { $0.isNumber || $0 == "." }
    var unit = argument.dropFirst(digits.count).lowercased()
    if unit.hasSuffix("ib") { unit.removeLast(2) } else if unit.hasSuffix("b") { unit.removeLast() }
    let shifts = ["": 0, "k": 10, "m": 20, "g": 30, "t": 40, "p": 50]
    guard let shift = shifts[unit], !digits.isEmpty, let value = Double(digits), value >= 0 else { return nil }
    if let whole = UInt64(digits) {
      let (product, overflow) = whole.multipliedReportingOverflow(by: 1 << shift)
      if overflow { return nil }
      byteCount = product
    } else {
      let bytes = (value * Double(UInt64(1) << shift)).rounded()
      guard bytes < 9.0e18 else { return nil }
      byteCount = UInt64(bytes)
    }
  }

  /// Bytes in the largest unit that keeps two digits or more before the point.
  static func text(_ byteCount: UInt64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]
    var value = byteCount
    var unit = 0
    while value >= 1024, value % 1024 == 0 || value >= 10240, unit < units.count - 1 {
      value /= 1024
      unit += 1
    }
    return "\(value) \(units[unit])"
  }
}
