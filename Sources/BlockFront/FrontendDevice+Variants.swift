// SPDX-License-Identifier: MIT

import XenBus
import XenWire

extension FrontendDevice {
  /// The form of the rings: what this end wishes, as far as the backend offers it; the classic protocol if it offers nothing.
  func plan(offeredBy backend: DeviceFolder, ringPages: Int) -> RingPlan {
    RingPlan(blockProtocol, ringPages: ringPages)
  }
}
