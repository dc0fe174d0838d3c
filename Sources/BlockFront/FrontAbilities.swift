// SPDX-License-Identifier: MIT

public import XenHypervisor
public import XenWire

/// What both ends agreed on, as the frontend sees it; latched for the life of a connection, except that a refused optional
/// request switches its ability off.
public struct FrontAbilities: Equatable, Sendable {
  /// Grants stay for life (`feature-persistent` at both ends).
  public var isPersistent: Bool
  /// Segments of the largest request: what a slot holds, or more where there are descriptor pages or a segment ring.
  public var maxSegments: Int
  /// `feature-flush-cache`.
  public var canFlush: Bool
  /// `feature-barrier`.
  public var canBarrier: Bool
  /// `feature-discard`.
  public var canDiscard: Bool
  /// `discard-secure`.
  public var canDiscardSecurely: Bool
  /// Whether discarded sectors read as zeros.
  ///
  /// The protocol cannot tell; whoever knows the disk under the backend may say so.
  public var discardLeavesZeros = false
  /// Whether the backend may see pages of ours that requests name (`trusted`); if not, everything is copied.
  public var isBackendTrusted: Bool

  /// Describes an agreement.
  public init(
    isPersistent: Bool, maxSegments: Int, canFlush: Bool, canBarrier: Bool, canDiscard: Bool,
    canDiscardSecurely: Bool, isBackendTrusted: Bool
  ) {
    self.isPersistent = isPersistent
    self.maxSegments = maxSegments
    self.canFlush = canFlush
    self.canBarrier = canBarrier
    self.canDiscard = canDiscard
    self.canDiscardSecurely = canDiscardSecurely
    self.isBackendTrusted = isBackendTrusted
  }
}

/// One queue's way to its backend.
public struct FrontConnection<Platform: FrontendPlatform> {
  /// The hypervisor.
  public let platform: Platform
  /// The backend's domain.
  public let peer: DomainID
  /// The local event-channel port.
  public let port: EventPort
  /// The memory of the rings, freshly initialised.
  public let ring: GuestPages
  /// Their form.
  public let plan: RingPlan
  /// The device handle for requests: the low 16 bits of the virtual-device number.
  public let handle: UInt16
  /// What was agreed.
  public var abilities: FrontAbilities

  /// Describes a connection.
  public init(
    platform: Platform, peer: DomainID, port: EventPort, ring: GuestPages, plan: RingPlan = RingPlan(), handle: UInt16,
    abilities: FrontAbilities
  ) {
    self.platform = platform
    self.peer = peer
    self.port = port
    self.ring = ring
    self.plan = plan
    self.handle = handle
    self.abilities = abilities
  }
}
