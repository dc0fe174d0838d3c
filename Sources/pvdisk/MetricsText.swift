// SPDX-License-Identifier: MIT

/// A machine's disks in the OpenMetrics text format, for Prometheus and whoever reads it.
enum MetricsText {
  /// Levels; everything else only grows.
  private static let levels: Set<String> = ["grants_persistent", "stuck_pages", "buffer_pages"]

  static func text(_ reports: [StatusReport]) -> String {
    var lines: [String] = []
    lines += family("pvdisk_disk", "info", "A disk, and how it is attached.", reports) { report in
      [
        (
          "_info",
          [
            ("image", report.image), ("device", report.device), ("protocol", report.blockProtocol),
            ("placement", report.placement), ("phase", report.phase), ("pid", "\(report.pid)"),
          ], "1"
        )
      ]
    }
    lines += family("pvdisk_disk_size_bytes", "gauge", "The disk's size.", reports) { [("", [], "\($0.bytes)")] }
    lines += family("pvdisk_kicks", "counter", "Sleeping virtual CPUs that an event woke.", reports) {
      [("_total", [], "\($0.statistics.kicksSent)")]
    }
    lines += family("pvdisk_kicks_saved", "counter", "Events whose receiver was awake.", reports) {
      [("_total", [], "\($0.statistics.kicksSaved)")]
    }
    lines += counters("backend", reports) { $0.backend }
    lines += counters("frontend", reports) { $0.frontend }
    lines += latencies(reports)
    return lines.joined(separator: "\n") + "\n# EOF"
  }

  private static func counters(
    _ end: String, _ reports: [StatusReport], _ values: (StatisticsReport.QueueReport) -> [String: UInt64]
  ) -> [String] {
    let names = Set(reports.flatMap { $0.statistics.queues.flatMap { values($0).keys } }).sorted()
    return names.flatMap { name in
      let isLevel = levels.contains(name)
      return family(
        "pvdisk_\(end)_\(name)", isLevel ? "gauge" : "counter", "The \(end)'s counter \(name), by queue.", reports
      ) { report in
        report.statistics.queues.enumerated().map { index, queue in
          (isLevel ? "" : "_total", [("queue", "\(index)")], "\(values(queue)[name] ?? 0)")
        }
      }
    }
  }

  private static func latencies(_ reports: [StatusReport]) -> [String] {
    family(
      "pvdisk_io_latency_seconds", "histogram", "Time from the ring to the answer, by queue and operation.", reports
    ) { report in
      report.statistics.queues.enumerated().flatMap { index, queue in
        queue.latencies.sorted { $0.key < $1.key }.flatMap { operation, latency in
          let labels = [("operation", operation), ("queue", "\(index)")]
          var total: UInt64 = 0
          var samples: [Sample] = latency.buckets.map { bucket in
            total += bucket.count
            return ("_bucket", labels + [("le", "\(Double(bucket.belowNanoseconds) / 1e9)")], "\(total)")
          }
          samples.append(("_bucket", labels + [("le", "+Inf")], "\(latency.count)"))
          samples.append(("_count", labels, "\(latency.count)"))
          samples.append(("_sum", labels, "\(Double(latency.sumNanoseconds) / 1e9)"))
          return samples
        }
      }
    }
  }

  typealias Sample = (suffix: String, labels: [(String, String)], value: String)

  private static func family(
    _ name: String, _ type: String, _ help: String, _ reports: [StatusReport], _ samples: (StatusReport) -> [Sample]
  ) -> [String] {
    var lines = ["# TYPE \(name) \(type)"]
    if name.hasSuffix("_seconds") || name.hasSuffix("_bytes") {
      lines.append("# UNIT \(name) \(name.split(separator: "_").last ?? "")")
    }
    lines.append("# HELP \(name) \(help)")
    for report in reports {
      for sample in samples(report) {
        let labels = ([("disk", report.file)] + sample.labels).map { "\($0)=\"\(escaped($1))\"" }.joined(separator: ",")
        lines.append("\(name)\(sample.suffix){\(labels)} \(sample.value)")
      }
    }
    return lines
  }

  private static func escaped(_ text: String) -> String {
    text.replacing("\\", with: "\\\\").replacing("\"", with: "\\\"").replacing("\n", with: "\\n")
  }
}

/// Times of one operation on one queue, from the ring to the answer.
struct LatencyReport: Codable {
  struct Bucket: Codable {
    /// Times in the bucket are below this.
    var belowNanoseconds: UInt64
    var count: UInt64
  }

  var count: UInt64
  var sumNanoseconds: UInt64
  /// The buckets that hold something, shortest first; a percentile is at most an eighth too long.
  var buckets: [Bucket]

  /// The time that `fraction` of the I/Os stayed below.
  func percentile(_ fraction: Double) -> UInt64 {
    let wanted = UInt64((Double(count) * fraction).rounded(.up))
    var seen: UInt64 = 0
    for bucket in buckets {
      seen += bucket.count
      if seen >= wanted { return bucket.belowNanoseconds }
    }
    return buckets.last?.belowNanoseconds ?? 0
  }

  /// Several queues as one.
  static func merged(_ reports: [LatencyReport]) -> LatencyReport {
    var counts: [UInt64: UInt64] = [:]
    for bucket in reports.flatMap(\.buckets) { counts[bucket.belowNanoseconds, default: 0] += bucket.count }
    return LatencyReport(
      count: reports.reduce(0) { $0 + $1.count }, sumNanoseconds: reports.reduce(0) { $0 + $1.sumNanoseconds },
      buckets: counts.sorted { $0.key < $1.key }.map { Bucket(belowNanoseconds: $0.key, count: $0.value) })
  }
}
