// SPDX-License-Identifier: MIT

public import XenWire

/// What a port is for (Xen event_channel.h, `EVTCHNSTAT_*`; there is no hardware interrupt here).
public enum PortState: UInt8, Sendable {
  /// Free.
  case closed = 0
  /// Waiting for one domain to bind to it.
  case unbound = 1
  /// One end of a channel between two domains (or within one).
  case interdomain = 2
  /// A virtual interrupt.
  case virtualInterrupt = 4
  /// A signal among the virtual CPUs of one domain.
  case interprocessor = 5
}

/// Everything about one port in one 64-bit word, so that a sender reads it in one atomic load.
///
/// ```
///   bits 0-3    state
///   bits 4-11   the virtual CPU that is told
///   bits 12-15  priority (FIFO interface)
///   bits 16-31  unbound: the domain that may bind;  interdomain: the remote's slot;  virq: its number
///   bits 32-48  interdomain: the remote port
/// ```
@usableFromInline
struct PortRecord: Equatable, Sendable {
  @usableFromInline var word: UInt64

  @inlinable init(word: UInt64) { self.word = word }

  @inlinable
  init(state: PortState, virtualCPU: Int = 0, priority: Int = 7, peer: UInt16 = 0, remotePort: UInt32 = 0) {
    word =
      UInt64(state.rawValue) | UInt64(virtualCPU & 0xFF) << 4 | UInt64(priority & 15) << 12 | UInt64(peer) << 16
      | UInt64(remotePort) << 32
  }

  @usableFromInline static let closed = PortRecord(word: 0)

  @inlinable var state: PortState { PortState(rawValue: UInt8(word & 15)) ?? .closed }
  @inlinable
  var virtualCPU: Int {
    get { Int((word >> 4) & 0xFF) }
    set { word = (word & ~(0xFF << 4)) | UInt64(newValue & 0xFF) << 4 }
  }
  @inlinable
  var priority: Int {
    get { Int((word >> 12) & 15) }
    set { word = (word & ~(15 << 12)) | UInt64(newValue & 15) << 12 }
  }
  /// The slot of the remote domain.
  @inlinable var remoteSlot: Int { Int((word >> 16) & 0xFFFF) }
  /// The domain that may bind to an unbound port.
  var awaitedDomain: DomainID { DomainID(rawValue: UInt16((word >> 16) & 0xFFFF)) }
  /// The number of a virtual interrupt.
  var interrupt: Int { Int((word >> 16) & 0xFFFF) }
  @inlinable var remotePort: UInt32 { UInt32((word >> 32) & 0x1FFFF) }
}

/// What ``EventChannels/status(of:)`` tells about a port (`EVTCHNOP_status`).
public enum PortStatus: Equatable, Sendable {
  /// Free.
  case closed
  /// Waiting for this domain to bind.
  case unbound(remote: DomainID, virtualCPU: Int)
  /// Bound to a port of this domain.
  case interdomain(remote: DomainID, port: EventPort, virtualCPU: Int)
  /// Bound to this virtual interrupt.
  case virtualInterrupt(VirtualInterrupt, virtualCPU: Int)
  /// A signal among virtual CPUs.
  case interprocessor(virtualCPU: Int)
}

/// The number of a virtual interrupt (Xen xen.h, `VIRQ_*`).
public struct VirtualInterrupt: RawRepresentable, Hashable, Sendable {
  /// The number, 0...23.
  public var rawValue: Int
  /// Wraps a number.
  public init(rawValue: Int) { self.rawValue = rawValue }
  /// The timer, one a virtual CPU (`VIRQ_TIMER`).
  public static let timer = VirtualInterrupt(rawValue: 0)
  /// A debug request, one a virtual CPU (`VIRQ_DEBUG`).
  public static let debug = VirtualInterrupt(rawValue: 1)
  /// A domain died (`VIRQ_DOM_EXC`).
  public static let domainException = VirtualInterrupt(rawValue: 3)
  /// One past the last number (`NR_VIRQS`).
  static let count = 24

  /// Whether there is one for each virtual CPU rather than one for the domain (timer, debug, xenoprof, xenpmu).
  var isPerVirtualCPU: Bool { [0, 1, 7, 13].contains(rawValue) }
}
