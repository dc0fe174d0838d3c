// SPDX-License-Identifier: MIT

import CLinux
import Glibc

/// What several runs of one measurement gave.
public struct Sample: Codable, Equatable, Sendable {
  /// The middle value.
  public var median: Double
  /// The least value.
  public var least: Double
  /// The largest value.
  public var most: Double

  /// Sums up runs; there must be one at least.
  public init(_ values: [Double]) {
    precondition(!values.isEmpty, "a measurement was made at least once")
    let sorted = values.sorted()
    let middle = sorted.count / 2
    median = sorted.count.isMultiple(of: 2) ? (sorted[middle - 1] + sorted[middle]) / 2 : sorted[middle]
    least = sorted[0]
    most = sorted[sorted.count - 1]
  }
}

/// How much an experiment may cost.
public struct LabEffort: Equatable, Sendable {
  /// Runs of each row, taken by turns.
  public var repeats: Int
  /// Nanoseconds of each run.
  public var duration: UInt64
  /// Whether only the shape of the results matters.
  public var isQuick: Bool

  /// What figures are measured with.
  public static let full = LabEffort(repeats: 5, duration: 200_000_000, isQuick: false)
  /// What a check in passing uses: every experiment runs, no figure means anything.
  public static let quick = LabEffort(repeats: 1, duration: 2_000_000, isQuick: true)

  /// Measures several things by turns, so that whatever disturbs the machine disturbs all of them.
  /// - Returns: each thing's results, in order of the things.
  public func interleaved<Thing, Result, Failure: Error>(
    _ things: [Thing], _ measure: (Thing) throws(Failure) -> Result
  ) throws(Failure) -> [[Result]] {
    var results = Array(repeating: [Result](), count: things.count)
    for round in 0..<repeats {
      for step in things.indices {
        // Another order in each round: nobody is always measured behind the same neighbour.
        let index = (step + round) % things.count
        results[index].append(try measure(things[index]))
      }
    }
    return results
  }
}

/// Time that this process has used, on all CPUs, in nanoseconds.
func processorNanoseconds() -> UInt64 {
  var time = timespec()
  unsafe clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time)
  return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
}
