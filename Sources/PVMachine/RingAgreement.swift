// SPDX-License-Identifier: MIT

import BlockBack
import BlockFront
import BlockIO
public import SharedRing
import XenBus
import XenHypervisor
public import XenWire

/// What the two ends of a disk agreed on, whatever each of them wished.
public struct RingAgreement: Equatable, Sendable {
  /// The form of the rings.
  public var plan: RingPlan
  /// Queues.
  public var queues: Int
  /// Segments of the largest request.
  public var segments: Int
  /// Whether grants stay.
  public var isPersistent: Bool
  /// How the frontend waits.
  public var frontNotify: NotificationPolicy
  /// How the backend waits and announces.
  public var backNotify: NotificationPolicy
}

extension AttachedDisk {
  /// What came of the handshake.
  public var agreement: RingAgreement {
    let abilities = frontend.connection(ofQueue: 0)?.abilities
    return RingAgreement(
      plan: frontend.plan, queues: frontend.queueCount, segments: abilities?.maxSegments ?? 0,
      isPersistent: abilities?.isPersistent ?? false, frontNotify: frontend.knobs.notify,
      backNotify: backend.knobs.notify)
  }
}
