// SPDX-License-Identifier: MIT

import ArgumentParser
import Glibc
import PVMachine

/// `pvdisk trace`: what happens to each request of a mounted disk, step by step.
struct TraceCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "trace", abstract: "Show what happens to each request of a mounted disk, step by step.",
    discussion: """
      Without a command the disk is watched for --seconds; with one, for as long as the command runs. While nobody traces,
      an event costs the disk one load and one branch. A log holds about the last thousand requests of each queue.

        pvdisk trace m -- dd if=m/xvda of=/dev/null bs=4k count=4 iflag=direct
      """)

  @Argument(help: ArgumentHelp("The mount point, or the disk's file in it.", valueName: "mountpoint"))
  var mountPoint: String

  @Option(name: [.customShort("n"), .long], help: ArgumentHelp("Show the last N requests in full.", valueName: "N"))
  var count = 4

  @Option(help: ArgumentHelp("How long to watch when there is no command.", valueName: "N"))
  var seconds = 1.0

  @Flag(name: .customLong("json"), help: "Print JSON: every request, and the medians.")
  var isJSON = false

  @Option(
    help: ArgumentHelp("Write every step into a file for ui.perfetto.dev or chrome://tracing.", valueName: "file"))
  var perfetto: String?

  @Argument(parsing: .postTerminator, help: ArgumentHelp("What to run meanwhile.", valueName: "command"))
  var command: [String] = []

  func validate() throws {
    if count < 0 { throw ValidationError("--count cannot be negative.") }
    if !(seconds > 0 && seconds <= 3600) { throw ValidationError("--seconds must be between 0 and 3600.") }
  }

  func run() throws {
    guard let disk = RunningDisks.at(mountPoint) else {
      throw Refusal("no pvdisk is mounted on \(mountPoint); 'pvdisk status' lists those that are")
    }
    _ = try RunningDisks.ask(disk.socket, ControlRequest(verb: .traceStart, disk: disk.report.file))
    let status = command.isEmpty ? watch() : try ChildProcess.run(command, environment: ["PVDISK": disk.report.file])
    let answer = try RunningDisks.ask(disk.socket, ControlRequest(verb: .traceEnd, disk: disk.report.file))
    guard let report = answer.trace else {
      throw Refusal("the disk on \(mountPoint) went away while it was traced")
    }
    if let perfetto { try Self.write(report.perfetto, to: perfetto) }
    print(isJSON ? json(report) : report.text(last: count))
    if status != 0 { throw ExitCode(status) }
  }

  private func watch() -> Int32 {
    usleep(UInt32(seconds * 1_000_000))
    return 0
  }

  private static func write(_ text: String, to path: String) throws {
    guard let file = unsafe fopen(path, "we") else { throw Refusal("cannot write \(path): \(Refusal.reason)") }
    unsafe fputs(text, file)
    unsafe fclose(file)
  }
}
