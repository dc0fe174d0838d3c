// SPDX-License-Identifier: MIT

import Glibc
import Testing

/// A few of the kills and deaths of which `make reliability` makes hundreds.
@Suite("A disk that is killed")
struct KillTests {
  @Test(
    "what was acknowledged is in the image, no sector is torn, and callers are let go",
    .enabled(if: canRun, "needs python3 and FUSE"))
  func kills() throws {
    let script = Self.root + "/Tests/Crash/kill.py"
    let seed = UInt32.random(in: 1 ... .max)
    let outcome = try Program.shell(
      "python3 '\(script)' --pvdisk '\(Program.pvdisk)' --kills 8 --folder /dev/shm --seed \(seed)", in: "/tmp")
    #expect(outcome.status == 0, "\(outcome)")
    #expect(outcome.output.contains("kill: 8 kills"), "\(outcome)")
  }

  @Test(
    "64 calls in flight are let go, and nothing is left, however the disk ends",
    .enabled(if: canRun && geteuid() == 0, "needs python3, FUSE, and root for fusectl"))
  func deaths() throws {
    let script = Self.root + "/Tests/Crash/death.py"
    let seed = UInt32.random(in: 1 ... .max)
    let outcome = try Program.shell(
      "python3 '\(script)' --pvdisk '\(Program.pvdisk)' --cycles 8 --folder /dev/shm --seed \(seed)", in: "/tmp")
    #expect(outcome.status == 0, "\(outcome)")
    #expect(outcome.output.contains("death: 8 cycles with 64 calls"), "\(outcome)")
  }

  static let canRun = Program.isInstalled("python3") && Files.exists("/dev/fuse")

  /// Where the sources are.
  static let root = #filePath.split(separator: "/", omittingEmptySubsequences: false).dropLast(3).joined(separator: "/")
}
