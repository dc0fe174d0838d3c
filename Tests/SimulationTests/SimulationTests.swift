// SPDX-License-Identifier: MIT

import Glibc
import PVSimulation
import SharedRing
import Testing

@Suite("A whole machine from one seed")
struct SimulationTests {
  /// The seed that `PVDISK_SEED` asks for, alone, or the everyday ones.
  static let seeds: [UInt64] = {
    if let text = unsafe getenv("PVDISK_SEED"), let seed = UInt64(unsafe String(cString: text)) { return [seed] }
    return Array(1...24)
  }()

  @Test("whatever fails and whoever dies, what was flushed is there and nothing is left behind", arguments: seeds)
  func worlds(seed: UInt64) throws {
    let report = try simulate(WorldPlan(seed: seed, requestCount: 300))
    #expect(report.requests >= 300)
  }

  @Test("the same seed is the same world, another one is another", arguments: [UInt64(3), 17, 29])
  func replay(seed: UInt64) throws {
    let first = try simulate(WorldPlan(seed: seed, requestCount: 300))
    let second = try simulate(WorldPlan(seed: seed, requestCount: 300))
    let other = try simulate(WorldPlan(seed: seed + 1, requestCount: 300))
    #expect(first.digest == second.digest)
    #expect(first.digest != other.digest)
  }

  /// The first seed whose world a defect breaks; nil when none does.
  func firstBroken(_ change: (inout WorldPlan) -> Void) -> UInt64? {
    (1...30 as ClosedRange<UInt64>).first { seed in
      var plan = WorldPlan(seed: seed, requestCount: 300)
      plan.avoidRealMappings()
      change(&plan)
      return (try? simulate(plan)) == nil
    }
  }

  @Test("a defect of the world is noticed", arguments: Sabotage.allCases)
  func sabotage(kind: Sabotage) {
    #expect(firstBroken { $0.sabotage = kind } != nil)
  }

  @Test(
    "a bug of the ends is noticed", .enabled(if: RingFaults.canBePlanted, "needs a debug build"),
    arguments: [RingFault.failureKeepsPages, .portKept])
  func plantedBugs(fault: RingFault) {
    #expect(firstBroken { $0.faults = RingFaults(fault) } != nil)
  }
}
