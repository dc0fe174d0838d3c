// SPDX-License-Identifier: MIT

import ArgumentParser
import Glibc

/// `pvdisk attach`: one more disk on a machine that runs (`xl block-attach`).
struct AttachCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "attach",
    abstract: "Add a disk to a machine that is running, as 'xl block-attach' does.",
    discussion: """
      The machine is a process of 'pvdisk mount'; --to names it by its number or by one of its mount points, and can be
      left out when there is only one. The disk gets the next free name (xvdb, ...) unless --vdev says another. Prints
      the disk's file. The process ends with its last disk. The options that describe the machine (--mapping,
      --xenstore-socket, --verbose) are those of the machine that runs.
      """)

  @Argument(help: ArgumentHelp("A raw disk image or block device.", valueName: "image"))
  var image: String

  @Argument(help: ArgumentHelp("An empty directory, or a file.", valueName: "mountpoint"))
  var mountPoint: String

  @Option(name: [.customLong("to")], help: ArgumentHelp("The machine.", valueName: "pid or mountpoint"))
  var machine: String?

  @OptionGroup var disk: DiskOptions

  @Flag(name: .customLong("json"), help: "Print the disk's status as JSON.")
  var isJSON = false

  func run() throws {
    let isThere = unsafe access(image, F_OK) == 0
    var request = ControlRequest(verb: .attach)
    request.image = isThere ? absolutePath(image) : RunningDisks.lexicallyAbsolute(image)
    request.mountPoint = RunningDisks.lexicallyAbsolute(mountPoint)
    request.arguments = Array(CommandLine.arguments.dropFirst(2))
    let socket = try RunningDisks.machine(machine)[0].socket
    guard let report = try RunningDisks.ask(socket, request).disks?.first else { return }
    print(isJSON ? json(report) : report.file)
  }
}

/// `pvdisk detach`: takes a disk off a machine that goes on (`xl block-detach`).
struct DetachCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "detach",
    abstract: "Take a disk off a running machine, as 'xl block-detach' does.",
    discussion: """
      Waits until nobody has the disk open, and says who has; gives up after --timeout seconds. Returns when the image is
      flushed, closed and unlocked; exit status 4 says that the flush failed.
      """)

  @OptionGroup var disk: DiskName

  @Flag(name: [.short, .long], help: "Do not wait for those who have the disk open: their I/O fails from now on.")
  var force = false

  @Option(help: ArgumentHelp("Seconds to wait for those who have it open.", valueName: "N"))
  var timeout = 10

  func run() throws {
    let found = try disk.find()
    if !force { try waitUntilFree(found.report) }
    var request = ControlRequest(verb: force ? .stopNow : .stop)
    request.disk = found.report.file
    let answer = try RunningDisks.ask(found.socket, request)
    if let failure = answer.flushFailure {
      throw Refusal("writes to \(found.report.image) may be lost: \(failure)", status: ExitStatus.flushFailed)
    }
  }

  private func waitUntilFree(_ report: StatusReport) throws {
    var told: String?
    let deadline = time(nil) + timeout
    while let holder = DiskHolders.first(of: report.file, except: report.pid) {
      guard time(nil) < deadline else {
        throw Refusal("\(report.file) is in use by \(holder); close it there, or use --force")
      }
      if told != holder { say("pvdisk: waiting: \(report.file) is in use by \(holder)") }
      told = holder
      usleep(100_000)
    }
  }
}

/// How a disk of a running machine is named.
struct DiskName: ParsableArguments {
  @Argument(help: ArgumentHelp("A mount point, the disk's file in it, or its name, such as xvdb.", valueName: "disk"))
  var name: String

  @Option(
    name: [.customLong("from"), .customLong("on")], help: ArgumentHelp("The machine.", valueName: "pid or mountpoint"))
  var machine: String?

  /// The disk that runs under that name.
  func find() throws -> RunningDisks.Found { try RunningDisks.named(name, on: machine) }

  /// Asks its machine for something about it, and answers its new state.
  func ask(_ change: (inout ControlRequest) -> Void, _ verb: ControlRequest.Verb) throws -> StatusReport {
    let found = try find()
    var request = ControlRequest(verb: verb)
    request.disk = found.report.file
    change(&request)
    return try RunningDisks.ask(found.socket, request).disks?.first ?? found.report
  }
}
