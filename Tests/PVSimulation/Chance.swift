// SPDX-License-Identifier: MIT

import PVTestSupport

/// What can go wrong in a simulated world, each with a rate of its own.
public enum Misfortune: Int, CaseIterable, Sendable {
  /// A page cannot be mapped.
  case mapping
  /// A ring cannot be mapped.
  case ringMapping
  /// An event channel cannot be made or bound.
  case binding
  /// Pages or references run out.
  case allocation
  /// The store refuses a call.
  case storeCall
  /// A read, write, flush or discard fails below.
  case disk
  /// A notification arrives later.
  case lateEvent
  /// A notification arrives that nobody sent.
  case spuriousEvent
}

/// A deliberate defect of the world itself, for the tests that show that it would be noticed.
public enum Sabotage: Sendable, CaseIterable {
  /// Some notifications never arrive.
  case notificationsGetLost
  /// A flush succeeds, and some of what it covers is not durable.
  case flushLies
  /// Some writes succeed, and their last sector stays as it was.
  case writesFallShort
  /// Some sectors are written in two halves, of two writes.
  case sectorsTear
}

/// All chance of one world: the same seed, the same world.
///
/// **Assumptions.** One thread runs a world.
public final class Chance: @unchecked Sendable {
  // SAFETY: used by the one thread that runs the world.
  private var generator: SeededGenerator
  private var rates: [Int]
  /// Whether nothing goes wrong at the moment.
  public var isCalm = true
  /// How often something went wrong, by kind.
  public private(set) var misfortunes: [Int]
  /// A digest of everything that happened: equal for equal worlds.
  public private(set) var digest: UInt64 = 0xCBF2_9CE4_8422_2325
  let sabotage: Sabotage?

  /// Starts from a seed.
  public init(seed: UInt64, sabotage: Sabotage? = nil) {
    generator = SeededGenerator(seed: seed)
    rates = Misfortune.allCases.map { _ in 0 }
    misfortunes = Misfortune.allCases.map { _ in 0 }
    self.sabotage = sabotage
  }

  /// Sets how often something goes wrong, in thousandths.
  func setRate(_ misfortune: Misfortune, perMille: Int) { rates[misfortune.rawValue] = perMille }

  /// A number below a bound.
  func below(_ bound: Int) -> Int { Int(truncatingIfNeeded: generator.next() % UInt64(bound)) }

  /// True once in so many times.
  func oneIn(_ count: Int) -> Bool { below(count) == 0 }

  /// Whether something goes wrong now.
  func strikes(_ misfortune: Misfortune) -> Bool {
    guard !isCalm, rates[misfortune.rawValue] > 0, below(1000) < rates[misfortune.rawValue] else { return false }
    misfortunes[misfortune.rawValue] += 1
    return true
  }

  /// Whether a deliberate defect shows now.
  func sabotages(_ kind: Sabotage, oneIn count: Int) -> Bool { sabotage == kind && oneIn(count) }

  /// Notes something that happened.
  func note(_ value: UInt64) { digest = (digest ^ value) &* 0x0100_0000_01B3 }
}
