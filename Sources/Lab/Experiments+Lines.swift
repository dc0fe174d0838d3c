// SPDX-License-Identifier: MIT

import Figures
import GuestMemory
import PVMachine
import XenWire

/// A measurement of ring traffic by layout, as a table, a plot and a sentence.
struct TrafficOutcome {
  var table: LabTable
  var plot: Plot
  /// How the first layout and the best compare, for each number of requests at a time.
  var sentences: [String]
}

extension Experiment {
  /// Counts and measures traffic on several layouts, by turns.
  static func trafficTable(
    _ title: String, _ layouts: [(name: String, traffic: RingTraffic)], _ effort: LabEffort
  ) throws(MachineError) -> TrafficOutcome {
    let runs: [[Double]]
    do throws(SystemError) {
      runs = try effort.interleaved(layouts) { (layout) throws(SystemError) in
        try RingTrafficRun(layout.traffic).run(duration: effort.duration / 4)
      }
    } catch { throw .stalled("\(error)") }
    var table = LabTable(
      title, columns: ["layout", "requests at a time", "lines moved a request (model)", "ns a request (measured)"])
    var counted: [Plot.Point] = []
    var measured: [Plot.Point] = []
    for (index, layout) in layouts.enumerated() {
      let sample = Sample(runs[index])
      let count = layout.traffic.countedTransfers()
      table.add(
        LabCell(stringLiteral: layout.name), LabCell(layout.traffic.batch), LabCell(count), LabCell(sample))
      counted.append(Plot.Point(x: Double(index), y: count))
      measured.append(Plot.Point(x: Double(index), y: sample.median, least: sample.least, most: sample.most))
    }
    let plot = Plot(
      bars: title, yTitle: "ns a request", categories: layouts.map(\.name),
      series: [Plot.Series("measured", measured)])
    return TrafficOutcome(table: table, plot: plot, sentences: compare(layouts, runs))
  }

  /// Says how the first and the best layout compare, one request at a time and all at a time.
  private static func compare(_ layouts: [(name: String, traffic: RingTraffic)], _ runs: [[Double]]) -> [String] {
    [true, false].compactMap { isSingle in
      let members = layouts.indices.filter { (layouts[$0].traffic.batch == 1) == isSingle }
      guard let first = members.first,
        let best = members.min(by: { Sample(runs[$0]).median < Sample(runs[$1]).median })
      else { return nil }
      func describe(_ index: Int) -> String {
        "'\(layouts[index].name)' \(Digits.rounded(Sample(runs[index]).median)) ns a request "
          + "(\(Digits.rounded(layouts[index].traffic.countedTransfers())) lines in the model)"
      }
      if best == first { return "No layout beats the first: \(describe(first))." }
      let factor = Sample(runs[first]).median / Sample(runs[best]).median
      return "\(describe(first)), \(describe(best)): a factor of \(Digits.rounded(factor))."
    }
  }

  private static func layouts(_ rings: [NamedRing], touchesSlots: Bool) -> [(name: String, traffic: RingTraffic)] {
    rings.flatMap { ring in
      [1, Int.max].map { batch in
        let traffic = RingTraffic(ring.picture, batch: batch, touchesSlots: touchesSlots)
        return ("\(ring.name), \(batch == 1 ? "one" : "all") at a time", traffic)
      }
    }
  }

  private static func conditions(_ effort: LabEffort) -> [(name: String, value: String)] {
    [
      ("threads", "two, pinned to two CPUs, neither sleeps"), ("line", "64 bytes"), ("runs", "\(effort.repeats)"),
      ("run", "\(effort.duration / 4_000_000) ms"),
    ]
  }

  /// B: all four index words on one line.
  static let indexLines = Experiment(
    "B", "Index words on one line",
    claim: "Producer and consumer index are on the same cache line, so that reader and writer compete for it."
  ) { (effort) throws(MachineError) in
    var findings = Findings()
    findings.parameters = conditions(effort) + [("slots", "not touched: the index words alone")]
    let rings = [
      NamedRing("one line, as Xen has it"),
      NamedRing("two lines, front's and back's (align 128)", lineSize: 64) { $0.alignment = 128 },
      NamedRing("split, words together") { ($0.isSplit, $0.indexPlacement) = (true, .together) },
      NamedRing("split, words apart") { $0.isSplit = true },
    ]
    let outcome = try trafficTable("Index words by layout", layouts(rings, touchesSlots: false), effort)
    findings.tables = [outcome.table]
    findings.plots = [outcome.plot]
    findings.outcome =
      outcome.sentences + [
        "The model counts each crossing of a line between two caches; where one word is stored by each end on its own line, "
          + "a line still crosses once for each news that it carries."
      ]
    return findings
  }

  /// C: requests and responses on one ring.
  static let sharedRing = Experiment(
    "C", "Requests and responses on one ring",
    claim: "Requests and responses share their slots, so that each line changes hands twice."
  ) { (effort) throws(MachineError) in
    var findings = Findings()
    findings.parameters = conditions(effort) + [("slots", "stored and loaded as far as requests and responses go")]
    let rings = [
      NamedRing("classic, shared"), NamedRing("classic, split") { $0.isSplit = true },
      NamedRing("slim64, shared") { $0.variant = .slim64 },
      NamedRing("slim64, split") { ($0.variant, $0.isSplit) = (.slim64, true) },
      NamedRing("slim32, shared") { $0.variant = .slim32 },
      NamedRing("slim32, split") { ($0.variant, $0.isSplit) = (.slim32, true) },
    ]
    let outcome = try trafficTable("Shared and split rings", layouts(rings, touchesSlots: true), effort)
    findings.tables = [outcome.table, writers(rings)]
    findings.plots = [outcome.plot]
    findings.rings = [
      NamedRing("") { ($0.variant, $0.isSplit, $0.usesWholePage) = (.slim32, true, true) }.picture
    ]
    findings.outcome = outcome.sentences
    return findings
  }

  private static func writers(_ rings: [NamedRing]) -> LabTable {
    var table = LabTable("Who stores to the lines", columns: ["layout", "front alone", "back alone", "both"])
    for ring in rings {
      let areas = ring.picture.areas
      func lines(_ writers: RingWriters) -> LabCell { LabCell(areas.map { $0.lines(writtenBy: writers) }.reduce(0, +)) }
      table.add(LabCell(stringLiteral: ring.name), lines(.front), lines(.back), lines([.front, .back]))
    }
    return table
  }
}
