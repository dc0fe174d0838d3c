// SPDX-License-Identifier: MIT

public import GuestMemory
import Synchronization
public import XenWire

/// A domain's event channels: ports by which it is told that a peer did something.
///
/// ```
///   closed --allocate--> unbound --peer binds--> interdomain
///     ^                    |  ^                     |
///     +------- close ------+  +--- peer closes -----+
///     +---------------------- close ----------------+
/// ```
///
/// Opening, closing and binding are in `EventChannels+Operations.swift`; sending is here, because it is hot: one load of the
/// port's record, one of the peer's, then at most three atomic operations on the peer's shared-info page.
@safe public final class EventChannels: @unchecked Sendable {
  // SAFETY: the slot's memory outlives this object, which gives the slot back when it goes; records are atomics.
  let fabric: EventFabric
  @usableFromInline let slotIndex: Int
  @usableFromInline let slot: UnsafeMutablePointer<EventSlot>
  @usableFromInline let slots: UnsafeMutablePointer<UnsafeMutablePointer<EventSlot>?>
  /// The domain whose ports these are.
  public let domain: DomainID
  let memory: DomainMemory
  var faults: PlantedFaults { fabric.faults }
  /// The guest's pages that hold control blocks and event words; nothing until the guest itself chose the FIFO interface.
  let eventPages = RankedLock<[GuestPages]?>(.eventPages, nil)
  /// Whether the guest opens its ports masked, as Linux does; see ``startPortsMasked()``.
  let startsPortsMasked = Atomic<Bool>(false)

  init(
    domain: DomainID, virtualCPUCount: Int, onlineCount: Int, portLimit: Int, policy: DomainPolicy,
    memory: DomainMemory,
    fabric: EventFabric
  ) throws(SystemError) {
    self.domain = domain
    self.memory = memory
    self.fabric = fabric
    slotIndex = try fabric.register(
      domain, virtualCPUCount: virtualCPUCount, onlineCount: onlineCount, portLimit: portLimit, policy: policy)
    unsafe slots = fabric.slots
    guard let slot = unsafe fabric.slots[slotIndex] else { preconditionFailure("a slot without memory") }
    unsafe self.slot = slot
  }

  deinit {
    retire()
    fabric.release(slotIndex)
  }

  /// The shared-info page as the guest sees it; a guest may write what it likes here.
  public var sharedInfo: SharedRegion {
    unsafe slot.pointee.sharedInfo.slice(at: 0, byteCount: PageGeometry.pageSize)
  }

  /// Signals the port's peer (`EVTCHNOP_send`).
  ///
  /// An unbound port takes the signal and drops it.
  /// - Throws: `.invalid` for a port that is free, out of range or not for sending.
  @inlinable
  public func send(_ port: EventPort) throws(EventChannelError) {
    guard deliver(port) else { throw .invalid }
  }

  /// Signals the port's peer; a port that cannot be sent on is ignored.
  @inlinable public func notify(_ port: EventPort) { _ = deliver(port) }

  /// Signals the port's peer; false for a port that cannot be sent on.
  @inlinable
  func deliver(_ port: EventPort) -> Bool {
    guard port.rawValue > 0, port.rawValue < UInt32(EventSlot.portCapacity) else { return false }
    let here = unsafe slot.pointee.record(port.rawValue)
    switch here.state {
    case .interdomain:
      guard let peer = unsafe slots[here.remoteSlot] else { return true }
      let there = unsafe peer.pointee.record(here.remotePort)
      // A peer that closed or moved on at this very moment has nothing to be told.
      guard there.state == .interdomain, there.remoteSlot == slotIndex, there.remotePort == port.rawValue else {
        return true
      }
      unsafe peer.pointee.post(here.remotePort, to: there.virtualCPU)
    case .interprocessor: unsafe slot.pointee.post(port.rawValue, to: here.virtualCPU)
    case .unbound: break
    case .closed, .virtualInterrupt: return false
    }
    return true
  }

  /// The number of ports that are not closed.
  public var openPortCount: Int { fabric.topology.withLock { $0.domains[slotIndex].openPortCount } }
}
