// SPDX-License-Identifier: MIT

import Glibc

/// Other people's programs, run through the shell.
enum Shell {
  /// Runs a command; answers its exit status and all that it printed.
  static func run(_ command: String) -> (status: CInt, output: String) {
    guard let pipe = unsafe popen("( \(command) ) 2>&1", "re") else { return (-1, "popen failed") }
    var bytes: [UInt8] = []
    while case let byte = unsafe fgetc(pipe), byte >= 0 { bytes.append(UInt8(byte)) }
    let status = unsafe pclose(pipe)
    return (status & 0x7F == 0 ? (status >> 8) & 0xFF : -1, String(decoding: bytes, as: UTF8.self))
  }

  /// Whether a program is installed.
  static func has(_ program: String) -> Bool { run("command -v \(program)").status == 0 }
}
