// SPDX-License-Identifier: MIT

import BlockBack
import BlockIO
import CLinux
import DiskImages
import Figures
import GuestMemory
import PVMachine
import XenHypervisor

extension Experiment {
  /// What Linux added to the protocol since, each switched on and off.
  static let features = Experiment(
    "features", "What Linux shipped",
    claim: "Indirect requests, persistent grants, larger rings and several queues are worth their trouble."
  ) { (effort) throws(MachineError) in
    var findings = Findings()
    findings.parameters = conditions(effort, [("placement", "inline"), ("ABI", "x86_64")])
    let large = try largeTable(
      "1 MiB sequential reads, 4 in flight, without data to move",
      [("11 segments", 0), ("indirect 32", 32), ("indirect 256", 256)].map { name, count in
        StackTrial(name) {
          $0.configuration.indirectSegments = count
          $0.configuration.ringPages = 4
          $0.benchmark.access = .sequentialRead
          $0.benchmark.blockByteCount = 1 << 20
          $0.benchmark.depth = 4
        }
      }, effort)
    let persistent = try persistentTable(effort)
    let cache = try cacheTables(effort)
    let pages = try ringPageTable(effort)
    let queues = try queueTable(effort)
    findings.tables = [large.table, persistent.table] + cache.tables + [pages.table, queues.table]
    findings.plots = [large.plot, persistent.plot] + cache.plots + [pages.plot, queues.plot]
    findings.outcome = [
      "1 MiB: \(Digits.rounded(large.microseconds[0])) us of CPU in 24 direct requests, "
        + "\(Digits.rounded(large.microseconds[1])) in 8 indirect ones, \(Digits.rounded(large.microseconds[2])) in one.",
      persistent.sentence, cache.sentence, pages.sentence, queues.sentence,
    ]
    return findings
  }

  private typealias Part = (table: LabTable, plot: Plot, sentence: String)

  private static func persistentTable(_ effort: LabEffort) throws(MachineError) -> Part {
    let trials = [("both persistent", true, true), ("backend maps each time", true, false), ("neither", false, false)]
      .map {
        name, front, back in
        StackTrial(name) {
          $0.configuration.frontPersistent = front
          $0.configuration.backPersistent = back
          $0.benchmark.depth = 8
        }
      }
    let results = try effort.run(trials, on: nullImage())
    var table = LabTable(
      "Persistent grants, 4 KiB random reads, 8 in flight, real mmap and munmap",
      columns: ["grants", "maps an I/O", "us an I/O", "thousand I/Os a CPU second", "against neither"])
    var points: [Plot.Point] = []
    let last = results[results.count - 1].sample { 1e6 / $0.processorPerIO }.median
    for (index, runs) in results.enumerated() {
      let rate = runs.sample { 1e6 / $0.processorPerIO }
      table.add(
        LabCell(stringLiteral: trials[index].name), LabCell(runs.sample { $0.each($0.totals.grantsMapped) }),
        LabCell(runs.sample { $0.nanosecondsPerIO / 1000 }), LabCell(rate), LabCell(rate.median / last))
      points.append(.init(x: Double(index), y: rate.median, least: rate.least, most: rate.most))
    }
    let plot = Plot(
      bars: "Persistent grants", yTitle: "thousand I/Os a CPU second", categories: trials.map(\.name),
      series: [Plot.Series("rate", points)])
    let sentence =
      "Persistent grants make 4 KiB reads \(Digits.rounded(points[0].y / last)) times as fast as mapping for each request."
    return (table, plot, sentence)
  }

  private static func ringPageTable(_ effort: LabEffort) throws(MachineError) -> Part {
    let trials = [1, 2, 4, 8, 16].map { pages in
      StackTrial("\(pages)") {
        $0.configuration.ringPages = pages
        $0.benchmark.depth = pages * 32
      }
    }
    let results = try effort.run(trials, on: nullImage())
    var table = LabTable(
      "Ring pages, 4 KiB random reads, the ring full",
      columns: ["pages", "in flight", "ns an I/O", "CPU ns an I/O", "thousand I/Os a CPU second"])
    var points: [Plot.Point] = []
    for (index, runs) in results.enumerated() {
      let rate = runs.sample { 1e6 / $0.processorPerIO }
      table.add(
        LabCell(stringLiteral: trials[index].name), LabCell(trials[index].benchmark.depth),
        LabCell(runs.sample(\.nanosecondsPerIO)), LabCell(runs.sample(\.processorPerIO)), LabCell(rate))
      points.append(.init(x: Double(index), y: rate.median, least: rate.least, most: rate.most))
    }
    let plot = Plot(
      bars: "Ring pages", yTitle: "thousand I/Os a CPU second", categories: trials.map(\.name),
      series: [Plot.Series("rate", points)])
    let sentence =
      "On a disk that answers at once 16 ring pages give \(Digits.rounded(points[4].y / points[0].y)) times the rate of one: "
      + "more in flight helps against latency, and here there is none."
    return (table, plot, sentence)
  }

