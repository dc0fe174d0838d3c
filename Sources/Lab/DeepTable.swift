// SPDX-License-Identifier: MIT

import Figures
import PVMachine

/// The forms of the ring with 64 I/Os in flight, one size of I/O: the comparison that the overhaul is judged by.
struct DeepTable {
  let size: String
  let names: [String]
  /// Without data to move, all pages mapped.
  let null: [[StackTrial.Result]]
  /// From a cached file, all pages mapped.
  let cached: [[StackTrial.Result]]
  /// Without data to move, 1056 pages mapped.
  let few: [[StackTrial.Result]]
  /// From a cached file, 1056 pages mapped.
  let cachedFew: [[StackTrial.Result]]

  private func times(_ results: [[StackTrial.Result]]) -> [Sample] {
    results.map { $0.sample { $0.processorPerIO / 1000 } }
  }

  var table: LabTable {
    var table = LabTable(
      "\(size) random reads, 64 in flight, CPU us an I/O",
      columns: [
        "protocol", "ring requests", "no data", "times as fast as 11", "cached file", "times as fast as 11 ",
        "no data, 1056 pages kept", "times as fast as 11  ", "cached file, 1056 pages kept", "times as fast as 11   ",
      ])
    let samples = (null: times(null), cached: times(cached), few: times(few), cachedFew: times(cachedFew))
    for index in names.indices {
      table.add(
        LabCell(stringLiteral: names[index]), LabCell(null[index].sample { $0.each($0.totals.requests) }),
        LabCell(samples.null[index]), LabCell(samples.null[0].median / samples.null[index].median),
        LabCell(samples.cached[index]), LabCell(samples.cached[0].median / samples.cached[index].median),
        LabCell(samples.few[index]), LabCell(samples.few[0].median / samples.few[index].median),
        LabCell(samples.cachedFew[index]), LabCell(samples.cachedFew[0].median / samples.cachedFew[index].median))
    }
    return table
  }

  var plot: Plot {
    func series(_ name: String, _ samples: [Sample]) -> Plot.Series {
      Plot.Series(
        name,
        samples.enumerated().map { index, time in
          Plot.Point(x: Double(index), y: time.median, least: time.least, most: time.most)
        })
    }
    return Plot(
      bars: "\(size) random reads, 64 in flight", yTitle: "CPU us an I/O", categories: names,
      series: [series("no data", times(null)), series("cached file", times(cached))])
  }

  var sentence: String {
    let last = names.count - 1
    func gain(_ results: [[StackTrial.Result]], _ base: Int) -> String {
      Digits.rounded(times(results)[base].median / times(results)[last].median)
    }
    return
      "\(size), 64 in flight: '\(names[last])' is \(gain(null, 0)) times as fast as '\(names[0])' and \(gain(null, 2)) times as "
      + "'\(names[2])' when no data moves and all pages stay mapped, \(gain(cached, 0)) and \(gain(cached, 2)) times from a cached "
      + "file; with no more than blkback's 1056 pages kept, \(gain(few, 0)) and \(gain(few, 2)) times without data and "
      + "\(gain(cachedFew, 0)) and \(gain(cachedFew, 2)) times from the file."
  }
}
