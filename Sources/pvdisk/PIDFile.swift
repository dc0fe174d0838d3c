// SPDX-License-Identifier: MIT

import CLinux
import Glibc

/// A file that holds this process's number for as long as it serves.
struct PIDFile {
  let path: String

  /// Refuses a file that could not be written later, before anything is mounted.
  static func check(path: String) throws {
    let folder = path.lastIndex(of: "/").map { $0 == path.startIndex ? "/" : String(path[..<$0]) } ?? "."
    let isWritable: Bool
    if unsafe access(path, F_OK) == 0 {
      isWritable = unsafe access(path, W_OK) == 0
    } else {
      isWritable = unsafe access(folder, W_OK | X_OK) == 0
    }
    if !isWritable { throw Refusal("cannot write the pid file \(path): \(Refusal.reason)") }
  }

  init(path: String) throws {
    let descriptor = unsafe pv_open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o644)
    guard descriptor >= 0 else { throw Refusal("cannot write the pid file \(path): \(Refusal.reason)") }
    let line = Array("\(getpid())\n".utf8)
    // SAFETY: the address and the count are those of the array's own bytes.
    _ = unsafe line.withUnsafeBytes { unsafe write(descriptor, $0.baseAddress, $0.count) }
    close(descriptor)
    self.path = path
  }

  func remove() { _ = unsafe unlink(path) }
}
