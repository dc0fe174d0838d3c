// SPDX-License-Identifier: MIT

import ArgumentParser

/// `pvdisk status`: what is mounted, and what it has done.
struct StatusCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "status", abstract: "Show the disks that are mounted, and what they have done.")

  @Argument(help: ArgumentHelp("Show this one only.", valueName: "mountpoint"))
  var mountPoint: String?

  @Flag(name: .customLong("json"), help: "Print JSON.")
  var isJSON = false

  @Flag(help: "Print counters and latency histograms in the OpenMetrics text format.")
  var metrics = false

  func validate() throws {
    if metrics, isJSON { throw ValidationError("--json and --metrics exclude each other") }
  }

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
    if metrics { return print(MetricsText.text(reports)) }
    for report in reports { print(Self.lines(report)) }
  }

  /// A time in the unit that suits it.
  private static func time(_ nanoseconds: UInt64) -> String {
    nanoseconds < 10_000
      ? "\(nanoseconds) ns" : nanoseconds < 10_000_000 ? "\(nanoseconds / 1000) us" : "\(nanoseconds / 1_000_000) ms"
  }

  /// Half, nearly all, and all but the worst.
  private static func latencies(_ statistics: StatisticsReport) -> String {
    ["read", "write", "flush"].compactMap { name in
      let latency = statistics.latency(name)
      guard latency.count > 0 else { return nil }
      let times = [0.5, 0.99, 0.999].map { time(latency.percentile($0)) }.joined(separator: " ")
      return "\n  \(name.padding(toWidth: 11))\(times)  (50 %, 99 %, 99.9 % of \(latency.count) below)"
    }.joined()
  }

  private static func lines(_ report: StatusReport) -> String {
    let back = report.statistics.backend
    func count(_ name: String) -> UInt64 { back[name] ?? 0 }
    return """
      \(report.file)
        image      \(report.image)  \(ByteSize.text(report.bytes))\(report.readOnly ? "  read-only" : "")
        stack      \(report.blockProtocol), \(report.queues) queues of \(report.ringPages) ring pages, \
      \(report.indirectSegments) segments, \(report.placement), process \(report.pid)\(report.phase == "connected" ? "" : ", \(report.phase)")
        rings      \(report.rings.words), \(report.rings.requests) slots of \(report.rings.slotBytes) bytes
        requests   \(count("rd_req")) reads  \(count("wr_req")) writes  \(count("f_req")) flushes  \
      \(count("ds_req")) discards
        data       \(ByteSize.text(count("rd_sect") * 512)) read  \(ByteSize.text(count("wr_sect") * 512)) written
        grants     \(count("grants_mapped")) mapped  \(count("grants_reused")) reused  \
      \(count("grants_persistent")) kept
        events     \(report.statistics.hundredths) notifications a request  \(report.statistics.kicksSent) kicks\(latencies(report.statistics))
      """
  }
}
