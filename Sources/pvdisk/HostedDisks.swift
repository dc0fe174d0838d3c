// SPDX-License-Identifier: MIT

import ArgumentParser
import BlockBack
import CLinux
import FoundationEssentials
import FuseExport
import Glibc
import PVMachine
import Synchronization
import XenBus

/// The disks on this process's machine: the first is the one that the process was started for, others come and go through
/// the control socket.
final class HostedDisks: Sendable {
  private struct Entry {
    let disk: MountedDisk
    var outcome: MountOutcome?
    var trace: DiskTrace?
  }

  private struct State {
    var entries: [Entry] = []
    var failures: [String] = []
    var signals = 0
    var isOver = false
    /// Numbers of disks that are being attached.
    var claimed: Set<UInt32> = []
  }

  private let machine: Machine
  private let state = Mutex(State())
  /// Readable once for each disk that has ended.
  private let ended = eventfd(0, CInt(EFD_CLOEXEC | EFD_SEMAPHORE))

  init(_ first: MountedDisk) {
    machine = first.machine
    add(first)
  }

  /// Whether a second signal ended disks under their users.
  var wasCutShort: Bool { state.withLock { $0.signals > 1 } }
  /// The disks that are there.
  private var disks: [MountedDisk] { state.withLock { $0.entries.filter { $0.outcome == nil }.map(\.disk) } }

  private func add(_ disk: MountedDisk) {
    state.withLock { $0.entries.append(Entry(disk: disk)) }
    Background.start { [self] in
      let outcome = disk.waitUntilUnmounted()
      state.withLock { state in
        guard let place = state.entries.firstIndex(where: { $0.disk === disk }) else { return }
        state.entries[place].outcome = outcome
        if let failure = outcome.flushFailure {
          state.failures.append("writes to \(disk.plan.imagePath) may be lost: \(failure)")
        }
      }
      _ = eventfd_write(ended, 1)
    }
  }

  /// The first signal unmounts and flushes, the second stops at once.
  func stopOnSignals() {
    Background.start { [self] in
      while true {
        guard DaemonSignals.wait() != SIGHUP else { continue }
        let count = state.withLock { state in
          state.signals += 1
          return state.signals
        }
        for disk in disks { stop(disk, count == 1 ? .orderly : .immediate) }
      }
    }
  }

  private func stop(_ disk: MountedDisk, _ urgency: StopUrgency) {
    // What waits for a backend could never be finished.
    if disk.phase == .suspended { disk.resume() }
    disk.requestStop(urgency)
  }

  /// Waits until every disk is unmounted, flushed, closed and unlocked.
  /// - Returns: a sentence for each flush that failed.
  func waitForEnd() -> [String] {
    while true {
      var value: eventfd_t = 0
      unsafe _ = eventfd_read(ended, &value)
      let failures = state.withLock { state -> [String]? in
        guard state.entries.allSatisfy({ $0.outcome != nil }) else { return nil }
        state.isOver = true
        return state.failures
      }
      if let failures { return failures }
    }
  }

  // MARK: Requests

  /// Answers a request from the control socket.
  @Sendable func answer(_ line: String) -> ControlReply {
    guard let request = try? JSONDecoder().decode(ControlRequest.self, from: Data(line.utf8)) else {
      return ControlReply(ControlAnswer(refusal: "unknown request", status: ExitStatus.usage))
    }
    do {
      return try answer(request)
    } catch let refusal as Refusal {
      return ControlReply(ControlAnswer(refusal: refusal.description, status: refusal.status))
    } catch {
      return ControlReply(ControlAnswer(refusal: "\(error)", status: ExitStatus.usage))
    }
  }

  private func answer(_ request: ControlRequest) throws -> ControlReply {
    switch request.verb {
    case .status: return ControlReply(ControlAnswer(disks: disks.map { StatusReport($0) }))
    case .attach: return ControlReply(ControlAnswer(disks: [StatusReport(try attach(request))]))
    case .stop, .stopNow:
      let disk = try disk(request)
      return try end(disk, request.verb == .stop ? .orderly : .immediate)
    default: break
    }
    let disk = try disk(request)
    switch request.verb {
    case .resize:
      try Mounting.refusing { () throws(MountError) in
        try disk.resize(to: request.byteCount, allowsShrinking: request.isAllowed ?? false)
      }
    case .eject:
      let hadMedium = try Mounting.refusing { () throws(MountError) in try disk.eject() }
      guard hadMedium else { throw Refusal("the drive \(disk.filePath) is empty", status: ExitStatus.image) }
    case .insert: try Mounting.refusing { () throws(MountError) in try disk.insert(request.image ?? "") }
    case .traceStart: setTrace(disk.trace(), of: disk)
    case .traceEnd: return ControlReply(ControlAnswer(trace: TraceReport(setTrace(nil, of: disk)?.timelines() ?? [])))
    case .suspend: disk.suspend()
    case .resume: try resume(disk, request)
    case .status, .attach, .stop, .stopNow: break
    }
    return ControlReply(ControlAnswer(disks: [StatusReport(disk)]))
  }

