// SPDX-License-Identifier: MIT

import ArgumentParser
import PVPeers

@testable import pvdisk

/// Command lines, which are parsed and judged but not carried out.
enum CommandFuzz {
  /// Words that a command line is made of, beside any others.
  private static let words = [
    "mount", "umount", "run", "create", "status", "attach", "detach", "resize", "lab", "layout", "xenstored",
    "xenstore",
    "doctor", "bench", "trace", "backend", "ls", "read", "write", "watch", "chmod", "--queues", "--ring-pages",
    "--indirect-segments", "--protocol", "slim32", "--split", "--whole-page", "--align", "64", "--dif", "sector",
    "--notify", "adaptive", "--placement", "threads", "--sector-size", "4096", "--vdev", "xvda", "--cache", "none",
    "-o",
    "ro,allow_other", "--socket", "/tmp/xs", "-E", "-Q", "nodes=5", "-w", "watch-event=3", "--guest-socket", "5=/tmp/x",
    "--", "-", "", "--json", "--help", "--version", "d.img", "m", "64M", "1T", "18446744073709551615", "-1", "0", "n0",
    "r5",
  ]

  static func run(_ input: inout FuzzInput) throws {
    var line: [String] = []
    while !input.isAtEnd, line.count < 24 {
      let choice = input.byte()
      switch choice {
      case 0..<200: line.append(words[Int(choice) % words.count])
      case 200..<220: line.append(words[Int(input.byte()) % words.count] + "=" + input.text())
      case 220..<235: line.append("\(input.number(UInt64.self))")
      default: line.append(input.text())
      }
    }
    do {
      _ = try PVDisk.parseAsRoot(line)
    } catch {
      demand(!PVDisk.fullMessage(for: error).isEmpty, "a refusal is a sentence: \(line)")
    }
  }
}
