// SPDX-License-Identifier: MIT

import Glibc

/// Small texts that the kernel shows under `/proc` and `/sys`.
enum ProcText {
  /// The first 4096 bytes of a file, or nil.
  static func read(_ path: String) -> String? {
    let descriptor = ImageSystemCalls.open(path, flags: O_RDONLY)
    guard descriptor >= 0 else { return nil }
    defer { _ = Glibc.close(descriptor) }
    return unsafe String(unsafeUninitializedCapacity: 4096) { buffer in
      // SAFETY: the call writes no more than the buffer's length.
      unsafe max(0, Glibc.read(descriptor, buffer.baseAddress, buffer.count))
    }
  }

  /// The file's text as a number.
  static func number(in path: String) -> Int? {
    guard let text = read(path) else { return nil }
    return Int(text.prefix { $0 != "\n" })
  }

  /// The names in a directory.
  static func names(in path: String) -> [String] {
    guard let directory = unsafe opendir(path) else { return [] }
    defer { unsafe closedir(directory) }
    var names: [String] = []
    while let entry = unsafe readdir(directory) {
      // SAFETY: the kernel ends `d_name` with a zero byte within the entry.
      let name = unsafe withUnsafePointer(to: &entry.pointee.d_name) { pointer in
        unsafe pointer.withMemoryRebound(to: CChar.self, capacity: 256) { unsafe String(cString: $0) }
      }
      if name != "." && name != ".." { names.append(name) }
    }
    return names
  }
}