  /// Begins or ends a disk's trace; answers the one before.
  @discardableResult
  private func setTrace(_ trace: DiskTrace?, of disk: MountedDisk) -> DiskTrace? {
    state.withLock { state in
      guard let place = state.entries.firstIndex(where: { $0.disk === disk }) else { return nil }
      defer { state.entries[place].trace = trace }
      return state.entries[place].trace
    }
  }

  private func disk(_ request: ControlRequest) throws -> MountedDisk {
    guard let disk = disks.first(where: { $0.filePath == request.disk }) else {
      throw Refusal("\(request.disk ?? "the disk") is not mounted any more")
    }
    return disk
  }

  private func attach(_ request: ControlRequest) throws -> MountedDisk {
    let command = try AttachCommand.parse(request.arguments ?? [])
    let device = try claim(command.disk.vdev)
    defer { _ = state.withLock { $0.claimed.remove(device.number) } }
    let plan = try command.disk.plan(
      image: request.image ?? "", mountPoint: request.mountPoint ?? "", vdev: command.disk.vdev ?? device.name)
    let disk = try Mounting.refusing { () throws(MountError) in try MountedDisk.mount(plan, on: machine) }
    let isOver = state.withLock { $0.isOver }
    add(disk)
    if isOver {
      disk.requestStop()
      throw Refusal("the last disk of process \(getpid()) has just ended, and the process with it")
    }
    return disk
  }

  /// Keeps a device for the disk that is being attached: the one that was asked for, or the first from xvda on that no
  /// disk here has.
  private func claim(_ name: String?) throws -> VirtualDevice {
    try state.withLock { state in
      let device: VirtualDevice
      if let name {
        guard let named = VirtualDevice(name) else {
          throw Refusal(
            "'\(name)' is not a disk name; use xvda, xvdb, ... or a device number", status: ExitStatus.usage)
        }
        device = named
      } else {
        device = machine.freeDevice(besides: state.claimed)
      }
      state.claimed.insert(device.number)
      return device
    }
  }

  /// Ends a disk; whoever ended the last one is told of the process's end by the hang-up.
  private func end(_ disk: MountedDisk, _ urgency: StopUrgency) throws -> ControlReply {
    stop(disk, urgency)
    while true {
      let (outcome, isLast) = state.withLock { state in
        (
          state.entries.first { $0.disk === disk }?.outcome, state.entries.allSatisfy { $0.outcome != nil }
        )
      }
      if let outcome {
        return ControlReply(ControlAnswer(flushFailure: outcome.flushFailure), hangsUp: !isLast)
      }
      usleep(2000)
    }
  }

  private func resume(_ disk: MountedDisk, _ request: ControlRequest) throws {
    let command = try ResumeCommand.parse(request.arguments ?? [])
    if disk.phase != .suspended { disk.suspend() }
    disk.resume(with: command.backend.knobs(like: disk.backendKnobs))
    for _ in 0..<2000 where disk.phase != .connected { usleep(5000) }
    guard disk.phase == .connected else { throw Refusal("\(disk.filePath) did not come back: it is \(disk.phase)") }
  }
}

/// What a command asks of a running machine: one line of JSON.
struct ControlRequest: Codable {
  enum Verb: String, Codable {
    case status, attach, resize, eject, insert, suspend, resume, stop
    case stopNow = "stop now"
    case traceStart = "trace start"
    case traceEnd = "trace end"
  }

  var verb: Verb
  /// The disk's file.
  var disk: String?
  var image: String?
  var mountPoint: String?
  /// The command's own words, for those that have many options.
  var arguments: [String]?
  var byteCount: UInt64?
  var isAllowed: Bool?
}

/// What the machine answers: one line of JSON.
struct ControlAnswer: Codable {
  var refusal: String?
  var status: Int32?
  var disks: [StatusReport]?
  var flushFailure: String?
  var trace: TraceReport?
}

/// An answer, and whether the connection is closed behind it.
struct ControlReply {
  let answer: ControlAnswer
  let hangsUp: Bool

  init(_ answer: ControlAnswer, hangsUp: Bool = true) {
    self.answer = answer
    self.hangsUp = hangsUp
  }
}
