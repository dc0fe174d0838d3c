// SPDX-License-Identifier: MIT

import DiskImages
import Figures
import PVMachine
import SharedRing
import XenWire

extension Experiment {
  /// What every measurement of the whole stack says of itself.
  static func conditions(_ effort: LabEffort, _ more: [(name: String, value: String)]) -> [(
    name: String, value: String
  )] {
    more + [
      ("image", "null: moves no data, so that what is left is the ring, the grants and the events"),
      ("mapping", "remap"),
      ("CPU ns", "of the whole process: what else runs on the machine does not count"),
      ("runs", "\(effort.repeats), by turns"), ("run", "\(effort.duration / 1_000_000) ms"),
    ]
  }

  /// A disk that moves no data: 1 GiB.
  static func nullImage(queues: Int = 1) -> NullImage { NullImage(sectorCount: 1 << 21, queueCount: queues) }

  /// E: who wakes whom, and how often.
  static let notifications = Experiment(
    "E", "Notifications",
    claim:
      "Both ends kick whenever they have been through the ring; with the network's interrupt mitigation they would "
      + "poll while there is a lot to do."
  ) { (effort) throws(MachineError) in
    var findings = Findings()
    findings.parameters = conditions(effort, [("I/O", "4 KiB random reads"), ("placement", "threads")])
    var trials: [StackTrial] = []
    let policies: [(String, @Sendable (inout StackTrial) -> Void)] = [
      ("hold-off, sleeps at once", { $0.configuration.spinNanoseconds = 0 }),
      ("hold-off, looks 50 us first", { _ in }),
      ("adaptive", { $0.configuration.backNotify = .adaptive }),
      ("both poll", { ($0.configuration.frontNotify, $0.configuration.backNotify) = (.poll, .poll) }),
    ]
    for depth in [1, 32] {
      for (policy, change) in policies {
        trials.append(
          StackTrial("\(policy), depth \(depth)") {
            $0.configuration.placement = .threads
            $0.benchmark.depth = depth
            change(&$0)
          })
      }
    }
    let results = try effort.run(trials, on: nullImage())
    var table = LabTable(
      "Notifications and time of one I/O",
      columns: ["policy, queue depth", "front notifies", "back notifies", "CPU woken", "ns an I/O", "CPU ns an I/O"])
    var time: [Plot.Point] = []
    var processor: [Plot.Point] = []
    for (index, runs) in results.enumerated() {
      let elapsed = runs.sample(\.nanosecondsPerIO)
      let used = runs.sample(\.processorPerIO)
      table.add(
        LabCell(stringLiteral: trials[index].name), LabCell(runs.sample { $0.each($0.totals.frontNotifications) }),
        LabCell(runs.sample { $0.each($0.totals.backNotifications) }),
        LabCell(runs.sample { $0.each($0.totals.kicksSent) }), LabCell(elapsed), LabCell(used))
      time.append(.init(x: Double(index), y: elapsed.median, least: elapsed.least, most: elapsed.most))
      processor.append(.init(x: Double(index), y: used.median, least: used.least, most: used.most))
    }
    findings.tables = [table]
    findings.plots = [
      Plot(
        bars: "What an I/O takes, by who sleeps when", yTitle: "ns an I/O", categories: trials.map(\.name),
        series: [Plot.Series("elapsed", time), Plot.Series("CPU, both threads", processor)])
    ]
    findings.outcome = notificationOutcome(results)
    findings.corrections = [
      "The thread already says that kicks are fewer than 'one a request' since blkback looks before it sleeps; the event "
        + "words make it fewer still: nobody kicks an end that is awake."
    ]
    return findings
  }

