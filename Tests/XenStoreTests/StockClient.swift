// SPDX-License-Identifier: MIT

import Glibc
import Testing

/// Runs one of the programs of Debian's package xenstore-utils against a socket.
struct StockClient {
  let socket: String

  struct Outcome: Equatable {
    var status: Int32
    var output: String
    var errors: String
  }

  /// Whether the programs are installed here.
  static var isInstalled: Bool { unsafe access("/usr/bin/xenstore", X_OK) == 0 }

  /// Runs `xenstore-<arguments...>` and waits for its end.
  func callAsFunction(_ arguments: String...) throws -> Outcome {
    let line = arguments.dropFirst().map { "'\($0)'" }.joined(separator: " ")
    let errors = socket + ".\(UInt32.random(in: 0 ... .max)).err"
    let command = "XENSTORED_PATH='\(socket)' timeout 10 xenstore-\(arguments[0]) \(line) 2>'\(errors)'"
    // SAFETY: the stream is read to its end and closed here.
    let stream = try unsafe #require(popen(command, "r"))
    let output = unsafe Self.text(of: stream)
    let status = unsafe pclose(stream)
    var text = ""
    if let file = unsafe fopen(errors, "r") {
      text = unsafe Self.text(of: file)
      unsafe fclose(file)
    }
    unsafe unlink(errors)
    return Outcome(status: status >> 8, output: output, errors: text)
  }

  private static func text(of stream: UnsafeMutablePointer<FILE>) -> String {
    var bytes: [UInt8] = []
    while case let byte = unsafe getc(stream), byte != EOF { bytes.append(UInt8(truncatingIfNeeded: byte)) }
    return String(decoding: bytes, as: UTF8.self)
  }
}

/// A folder that goes with everything in it when its owner does.
final class TemporaryFolder {
  let path: String

  init() throws {
    var template = Array("/tmp/pvstore.XXXXXX".utf8CString)
    // SAFETY: mkdtemp changes the template in place and answers its address.
    let isMade = unsafe template.withUnsafeMutableBufferPointer { buffer in
      guard let start = buffer.baseAddress else { return false }
      return unsafe mkdtemp(start) != nil
    }
    try #require(isMade)
    path = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }

  deinit { _ = unsafe system("rm -rf '\(path)'") }
}
