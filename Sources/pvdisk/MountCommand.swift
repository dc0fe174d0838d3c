// SPDX-License-Identifier: MIT

import ArgumentParser
import BlockIO
import CLinux
import FuseExport
import Glibc
import PVMachine
import Synchronization

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
    let mounted = try Mounting.mount(plan)
    let life = MountLife(mounted)
    let control: ControlServer
    let pid: PIDFile?
    do {
      control = try ControlServer(life.answer)
      pid = try pidFile.map { path throws in try PIDFile(path: path) }
    } catch {
      mounted.requestStop(.immediate)
      _ = mounted.waitUntilUnmounted()
      throw error
    }
    Mounting.announce(mounted, isQuiet: daemonize)
    if ready >= 0 { pv_daemonize_end(ready) }
    life.stopOnSignals()
    let outcome = life.waitForEnd()
    pid?.remove()
    control.remove()
    if statistics { print(json(StatisticsReport(mounted.statistics))) }
    life.end(outcome)
    if let failure = outcome.flushFailure {
      throw Refusal("writes to \(image) may be lost: \(failure)", status: ExitStatus.flushFailed)
    }
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
    do throws(MountError) {
      return try MountedDisk.mount(plan)
    } catch {
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

/// A mounted disk's life in this process: signals, and those who ask through the control socket.
final class MountLife: Sendable {
  private struct State {
    var outcome: MountOutcome?
    var signals = 0
    var isEnding = false
    var waiters = 0
    var trace: DiskTrace?
  }

  private let mounted: MountedDisk
  private let state = Mutex(State())

  init(_ mounted: MountedDisk) { self.mounted = mounted }

  /// Whether a second signal ended the disk under its users.
  var wasCutShort: Bool { state.withLock { $0.signals > 1 } }

  /// The first signal unmounts and flushes, the second stops at once.
  func stopOnSignals() {
    Background.start { [self] in
      while true {
        guard DaemonSignals.wait() != SIGHUP else { continue }
        let count = state.withLock { state in
          state.signals += 1
          return state.signals
        }
        mounted.requestStop(count == 1 ? .orderly : .immediate)
      }
    }
  }

  /// Waits until the disk is unmounted, flushed, closed and unlocked.
  func waitForEnd() -> MountOutcome { mounted.waitUntilUnmounted() }

  /// Tells those who wait how it ended, and lets them have their answer.
  func end(_ outcome: MountOutcome) {
    state.withLock { $0.outcome = outcome }
    for _ in 0..<200 where state.withLock({ $0.waiters > 0 }) { usleep(5000) }
  }

  /// Answers a request from the control socket.
  @Sendable func answer(_ request: String) -> String {
    switch request {
    case "status": return json(StatusReport(mounted), pretty: false)
    case "stop", "stop now":
      mounted.requestStop(request == "stop" ? .orderly : .immediate)
      return json(waitForOutcome(), pretty: false)
    case "trace start":
      state.withLock { $0.trace = mounted.trace() }
      return "tracing"
    case "trace end":
      let trace = state.withLock { state in
        defer { state.trace = nil }
        return state.trace
      }
      return json(TraceReport(trace?.timelines() ?? []), pretty: false)
    default: return json(["error": "unknown request"], pretty: false)
    }
  }

  private func waitForOutcome() -> EndReport {
    state.withLock { $0.waiters += 1 }
    defer { state.withLock { $0.waiters -= 1 } }
    while true {
      if let outcome = state.withLock({ $0.outcome }) { return EndReport(flushFailure: outcome.flushFailure) }
      usleep(2000)
    }
  }
}

/// What `umount` is told.
struct EndReport: Codable {
  var flushFailure: String?
}
