// SPDX-License-Identifier: MIT

import Glibc

/// The version of the kernel that runs.
enum KernelRelease {
  static func isAtLeast(_ major: Int, _ minor: Int) -> Bool {
    var name = utsname()
    guard unsafe uname(&name) == 0 else { return false }
    let text = unsafe withUnsafeBytes(of: &name.release) { bytes in
      // SAFETY: the bytes are those of the local structure.
      unsafe String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
    }
    let numbers = text.split { !$0.isNumber }.prefix(2).compactMap { Int($0) }
    return numbers.count == 2 && (numbers[0], numbers[1]) >= (major, minor)
  }
}
