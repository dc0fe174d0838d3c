// SPDX-License-Identifier: MIT

import BlockIO
import CLinux
import DiskImages
import Figures
import Glibc
import PVMachine
import Synchronization
import XenWire

/// Several queues of one disk, each on a thread of its own.
struct QueueTrial: Sendable {
  var queues: Int
  var blockByteCount = 4096
  var depth = 8

  private struct Sum {
    var perSecond = 0.0
    var failure: BlockError?
  }

  /// Requests a second of all queues together.
  func run(_ effort: LabEffort) throws(MachineError) -> Double {
    var configuration = DiskConfiguration()
    configuration.queues = queues
    let machine = try Machine()
    let disk = try machine.attach(Experiment.nullImage(queues: queues), as: configuration)
    defer { disk.detach() }
    let sum = Box(Sum())
    let gate = Gate(count: queues)
    let threads = (0..<queues).map { index in
      LabThread(cpu: index) {
        let benchmark = StackBenchmark(
          access: .randomRead, blockByteCount: blockByteCount, depth: depth, duration: effort.duration)
        do throws(BlockError) {
          var queue = try disk.makeQueue(index, buffers: benchmark.demand)
          gate.arriveAndWait()
          let result = benchmark.run(on: &queue, sectorCount: disk.geometry.sectorCount)
          sum.value.withLock { $0.perSecond += result.requestsPerSecond }
        } catch {
          gate.arriveAndWait()
          sum.value.withLock { $0.failure = error }
        }
      }
    }
    for thread in threads { thread.join() }
    let result = sum.value.withLock { $0 }
    if let failure = result.failure { throw .disk(failure) }
    return result.perSecond
  }
}

/// A value that several threads hold.
final class Box<Value: Sendable>: Sendable {
  let value: Mutex<Value>
  init(_ value: Value) { self.value = Mutex(value) }
}

/// Lets threads go when all have come.
final class Gate: Sendable {
  private let missing: Atomic<Int>
  init(count: Int) { missing = Atomic(count) }

  func arriveAndWait() {
    missing.subtract(1, ordering: .acquiringAndReleasing)
    while missing.load(ordering: .acquiring) > 0 { sched_yield() }
  }
}

extension Experiment {
  /// H: one queue or several.
  static let queues = Experiment(
    "H", "Several queues",
    claim:
      "One thread serves one ring; rings for requests and responses apart, and a pair of them for each CPU, would let "
      + "several CPUs work."
  ) { (effort) throws(MachineError) in
    var findings = Findings()
    findings.parameters = conditions(
      effort,
      [
        ("I/O", "4 KiB random reads, 8 in flight in each queue"), ("placement", "inline, a thread for each queue"),
        ("CPUs", "\(pv_cpu_count())"),
      ])
    let outcome = try queueTable(effort)
    let rings = try splitTable(effort)
    findings.tables = [outcome.table, rings.table]
    findings.plots = [outcome.plot, rings.plot]
    findings.outcome = [outcome.sentence, rings.sentence]
    return findings
  }

  /// Shared and split rings with an end on each of two threads.
  private static func splitTable(
    _ effort: LabEffort
  ) throws(MachineError) -> (table: LabTable, plot: Plot, sentence: String) {
    let forms: [(String, @Sendable (inout StackTrial) -> Void)] = [
      ("classic, shared", { _ in }), ("classic, split", { $0.speak(.classic, segments: 256, split: true) }),
      ("slim64, shared", { $0.speak(.slim64, segments: 256) }),
      ("slim64, split", { $0.speak(.slim64, segments: 256, split: true) }),
      ("slim32, shared", { $0.speak(.slim32, segments: 256) }),
      ("slim32, split", { $0.speak(.slim32, segments: 256, split: true) }),
    ]
    let trials = forms.map { name, form in
      StackTrial(name) {
        form(&$0)
        $0.configuration.placement = .threads
        $0.benchmark.depth = 32
      }
    }
    let results = try effort.run(trials, on: nullImage())
    var table = LabTable(
      "One queue, an end on each of two threads, 4 KiB random reads, 32 in flight",
      columns: ["rings", "ns an I/O", "against classic, shared", "CPU ns an I/O", "CPU woken"])
    var points: [Plot.Point] = []
    let base = results[0].sample(\.nanosecondsPerIO).median
    for (index, runs) in results.enumerated() {
      let time = runs.sample(\.nanosecondsPerIO)
      table.add(
        LabCell(stringLiteral: trials[index].name), LabCell(time), LabCell(time.median / base),
        LabCell(runs.sample(\.processorPerIO)), LabCell(runs.sample { $0.each($0.totals.kicksSent) }))
      points.append(.init(x: Double(index), y: time.median, least: time.least, most: time.most))
    }
    let plot = Plot(
      bars: "Shared and split rings, two threads", yTitle: "ns an I/O", categories: trials.map(\.name),
      series: [Plot.Series("ns", points)])
    let sentence =
      "With an end on each of two threads, split rings take \(Digits.rounded(points[1].y / points[0].y)) (classic), "
      + "\(Digits.rounded(points[3].y / points[2].y)) (slim64) and \(Digits.rounded(points[5].y / points[4].y)) (slim32) times "
      + "what shared ones do: below 1 the split pays, above it costs."
    return (table, plot, sentence)
  }

  /// Throughput by the number of queues.
  static func queueTable(
    _ effort: LabEffort
  ) throws(MachineError) -> (table: LabTable, plot: Plot, sentence: String) {
    let trials = [1, 2, 4, 8].map { QueueTrial(queues: $0) }
    let results = try effort.interleaved(trials) { (trial) throws(MachineError) in try trial.run(effort) }
    var table = LabTable(
      "Requests a second by queues", columns: ["queues", "thousand I/Os a second", "against one queue"])
    var points: [Plot.Point] = []
    for (index, run) in results.enumerated() {
      let rate = Sample(run.map { $0 / 1000 })
      table.add(
        LabCell(trials[index].queues), LabCell(rate), LabCell(rate.median / Sample(results[0].map { $0 / 1000 }).median)
      )
      points.append(.init(x: Double(index), y: rate.median, least: rate.least, most: rate.most))
    }
    let plot = Plot(
      bars: "Requests a second by queues", yTitle: "thousand I/Os a second", categories: trials.map { "\($0.queues)" },
      series: [Plot.Series("all queues", points)])
    let cpus = Int(pv_cpu_count())
    let atCPUs = points[trials.lastIndex { $0.queues <= cpus } ?? 0].y
    let atTwice = points[trials.lastIndex { $0.queues <= 2 * cpus } ?? 0].y
    let sentence =
      "A queue for each of \(cpus) CPUs gives \(Digits.rounded(atCPUs / points[0].y)) times one queue's rate; at twice as many "
      + "queues as CPUs it is \(Digits.rounded(atTwice / atCPUs * 100)) percent of that."
    return (table, plot, sentence)
  }
}
