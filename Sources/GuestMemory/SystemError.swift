// SPDX-License-Identifier: MIT

import CLinux
import Glibc

/// A system call that failed: which one, and its `errno`.
public struct SystemError: Error, Equatable, Sendable, CustomStringConvertible {
  /// The call, for example `mmap`.
  public let call: StaticString
  /// The positive `errno` value.
  public let code: CInt

  /// Makes an error from a call's name and its `errno`.
  public init(_ call: StaticString, code: CInt) {
    self.call = call
    self.code = code
  }

  /// Makes an error from a call's name and the `errno` that it left.
  public init(_ call: StaticString) {
    self.init(call, code: pv_errno())
  }

  /// The call and the system's sentence for the code.
  public var description: String { "\(call): \(unsafe String(cString: strerror(code)))" }

  /// Two errors are equal when the same call gave the same code.
  public static func == (left: SystemError, right: SystemError) -> Bool {
    left.code == right.code && left.call.description == right.call.description
  }
}

extension SystemError {
  /// A failed call in words.
  public static func sentence(call: String, code: CInt) -> String {
    "\(call) failed: \(unsafe String(cString: strerror(code)))"
  }
}