  private static func cacheTables(
    _ effort: LabEffort
  ) throws(MachineError) -> (tables: [LabTable], plots: [Plot], sentence: String) {
    var tables: [LabTable] = []
    var plots: [Plot] = []
    var gain = 0.0
    let shares = effort.isQuick ? [50, 150] : [10, 25, 50, 75, 100, 125, 150, 175, 200]
    for pattern in WorkingSet.Pattern.allCases {
      var table = LabTable(
        "Grants already mapped, by working set: \(pattern.rawValue)",
        columns: ["working set, percent of the cache", "Linux's purge, percent", "true LRU, percent"])
      var linux: [Plot.Point] = []
      var lru: [Plot.Point] = []
      for share in shares {
        let trial = WorkingSet(percent: share, pattern: pattern)
        let rates = try effort.interleaved([PurgePolicy.linux, .leastRecentlyUsed]) { (policy) throws(MachineError) in
          try trial.hitPercent(policy, effort)
        }
        table.add(LabCell(share), LabCell(Sample(rates[0])), LabCell(Sample(rates[1])))
        linux.append(.init(x: Double(share), y: Sample(rates[0]).median))
        lru.append(.init(x: Double(share), y: Sample(rates[1]).median))
        gain = max(gain, Sample(rates[1]).median - Sample(rates[0]).median)
      }
      tables.append(table)
      plots.append(
        Plot(
          lines: "Grants already mapped: \(pattern.rawValue)", xTitle: "working set, percent of the cache",
          yTitle: "percent", series: [Plot.Series("Linux's purge", linux), Plot.Series("true LRU", lru)]))
    }
    let sentence =
      "True LRU finds up to \(Digits.rounded(gain)) percent more of the pages mapped than Linux's purge, which drops the lowest "
      + "references whoever uses them; with even use of all pages neither can do better than the cache's share."
    return (tables, plots, sentence)
  }
}

/// Reads through more or fewer buffers than the backend keeps mapped.
struct WorkingSet: Sendable {
  enum Pattern: String, CaseIterable, Sendable {
    case even = "all pages alike"
    case moving = "nine of ten in a tenth of the pages, which moves on"
  }

  static let cacheSize = 512
  var percent: Int
  var pattern: Pattern

  /// The share of segments whose page was mapped already.
  func hitPercent(_ policy: PurgePolicy, _ effort: LabEffort) throws(MachineError) -> Double {
    var configuration = DiskConfiguration()
    configuration.maxPersistentGrants = WorkingSet.cacheSize
    configuration.purgePolicy = policy
    configuration.indirectSegments = 0
    var machineConfiguration = MachineConfiguration()
    machineConfiguration.mapping = .alias
    let machine = try Machine(machineConfiguration)
    let disk = try machine.attach(Experiment.nullImage(), as: configuration)
    defer { disk.detach() }
    let pages = max(1, WorkingSet.cacheSize * percent / 100)
    do throws(BlockError) {
      var queue = try disk.makeQueue(0, buffers: BufferDemand(count: pages, byteCount: 4096))
      var chance = Chance()
      let start = pv_monotonic_nanoseconds()
      var before = disk.totals
      var requests = 0
      var hasWarmedUp = false
      while true {
        let elapsed = pv_monotonic_nanoseconds() - start
        if !hasWarmedUp, elapsed > effort.duration || effort.isQuick {
          hasWarmedUp = true
          before = disk.totals
        }
        if elapsed > 2 * effort.duration { break }
        for _ in 0..<64 {
          read(page(&chance, requests, pages), &queue)
          requests += 1
        }
      }
      let totals = disk.totals - before
      return Double(totals.grantsReused) * 100 / Double(max(totals.segments, 1))
    } catch { throw .disk(error) }
  }

  private func read(_ page: Int, _ queue: inout some BlockQueue & ~Copyable) {
    let extents = [queue.buffer(page)]
    unsafe extents.withUnsafeBufferPointer { extents in
      guard let base = extents.baseAddress else { return }
      let list = unsafe MemoryExtentList(unsafeStart: base, count: 1)
      _ = queue.runOne(IORequest(tag: 0, operation: .read, sectors: SectorRange(start: 0, count: 8), memory: list))
    }
  }

  private func page(_ chance: inout Chance, _ request: Int, _ pages: Int) -> Int {
    guard pattern == .moving, chance.next(10) > 0 else { return chance.next(pages) }
    let hot = max(pages / 10, 1)
    // The hot tenth moves on by itself once in a while.
    return (request / 20_000 * hot + chance.next(hot)) % pages
  }
}

/// A small, fast, repeatable source of numbers (xorshift).
struct Chance {
  private var state: UInt64 = 0x9E37_79B9_7F4A_7C15

  mutating func next(_ bound: Int) -> Int {
    state ^= state << 13
    state ^= state >> 7
    state ^= state << 17
    return Int(truncatingIfNeeded: state >> 33) % bound
  }
}
