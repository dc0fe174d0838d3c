// SPDX-License-Identifier: MIT

import ArgumentParser
import Glibc
import PVSimulation
import PVTestSupport
import Synchronization

/// Runs simulated worlds, one from each seed, and stops at the first in which something happens that must not.
@main
struct Simulate: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Runs whole machines from seeds; PVDISK_SEED=N in the environment runs one again.")

  @Option(help: "How many seeds.") var seeds: UInt64 = 1000
  @Option(help: "The first seed.") var first: UInt64 = 1
  @Option(help: "Ring requests of each world.") var requests = 1000
  @Option(help: "Worlds at a time.") var jobs = 2

  func run() throws {
    if let seed = unsafe getenv("PVDISK_SEED").flatMap({ UInt64(unsafe String(cString: $0)) }) {
      return try replay(seed)
    }
    let course = Course(first: first, count: seeds, requests: requests)
    let threads = (0..<max(jobs, 1)).map { _ in PeerThread { course.work() } }
    course.watch()
    for thread in threads { thread.join() }
    print(course.summary)
    if let broken = course.broken {
      print("broken: \(broken)")
      throw ExitCode(5)
    }
  }

  private func replay(_ seed: UInt64) throws {
    for _ in 0..<2 {
      do {
        print("seed \(seed): \(try simulate(WorldPlan(seed: seed, requestCount: requests)))")
      } catch {
        print("broken: \(error)")
        throw ExitCode(5)
      }
    }
  }
}

/// Seeds that several threads work through.
final class Course: Sendable {
  private struct State {
    var report = WorldReport()
    var done: UInt64 = 0
    var broken: String?
  }

  private let first: UInt64
  private let count: UInt64
  private let requests: Int
  private let next = Atomic<UInt64>(0)
  private let running = Atomic<Int>(0)
  private let state = Mutex(State())
  private let start: UInt64

  init(first: UInt64, count: UInt64, requests: Int) {
    self.first = first
    self.count = count
    self.requests = requests
    start = Self.now
  }

  static var now: UInt64 {
    var time = timespec()
    unsafe clock_gettime(CLOCK_MONOTONIC, &time)
    return UInt64(time.tv_sec) * 1000 + UInt64(time.tv_nsec) / 1_000_000
  }

  var broken: String? { state.withLock { $0.broken } }

  func work() {
    running.add(1, ordering: .relaxed)
    defer { running.subtract(1, ordering: .relaxed) }
    while broken == nil {
      let index = next.add(1, ordering: .relaxed).oldValue
      guard index < count else { return }
      do {
        let report = try simulate(WorldPlan(seed: first + index, requestCount: requests))
        state.withLock {
          $0.report.add(report)
          $0.done += 1
        }
      } catch {
        state.withLock { $0.broken = $0.broken ?? "\(error)" }
      }
    }
  }

  /// Shows how far the threads have come, on a terminal, until they are done.
  func watch() {
    let isTerminal = isatty(2) == 1
    repeat {
      usleep(200_000)
      if isTerminal { show("\r\(summary)   ") }
    } while running.load(ordering: .relaxed) > 0
    if isTerminal { show("\r") }
  }

  private func show(_ text: String) {
    // SAFETY: the bytes live as long as the array.
    _ = unsafe Array(text.utf8).withUnsafeBytes { unsafe write(2, $0.baseAddress, $0.count) }
  }

  var summary: String {
    let (report, done) = state.withLock { ($0.report, $0.done) }
    let elapsed = max(Self.now - start, 1)
    return "\(done)/\(count) seeds, \(report.requests) ring requests, \(report.ios) I/Os (\(report.failedIOs) failed), "
      + "\(report.attaches) attaches (+\(report.failedAttaches) failed), \(report.deaths) deaths, "
      + "\(report.powerCuts) power cuts, \(report.flushes) flushes, \(report.misfortunes) misfortunes; "
      + "\(elapsed / 1000) s, \(done * 1000 / elapsed) seeds/s, \(report.requests * 1000 / elapsed) requests/s"
  }
}
