// SPDX-License-Identifier: MIT

import ArgumentParser
import FuseExport
import Glibc
import PVMachine

/// `pvdisk run`: a command with a disk.
struct RunCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "run",
    abstract: "Run a command with a disk: PVDISK holds the path of the disk's file.",
    discussion: "Unmounts when the command ends, and exits as it did; 4 if the last flush failed.")

  @Argument(help: ArgumentHelp("A raw disk image or block device.", valueName: "image"))
  var image: String

  @OptionGroup var disk: DiskOptions

  @Flag(help: "Print statistics as JSON on standard error at the end.")
  var statistics = false

  @Argument(parsing: .postTerminator, help: ArgumentHelp("What to run.", valueName: "command"))
  var command: [String] = []

  func validate() throws {
    if command.isEmpty { throw ValidationError("There is no command; write it behind --") }
  }

  func run() throws {
    let point = try Self.makePoint()
    defer { _ = unsafe rmdir(point) }
    let path = unsafe access(image, F_OK) == 0 ? absolutePath(image) : image
    let plan = try disk.plan(image: path, mountPoint: point)
    DaemonSignals.block()
    let mounted = try Mounting.mount(plan)
    Mounting.announce(mounted, isQuiet: true)
    let result = Result { try ChildProcess.run(command, environment: ["PVDISK": mounted.filePath]) }
    mounted.requestStop(.orderly)
    let outcome = mounted.waitUntilUnmounted()
    if statistics { say(json(StatisticsReport(mounted.statistics))) }
    if let failure = outcome.flushFailure {
      throw Refusal("writes to \(image) may be lost: \(failure)", status: ExitStatus.flushFailed)
    }
    let status = try result.get()
    if status != 0 { throw ExitCode(status) }
  }

  private static func makePoint() throws -> String {
    let base = unsafe getenv("TMPDIR").map { unsafe String(cString: $0) } ?? "/tmp"
    var template = Array("\(base)/pvdisk-run-XXXXXX".utf8CString)
    guard unsafe mkdtemp(&template) != nil else {
      throw Refusal("cannot make a mount point in \(base): \(Refusal.reason)")
    }
    return String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }
}
