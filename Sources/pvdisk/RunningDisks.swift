// SPDX-License-Identifier: MIT

import FoundationEssentials

/// The disks of this user that are mounted now, on whatever machine.
enum RunningDisks {
  /// A disk, and the control socket of its machine.
  struct Found {
    let socket: String
    let report: StatusReport
  }

  /// Seconds that a machine may take to say what its disks are; one that hangs must not hold up the others for ever.
  private static let patience = 20

  static func all() -> [Found] {
    ControlSocket.all.flatMap { path -> [Found] in
      guard !isStopped(path) else {
        say("pvdisk: the machine behind \(path) is stopped; its disks are left out")
        return []
      }
      let answer = try? ask(path, ControlRequest(verb: .status), patience: patience)
      return (answer?.disks ?? []).map { Found(socket: path, report: $0) }
    }
  }

  /// Whether a machine's process, after which its socket is named, was stopped by a signal.
  private static func isStopped(_ socket: String) -> Bool {
    let process = socket.split(separator: "/").last?.prefix { $0 != "." } ?? ""
    let state = readText("/proc/\(process)/status")?.split(separator: "\n").first { $0.hasPrefix("State:") }
    return state?.contains("T (stopped)") ?? false
  }

  /// The one at a mount point, named by the point itself or by the file in it.
  static func at(_ mountPoint: String) -> Found? {
    let wanted = lexicallyAbsolute(mountPoint)
    return all().first { $0.report.mountPoint == wanted || $0.report.file == wanted }
  }

  /// The disk that somebody means by a mount point, a file, or a name such as `xvdb`.
  /// - Parameter machine: a process number, or a mount point of the machine; needed when a name is on several.
  static func named(_ name: String, on machine: String?) throws -> Found {
    if machine == nil, let found = at(name) { return found }
    let disks = try machine.map { try self.machine($0) } ?? all()
    let found = disks.filter { $0.report.device == name || $0.report.file == lexicallyAbsolute(name) }
    if found.count > 1 {
      throw Refusal("\(name) is on \(found.count) machines; say which with --from PID", status: ExitStatus.usage)
    }
    guard let disk = found.first else {
      throw Refusal("no disk of pvdisk is \(name); 'pvdisk status' lists those that are")
    }
    return disk
  }

  /// The disks of a machine, named by its process or by one of its mount points; without a name the only machine's.
  static func machine(_ name: String?) throws -> [Found] {
    let all = all()
    guard let name else {
      let sockets = Set(all.map(\.socket))
      guard sockets.count <= 1 else {
        throw Refusal(
          "there are \(sockets.count) machines; say which with --to PID or --to MOUNTPOINT ('pvdisk status' lists them)",
          status: ExitStatus.usage)
      }
      guard !all.isEmpty else { throw Refusal("no machine is running; 'pvdisk mount' starts one") }
      return all
    }
    let socket = Int32(name).flatMap { pid in all.first { $0.report.pid == pid } } ?? at(name)
    guard let socket = socket?.socket else {
      throw Refusal("\(name) is neither the process nor a mount point of a running machine; see 'pvdisk status'")
    }
    return all.filter { $0.socket == socket }
  }

  /// Asks a machine; its refusal becomes this command's.
  static func ask(_ socket: String, _ request: ControlRequest, patience: Int = 0) throws -> ControlAnswer {
    let onSilence = { say("pvdisk: the machine behind \(socket) does not answer; its disks are left out") }
    guard
      let line = ControlSocket.ask(socket, json(request, pretty: false), patience: patience, onSilence: onSilence),
      let answer = try? JSONDecoder().decode(ControlAnswer.self, from: Data(line.utf8))
    else { throw Refusal("the machine behind \(socket) ended without an answer") }
    if let refusal = answer.refusal { throw Refusal(refusal, status: answer.status ?? ExitStatus.environment) }
    return answer
  }

  /// An absolute path without touching the last component, which may be a dead mount: its parent is resolved, it is not.
  static func lexicallyAbsolute(_ path: String) -> String {
    var trimmed = path
    while trimmed.count > 1, trimmed.hasSuffix("/") { trimmed.removeLast() }
    guard trimmed != "/", trimmed != ".", trimmed != "..", let slash = trimmed.lastIndex(of: "/") else {
      return trimmed.contains("/") || trimmed == "." || trimmed == ".."
        ? absolutePath(trimmed) : absolutePath(".") + "/" + trimmed
    }
    let parent = trimmed[..<slash].isEmpty ? "/" : String(trimmed[..<slash])
    let resolved = absolutePath(parent)
    return (resolved == "/" ? "" : resolved) + String(trimmed[slash...])
  }
}