  private static func notificationOutcome(_ results: [[StackTrial.Result]]) -> [String] {
    let asleep = results[0].sample(\.nanosecondsPerIO).median
    let looking = results[1].sample(\.nanosecondsPerIO).median
    let one = results[1].sample { $0.each($0.totals.kicksSent) }.median
    func notifications(_ index: Int) -> String {
      Digits.rounded(
        results[index].sample { $0.each($0.totals.frontNotifications + $0.totals.backNotifications) }.median)
    }
    return [
      "Looking for 50 us before sleeping changes a single I/O from \(Digits.rounded(asleep)) to "
        + "\(Digits.rounded(looking)) ns, with \(Digits.rounded(one)) wake-ups an I/O left.",
      "Notifications an I/O, both ends together, one at a time: \(notifications(1)) with hold-off, \(notifications(2)) "
        + "adaptive, \(notifications(3)) when both poll; 32 in flight: \(notifications(5)), \(notifications(6)) and "
        + "\(notifications(7)). The hold-off of the event words already does most of what the thread asks for.",
    ]
  }

  /// F: what cutting a large I/O to pieces costs.
  static let largeRequests = Experiment(
    "F", "One large I/O",
    claim: "A 1 MiB I/O, which a disk takes as one, is cut into 24 requests of 44 KiB, which delays it."
  ) { (effort) throws(MachineError) in
    var findings = Findings()
    findings.parameters = conditions(
      effort, [("I/O", "1 MiB sequential reads, one at a time"), ("placement", "inline")])
    let trials = StackTrial.forms {
      $0.benchmark.access = .sequentialRead
      $0.benchmark.blockByteCount = 1 << 20
    }
    let alone = try largeTable("One 1 MiB read at a time, without data to move", trials, effort)
    let deep = try deepTables(effort)
    findings.tables = [alone.table] + deep.tables
    findings.plots = [alone.plot] + deep.plots
    let first = alone.microseconds[0]
    let last = alone.microseconds[2]
    findings.outcome =
      [
        "24 ring requests it is: 23 of 45 056 bytes carry 1 036 288 of the 1 048 576, the 24th the rest.",
        "Without data to move, 1 MiB takes \(Digits.rounded(first)) us of CPU in 24 requests and \(Digits.rounded(last)) us in one: "
          + (first > last * 1.02
            ? "cutting costs \(Digits.rounded(first - last)) us on this side; "
            : "cutting costs nothing on this side, 24 slots are read as fast as a page of descriptors; ")
          + "what a disk pays that works the pieces off one after the other comes on top.",
      ] + deep.sentences
    findings.corrections = [
      "24 requests are right, but the sum given for 23 of them, 1 081 344 bytes, is that of 24.",
      "Linux 3.11 is said to have solved it: blkfront's default of 32 segments still makes 8 requests of a MiB.",
    ]
    return findings
  }

  /// Trials of 1 MiB as a table and a plot.
  static func largeTable(
    _ title: String, _ trials: [StackTrial], _ effort: LabEffort
  ) throws(MachineError) -> (table: LabTable, plot: Plot, microseconds: [Double]) {
    let results = try effort.run(trials, on: nullImage())
    var table = LabTable(
      title,
      columns: [
        "protocol", "ring requests", "segments", "front notifies", "back notifies", "us an I/O", "CPU us an I/O",
      ])
    var points: [Plot.Point] = []
    for (index, runs) in results.enumerated() {
      let time = runs.sample { $0.processorPerIO / 1000 }
      table.add(
        LabCell(stringLiteral: trials[index].name), LabCell(runs.sample { $0.each($0.totals.requests) }),
        LabCell(runs.sample { $0.each($0.totals.segments) }),
        LabCell(runs.sample { $0.each($0.totals.frontNotifications) }),
        LabCell(runs.sample { $0.each($0.totals.backNotifications) }),
        LabCell(runs.sample { $0.nanosecondsPerIO / 1000 }), LabCell(time))
      points.append(.init(x: Double(index), y: time.median, least: time.least, most: time.most))
    }
    let plot = Plot(
      bars: title, yTitle: "CPU us an I/O", categories: trials.map(\.name), series: [Plot.Series("us", points)])
    return (table, plot, points.map(\.y))
  }

