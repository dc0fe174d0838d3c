// SPDX-License-Identifier: MIT

import BlockIO
import FoundationEssentials
import FuseExport
import Glibc
import PVMachine
import SharedRing
import XenWire

/// What a running disk says of itself: the form of `status --json`.
struct StatusReport: Codable {
  var pid: Int32
  var image: String
  var mountPoint: String
  var file: String
  var device: String
  var readOnly: Bool
  var bytes: UInt64
  var sectorSize: Int
  var queues: Int
  var ringPages: Int
  var indirectSegments: Int
  var persistentGrants: Bool
  var blockProtocol: String
  var placement: String
  /// `connected`, `suspended`, `gone`, or on the way between them.
  var phase: String
  var rings: AgreementReport
  /// Sectors that their protection information did not vouch for: one sentence each, the first ones and the last.
  var protectionErrors: [String]
  var statistics: StatisticsReport

  init(_ mounted: MountedDisk) {
    pid = getpid()
    image = mounted.imagePath.map { absolutePath($0) } ?? ""
    mountPoint = absolutePath(mounted.plan.fuse.mountPoint)
    file = mounted.filePath
    device = mounted.plan.disk.device
    let geometry = mounted.geometry
    readOnly = geometry.isReadOnly
    bytes = geometry.byteCount
    sectorSize = geometry.logicalSectorSize
    let agreement = mounted.agreement
    queues = agreement.queues
    ringPages = agreement.plan.ringPages
    indirectSegments = agreement.segments
    persistentGrants = agreement.isPersistent
    blockProtocol = agreement.plan.blockProtocol.rawValue
    placement = mounted.plan.disk.placement.rawValue
    phase = mounted.phase.rawValue
    rings = AgreementReport(mounted.agreement)
    protectionErrors = mounted.protectionErrors
    statistics = StatisticsReport(mounted.statistics)
  }
}

/// What the two ends agreed on, whatever was asked for.
struct AgreementReport: Codable {
  var variant: String
  var split: Bool
  var splitIndices: String?
  var responsePages: Int?
  var wholePage: Bool
  var alignment: Int
  var dif: String
  /// 1, 2 or 3, and `crc` or `ip`, where there are tuples.
  var difType: Int?
  var difGuard: String?
  var slotBytes: Int
  var requests: Int
  var segments: Int
  var notifyFront: String
  var notifyBack: String

  init(_ agreement: RingAgreement) {
    let plan = agreement.plan
    let geometry = RingGeometry(plan)
    variant = plan.variant.rawValue
    split = plan.isSplit
    splitIndices = plan.isSplit ? plan.indexPlacement.rawValue : nil
    responsePages = plan.isSplit ? geometry.responsePages : nil
    wholePage = plan.usesWholePage
    alignment = plan.alignment
    dif = plan.protection.rawValue
    if plan.protection != .off {
      difType = Int(plan.protectionProfile.type)
      difGuard = plan.protectionProfile.usesInternetChecksum ? "ip" : "crc"
    }
    slotBytes = geometry.requestStride
    requests = Int(geometry.depth)
    segments = agreement.segments
    notifyFront = agreement.frontNotify.rawValue
    notifyBack = agreement.backNotify.rawValue
  }

  /// As `slim32 split whole-page align=64`.
  var words: String {
    var words = [variant]
    if split { words.append("split") }
    if wholePage { words.append("whole-page") }
    if alignment > 0 { words.append("align=\(alignment)") }
    if dif != "off" { words.append("dif=\(dif)") }
    return words.joined(separator: " ")
  }
}

/// Counters, as `--statistics` prints them: sums, and each queue apart.
struct StatisticsReport: Codable {
  var backend: [String: UInt64]
  var frontend: [String: UInt64]
  var fuse: [String: UInt64]
  var kicksSent: UInt64
  var kicksSaved: UInt64
  var notificationsPerRequest: Double
  var queues: [QueueReport]

  struct QueueReport: Codable {
    var backend: [String: UInt64]
    var frontend: [String: UInt64]
    /// Times by `read`, `write`, `flush`, `discard`.
    var latencies: [String: LatencyReport]
  }

  /// One queue's times by name.
  private static func latencies(_ statistics: DiskStatistics, _ index: Int) -> [String: LatencyReport] {
    var reports: [String: LatencyReport] = [:]
    for (kind, buckets) in statistics.latencies[index] where !buckets.isEmpty {
      reports[kind.name] = LatencyReport(
        count: buckets.reduce(0) { $0 + $1.count }, sumNanoseconds: statistics.latencySums[index][kind] ?? 0,
        buckets: buckets.map { LatencyReport.Bucket(belowNanoseconds: $0.below, count: $0.count) })
    }
    return reports
  }

  /// All queues' times of one operation.
  func latency(_ operation: String) -> LatencyReport {
    LatencyReport.merged(queues.compactMap { $0.latencies[operation] })
  }

  init(_ statistics: DiskStatistics) {
    backend = Self.sum(statistics.backend)
    frontend = Self.sum(statistics.frontend)
    let fuse = statistics.fuse
    self.fuse = [
      "reads": fuse.reads, "writes": fuse.writes, "partial_sector_writes": fuse.partialSectorWrites,
      "flushes": fuse.flushes, "allocations": fuse.allocations, "others": fuse.others,
      "bytes_read": fuse.bytesRead, "bytes_written": fuse.bytesWritten, "failures": fuse.failures,
      "wake_ups": fuse.wakeUps,
    ]
    kicksSent = statistics.kicksSent
    kicksSaved = statistics.kicksSaved
    let requests = statistics.frontendSum("requests")
    let notifications = statistics.frontendSum("notifications") + statistics.backendSum("notifications")
    notificationsPerRequest = requests == 0 ? 0 : Double(notifications) / Double(requests)
    queues = statistics.backend.indices.map { index in
      QueueReport(
        backend: statistics.backend[index], frontend: statistics.frontend[index],
        latencies: Self.latencies(statistics, index))
    }
  }

  /// Notifications for each request, with two decimals.
  var hundredths: String {
    let value = Int((notificationsPerRequest * 100).rounded())
    return "\(value / 100).\(value % 100 < 10 ? "0" : "")\(value % 100)"
  }

  private static func sum(_ queues: [[String: UInt64]]) -> [String: UInt64] {
    queues.reduce(into: [:]) { sums, queue in sums.merge(queue, uniquingKeysWith: +) }
  }
}

/// Stable JSON: sorted keys, slashes as they are.
func json(_ value: some Encodable, pretty: Bool = true) -> String {
  let encoder = JSONEncoder()
  encoder.outputFormatting =
    pretty
    ? [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
    : [
      .sortedKeys, .withoutEscapingSlashes,
    ]
  guard let data = try? encoder.encode(value) else { return "null" }
  return String(decoding: data, as: UTF8.self)
}

/// A path that does not depend on the working directory; links are followed as far as they lead.
func absolutePath(_ path: String) -> String {
  guard let resolved = unsafe realpath(path, nil) else {
    guard !path.hasPrefix("/"), let here = unsafe getcwd(nil, 0) else { return path }
    defer { unsafe free(here) }
    return unsafe String(cString: here) + "/" + path
  }
  defer { unsafe free(resolved) }
  return unsafe String(cString: resolved)
}
