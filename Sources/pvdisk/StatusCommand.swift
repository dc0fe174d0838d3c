// SPDX-License-Identifier: MIT

import ArgumentParser
import FoundationEssentials

/// The disks of this user that are mounted now.
enum RunningDisks {
  static func all() -> [(socket: String, report: StatusReport)] {
    ControlSocket.all.compactMap { path in
      guard let answer = ControlSocket.ask(path, "status"),
        let report = try? JSONDecoder().decode(StatusReport.self, from: Data(answer.utf8))
      else { return nil }
      return (path, report)
    }
  }

  /// The one at a mount point, named by the point itself or by the file in it.
  static func at(_ mountPoint: String) -> (socket: String, report: StatusReport)? {
    let wanted = lexicallyAbsolute(mountPoint)
    return all().first { $0.report.mountPoint == wanted || $0.report.file == wanted }
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

/// `pvdisk status`: what is mounted, and what it has done.
struct StatusCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "status", abstract: "Show the disks that are mounted, and what they have done.")

  @Argument(help: ArgumentHelp("Show this one only.", valueName: "mountpoint"))
  var mountPoint: String?

  @Flag(name: .customLong("json"), help: "Print JSON.")
  var isJSON = false

  func run() throws {
    var reports: [StatusReport]
    if let mountPoint {
      guard let found = RunningDisks.at(mountPoint) else {
        throw Refusal("no pvdisk is mounted on \(mountPoint); 'pvdisk status' lists those that are")
      }
      reports = [found.report]
      if isJSON { return print(json(found.report)) }
    } else {
      reports = RunningDisks.all().map(\.report)
      if isJSON { return print(json(reports)) }
    }
    for report in reports { print(Self.lines(report)) }
  }

  private static func lines(_ report: StatusReport) -> String {
    let back = report.statistics.backend
    func count(_ name: String) -> UInt64 { back[name] ?? 0 }
    return """
      \(report.file)
        image      \(report.image)  \(ByteSize.text(report.bytes))\(report.readOnly ? "  read-only" : "")
        stack      \(report.blockProtocol), \(report.queues) queues of \(report.ringPages) ring pages, \
      \(report.indirectSegments) segments, \(report.placement), process \(report.pid)
        rings      \(report.rings.words), \(report.rings.requests) slots of \(report.rings.slotBytes) bytes
        requests   \(count("rd_req")) reads  \(count("wr_req")) writes  \(count("f_req")) flushes  \
      \(count("ds_req")) discards
        data       \(ByteSize.text(count("rd_sect") * 512)) read  \(ByteSize.text(count("wr_sect") * 512)) written
        grants     \(count("grants_mapped")) mapped  \(count("grants_reused")) reused  \
      \(count("grants_persistent")) kept
        events     \(report.statistics.hundredths) notifications a request  \(report.statistics.kicksSent) kicks
      """
  }
}
