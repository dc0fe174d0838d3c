// SPDX-License-Identifier: MIT

import ArgumentParser
import BlockIO
import CLinux
import FuseExport
import Glibc
import PVMachine

/// `pvdisk mount`: shows an image as a file until it is unmounted or a signal comes.
struct MountCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "mount",
    abstract: "Show a disk image as a file, through a whole PV stack.",
    discussion: """
      MOUNTPOINT is an empty directory, in which the disk appears as 'xvda' (see --vdev), or a regular file, which then
      is the disk. Runs until unmounted ('pvdisk umount', fusermount3 -u) or signalled; the first SIGINT or SIGTERM
      unmounts and flushes, the second stops at once.
      """)

  @Argument(help: ArgumentHelp("A raw disk image or block device.", valueName: "image"))
  var image: String

  @Argument(help: ArgumentHelp("An empty directory, or a file.", valueName: "mountpoint"))
  var mountPoint: String

  @OptionGroup var disk: DiskOptions

  @Flag(help: "Return when the disk is ready, and serve in the background.")
  var daemonize = false

  @Option(
    name: [.customShort("P"), .customLong("pid-file"), .customLong("pidfile")],
    help: ArgumentHelp("Write the process number here when the disk is ready.", valueName: "file"))
  var pidFile: String?

  @Flag(help: "Print statistics as JSON at the end.")
  var statistics = false

  func run() throws {
    var plan = try disk.plan(image: absoluteIfThere(image), mountPoint: mountPoint)
    plan.disk.params = plan.imagePath
    if let pidFile { try PIDFile.check(path: pidFile) }
    let ready = daemonize ? pv_daemonize_begin() : -1
    if daemonize, ready < 0 { throw Refusal("cannot go to the background: \(Refusal.reason)") }
    DaemonSignals.block()
    // The kernel may have to write through this disk to get memory back: no allocation of this process may wait for that.
    // Its threads inherit it; without CAP_SYS_RESOURCE it is not to be had, and the disk works without.
    _ = pv_set_io_flusher()
    let mounted = try Mounting.mount(plan)
    let life = HostedDisks(mounted)
    let control: ControlServer
    let pid: PIDFile?
    do {
      control = try ControlServer(life.answer)
      pid = try pidFile.map { path throws in try PIDFile(path: path) }
    } catch {
      mounted.requestStop(.immediate)
      _ = life.waitForEnd()
      throw error
    }
    Mounting.announce(mounted, isQuiet: daemonize)
    if ready >= 0 { pv_daemonize_end(ready) }
    life.stopOnSignals()
    let failures = life.waitForEnd()
    pid?.remove()
    control.remove()
    if statistics { print(json(StatisticsReport(mounted.statistics))) }
    control.finishAnswers()
    if !failures.isEmpty { throw Refusal(failures.joined(separator: "; "), status: ExitStatus.flushFailed) }
    if life.wasCutShort { throw ExitCode(ExitStatus.environment) }
  }

  private func absoluteIfThere(_ path: String) -> String {
    unsafe access(path, F_OK) == 0 ? absolutePath(path) : path
  }
}

/// What `mount` and `run` do alike.
enum Mounting {
  /// Mounts, with errors as refusals.
  static func mount(_ plan: MountPlan) throws -> MountedDisk {
    try refusing { () throws(MountError) in try MountedDisk.mount(plan) }
  }

  /// Errors as refusals.
  @discardableResult
  static func refusing<R>(_ body: () throws(MountError) -> R) throws -> R {
    do throws(MountError) { return try body() } catch {
      switch error {
      case .usage(let sentence): throw Refusal(sentence, status: ExitStatus.usage)
      case .environment(let sentence): throw Refusal(sentence, status: ExitStatus.environment)
      case .image(let sentence): throw Refusal(sentence, status: ExitStatus.image)
      }
    }
  }

  /// Says where the disk is, on a terminal's foreground, and what of the image is not part of it.
  static func announce(_ mounted: MountedDisk, isQuiet: Bool) {
    if mounted.ignoredTailByteCount > 0 {
      say(
        "pvdisk: the last \(mounted.ignoredTailByteCount) bytes of \(mounted.plan.imagePath) are less than a sector; "
          + "they are kept and are not part of the disk")
    }
    if !isQuiet, isatty(2) == 1 {
      say("pvdisk: \(mounted.plan.imagePath) is \(mounted.filePath) (\(ByteSize.text(mounted.geometry.byteCount)))")
    }
  }
}
