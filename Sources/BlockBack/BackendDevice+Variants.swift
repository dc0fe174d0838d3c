// SPDX-License-Identifier: MIT

import XenBus
import XenWire

extension BackendDevice {
  /// The form of the rings that a frontend wishes, if this backend offered it.
  func plan(
    wishedBy frontend: DeviceFolder, _ blockProtocol: BlockProtocol, ringPages: Int
  ) throws(HandshakeFailure) -> RingPlan {
    RingPlan(blockProtocol, ringPages: ringPages)
  }
}
