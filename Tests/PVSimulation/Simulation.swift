// SPDX-License-Identifier: MIT

import XenWire

/// Runs one world from its seed to its end.
/// - Throws: ``BrokenWorld``, whose seed runs the same world again.
public func simulate(_ plan: WorldPlan) throws -> WorldReport {
  switch plan.blockProtocol {
  case .x86_64: try run(plan, ABI64.self)
  case .x86_32: try run(plan, ABI32.self)
  case .arm: try run(plan, ABIArm.self)
  }
}

private func run<ABI: BlkifABI>(_ plan: WorldPlan, _ abi: ABI.Type) throws -> WorldReport {
  let chance = Chance(seed: plan.seed, sabotage: plan.sabotage)
  do {
    let world = try World<ABI>(plan: plan, chance: chance)
    return try world.live()
  } catch let violation as World<ABI>.Violation {
    throw BrokenWorld(seed: plan.seed, sentence: violation.sentence)
  }
}
