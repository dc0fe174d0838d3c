// SPDX-License-Identifier: MIT

import XenBus
import XenWire

extension BackendDevice {
  /// The form of the rings that a frontend chose, if this backend offered it.
  func plan(
    chosenBy frontend: DeviceFolder, _ blockProtocol: BlockProtocol, ringPages: Int
  ) throws(HandshakeFailure) -> RingPlan {
    do throws(RingRefusal) { return try knobs.rings.accept(frontend, blockProtocol, ringPages: ringPages) } catch {
      throw HandshakeFailure("the frontend wants \(error.text)", code: 38)
    }
  }
}
