// SPDX-License-Identifier: MIT

import BlockIO
import CLinux
import DiskImages
import Figures
import Glibc
import PVMachine
import Synchronization

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
    findings.tables = [outcome.table]
    findings.plots = [outcome.plot]
    findings.outcome = [outcome.sentence]
    return findings
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
