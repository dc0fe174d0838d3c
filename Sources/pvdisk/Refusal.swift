// SPDX-License-Identifier: MIT

import CLinux
import Glibc

/// How pvdisk ends.
enum ExitStatus {
  static let done: Int32 = 0
  static let usage: Int32 = 1
  static let environment: Int32 = 2
  static let image: Int32 = 3
  static let flushFailed: Int32 = 4
  static let checkFailed: Int32 = 5
}

/// An error that ends the command: one sentence on standard error, and an exit status.
struct Refusal: Error, CustomStringConvertible {
  let description: String
  /// The exit status: 2 for the environment.
  let status: Int32

  init(_ sentence: String, status: Int32 = ExitStatus.environment) {
    description = sentence
    self.status = status
  }

  /// What the system says about the last failed call.
  static var reason: String { unsafe String(cString: strerror(pv_errno())) }
}

/// Text for people: standard error.
func say(_ text: String) {
  let line = text + "\n"
  _ = unsafe write(2, line, line.utf8.count)
}
