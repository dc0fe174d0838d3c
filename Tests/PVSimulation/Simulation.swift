// SPDX-License-Identifier: MIT

/// Runs one world from its seed to its end.
/// - Throws: ``BrokenWorld``, whose seed runs the same world again.
public func simulate(_ plan: WorldPlan) throws -> WorldReport {
  let chance = Chance(seed: plan.seed, sabotage: plan.sabotage)
  do {
    return try World(plan: plan, chance: chance).live()
  } catch let violation as World.Violation {
    throw BrokenWorld(seed: plan.seed, sentence: violation.sentence)
  }
}
