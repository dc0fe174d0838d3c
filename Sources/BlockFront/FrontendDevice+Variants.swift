// SPDX-License-Identifier: MIT

import XenBus
import XenStore
import XenWire

extension FrontendDevice {
  /// The form of the rings: what this end wishes, as far as the backend offers it; the classic protocol if it offers nothing.
  func plan(offeredBy backend: DeviceFolder, ringPages: Int) -> RingPlan {
    guard !knobs.rings.isClassic else { return RingPlan(blockProtocol, ringPages: ringPages) }
    let plan = knobs.rings.plan(blockProtocol, ringPages: ringPages, RingOffer(reading: backend))
    return plan.complaint == nil ? plan : RingPlan(blockProtocol, ringPages: ringPages)
  }

  /// Writes the choice next to the classic keys; one that was written for a former backend goes first.
  func publishChoice(_ plan: RingPlan, in transaction: TransactionID) throws(StoreError) {
    if knobs.rings.isClassic { return }
    try plan.erase(from: folder, in: transaction)
    try plan.write(to: folder, in: transaction)
  }
}