  /// Old and new forms at depth 64, in both sizes: without data, and from a cached file.
  ///
  /// All pages stay mapped, so that forms are compared and not how many pages a backend keeps; the first table shows
  /// what becomes of it with the 1056 that blkback keeps.
  private static func deepTables(
    _ effort: LabEffort
  ) throws(MachineError) -> (tables: [LabTable], plots: [Plot], sentences: [String]) {
    var tables: [LabTable] = []
    var plots: [Plot] = []
    var sentences: [String] = []
    let scratch = try ScratchImage(byteCount: effort.isQuick ? 4 << 20 : 128 << 20)
    defer { scratch.remove() }
    for (size, bytes) in [("1 MiB", 1 << 20), ("4 KiB", 4096)] {
      func trials(keeping pages: Int) -> [StackTrial] {
        StackTrial.forms {
          $0.configuration.maxPersistentGrants = pages
          $0.benchmark.blockByteCount = bytes
          $0.benchmark.depth = 64
        }
      }
      let all = trials(keeping: 100_000)
      let null = try effort.run(all, on: nullImage())
      let cached = try effort.run(all, on: scratch.image)
      let few = try effort.run(trials(keeping: 1056), on: nullImage())
      let cachedFew = try effort.run(trials(keeping: 1056), on: scratch.image)
      let deep = DeepTable(
        size: size, names: all.map(\.name), null: null, cached: cached, few: few, cachedFew: cachedFew)
      tables.append(deep.table)
      plots.append(deep.plot)
      sentences.append(deep.sentence)
    }
    return (tables, plots, sentences)
  }

  /// J: a frontend of another word size.
  static let conversion = Experiment(
    "J", "32 bits on 64",
    claim: "A 32-bit guest's requests have another size, which makes the host convert and copy each of them."
  ) { (effort) throws(MachineError) in
    var findings = Findings()
    findings.parameters = conditions(effort, [("I/O", "4 KiB random reads"), ("placement", "inline")])
    var trials: [StackTrial] = []
    for depth in [1, 32] {
      for (name, abi) in [("x86_64", BlockProtocol.x86_64), ("x86_32", .x86_32), ("arm", .arm)] {
        trials.append(
          StackTrial("\(name), depth \(depth)") {
            $0.configuration.blockProtocol = abi
            $0.benchmark.depth = depth
          })
      }
      // The form that is the same everywhere, for comparison.
      trials.append(
        StackTrial("slim32, depth \(depth)") {
          $0.speak(.slim32, segments: 256)
          $0.benchmark.depth = depth
        })
    }
    let results = try effort.run(trials, on: nullImage())
    var table = LabTable(
      "One I/O by ABI",
      columns: ["ABI, queue depth", "slot", "response", "ns an I/O", "CPU ns an I/O", "against x86_64"])
    var points: [Plot.Point] = []
    for (index, runs) in results.enumerated() {
      let time = runs.sample(\.processorPerIO)
      let native = results[index / 4 * 4].sample(\.processorPerIO).median
      let ring = RingPicture(trials[index].configuration.plan).requests
      table.add(
        LabCell(stringLiteral: trials[index].name), LabCell(ring.slotSize), LabCell(ring.responseSize),
        LabCell(runs.sample(\.nanosecondsPerIO)), LabCell(time), LabCell(time.median / native))
      points.append(.init(x: Double(index), y: time.median, least: time.least, most: time.most))
    }
    findings.tables = [table]
    findings.plots = [
      Plot(
        bars: "One I/O by ABI", yTitle: "CPU ns an I/O", categories: trials.map(\.name),
        series: [Plot.Series("ns", points)])
    ]
    let more = (results[1].sample(\.processorPerIO).median / results[0].sample(\.processorPerIO).median - 1) * 100
    findings.outcome = [
      "A 32-bit ring on a 64-bit backend takes \(Digits.rounded(more)) percent more CPU time for a round trip here (less than 0: "
        + "less). The copy out of the "
        + "ring has to be made in any case, because the guest can change a slot while it is looked at; formats differ only in "
        + "offsets that the compiler knows, so there is nothing left to convert."
    ]
    findings.corrections = ["A 32-bit slot has 108 bytes, not 102: 4 + 8 + 8 + 11 times 8."]
    return findings
  }
}
