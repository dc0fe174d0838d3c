// SPDX-License-Identifier: MIT

import GuestMemory
import Synchronization
public import XenWire

extension EventChannels {
  /// Takes the lowest free port, for `remote` to bind to (`EVTCHNOP_alloc_unbound`).
  /// - Throws: `.noSpace` when all ports are open, `.notPermitted` when the policy keeps the two apart.
  public func allocateUnbound(remote: DomainID) throws(EventChannelError) -> EventPort {
    let remote = remote == .ownSelf ? domain : remote
    return try open { (state) throws(EventChannelError) in
      guard state.domains[slotIndex].policy.allows(remote) || remote == domain else { throw .notPermitted }
      let port = try takePort(in: &state)
      publish(PortRecord(state: .unbound, peer: remote.rawValue), at: port)
      return port
    }
  }

  /// Binds a local port to a peer's unbound one (`EVTCHNOP_bind_interdomain`).
  ///
  /// The local port is pending at once: a signal may have been sent while nobody was bound.
  /// - Throws: `.noSuchDomain`, `.noSpace`, `.invalid` for a remote port that is not unbound or not for this domain.
  public func bindInterdomain(remote: DomainID, port remotePort: EventPort) throws(EventChannelError) -> EventPort {
    let remote = remote == .ownSelf ? domain : remote
    return try open { (state) throws(EventChannelError) in
      guard let remoteSlot = state.slotOf[remote], let peer = unsafe slots[remoteSlot] else { throw .noSuchDomain }
      guard state.domains[slotIndex].policy.allows(remote) || remote == domain else { throw .notPermitted }
      let local = try findFreePort(in: &state)
      if faults.has(.portTakenBeforeChecks) { take(local, in: &state) }
      guard remotePort.rawValue > 0, remotePort.rawValue < state.domains[remoteSlot].portEnd else { throw .invalid }
      let waiting = unsafe peer.pointee.record(remotePort.rawValue)
      guard waiting.state == .unbound, waiting.awaitedDomain == domain else { throw .invalid }
      take(local, in: &state)
      publish(
        PortRecord(state: .interdomain, peer: UInt16(remoteSlot), remotePort: remotePort.rawValue), at: local)
      unsafe peer.pointee.setRecord(
        remotePort.rawValue,
        PortRecord(
          state: .interdomain, virtualCPU: waiting.virtualCPU, priority: waiting.priority, peer: UInt16(slotIndex),
          remotePort: local))
      unsafe slot.pointee.post(local, to: 0)
      return local
    }
  }

  /// Binds a port to a virtual interrupt (`EVTCHNOP_bind_virq`).
  /// - Throws: `.invalid` for a number that does not exist or a domain-wide one off CPU 0, `.noSuchEntry` for a CPU that
  ///   does not exist, `.exists` when it is bound already, `.noSpace`.
  public func bind(_ interrupt: VirtualInterrupt, to virtualCPU: Int) throws(EventChannelError) -> EventPort {
    try open { (state) throws(EventChannelError) in
      guard (0..<VirtualInterrupt.count).contains(interrupt.rawValue) else { throw .invalid }
      guard interrupt.isPerVirtualCPU || virtualCPU == 0 else { throw .invalid }
      try check(virtualCPU, in: state)
      let index = virtualCPU * VirtualInterrupt.count + interrupt.rawValue
      guard state.domains[slotIndex].interruptPorts[index] == 0 else { throw .exists }
      let port = try takePort(in: &state)
      publish(
        PortRecord(state: .virtualInterrupt, virtualCPU: virtualCPU, peer: UInt16(interrupt.rawValue)), at: port)
      state.domains[slotIndex].interruptPorts[index] = port
      return port
    }
  }

  /// Takes a port by which the domain's virtual CPUs signal this one (`EVTCHNOP_bind_ipi`).
  /// - Throws: `.noSuchEntry` for a CPU that does not exist, `.noSpace`.
  public func bindInterprocessor(to virtualCPU: Int) throws(EventChannelError) -> EventPort {
    try open { (state) throws(EventChannelError) in
      try check(virtualCPU, in: state)
      let port = try takePort(in: &state)
      publish(PortRecord(state: .interprocessor, virtualCPU: virtualCPU), at: port)
      return port
    }
  }

  /// Lets another virtual CPU be told of a port (`EVTCHNOP_bind_vcpu`).
  /// - Throws: `.noSuchEntry` for a CPU that does not exist, `.invalid` for a port that is closed or tied to its CPU.
  public func bind(_ port: EventPort, to virtualCPU: Int) throws(EventChannelError) {
    try locked { (state) throws(EventChannelError) in
      try check(virtualCPU, in: state)
      var record = try openRecord(port, in: state)
      switch record.state {
      case .unbound, .interdomain: break
      case .virtualInterrupt:
        guard !VirtualInterrupt(rawValue: record.interrupt).isPerVirtualCPU else { throw .invalid }
      case .interprocessor, .closed: throw .invalid
      }
      record.virtualCPU = virtualCPU
      publish(record, at: port.rawValue)
    }
  }

  /// Closes a port (`EVTCHNOP_close`); the peer's end waits again, for this domain.
  /// - Throws: `.invalid` for a port that is not open.
  public func close(_ port: EventPort) throws(EventChannelError) {
    if startsPortsMasked.load(ordering: .acquiring) { mask(port) }
    try locked(evenIfDead: true) { (state) throws(EventChannelError) in
      let record = try openRecord(port, in: state)
      closeOpen(port.rawValue, record, in: &state)
    }
  }

  /// Tells what a port is for (`EVTCHNOP_status`).
  /// - Throws: `.invalid` for a port out of range.
  public func status(of port: EventPort) throws(EventChannelError) -> PortStatus {
    try locked(evenIfDead: true) { (state) throws(EventChannelError) in
      let isInRange = port.rawValue > 0 && Int(port.rawValue) < portLimit(in: state)
      guard isInRange || faults.has(.portRangeUnchecked) else { throw .invalid }
      let record = unsafe slot.pointee.record(port.rawValue)
      switch record.state {
      case .closed: return .closed
      case .unbound: return .unbound(remote: record.awaitedDomain, virtualCPU: record.virtualCPU)
      case .interdomain:
        return .interdomain(
          remote: state.domains[record.remoteSlot].id ?? .ownSelf, port: EventPort(rawValue: record.remotePort),
          virtualCPU: record.virtualCPU)
      case .virtualInterrupt:
        return .virtualInterrupt(VirtualInterrupt(rawValue: record.interrupt), virtualCPU: record.virtualCPU)
      case .interprocessor: return .interprocessor(virtualCPU: record.virtualCPU)
      }
    }
  }

  /// Clears a port's mask, and raises it again if it became pending meanwhile (`EVTCHNOP_unmask`).
  /// - Throws: `.invalid` for a port that is not open.
  public func unmask(_ port: EventPort) throws(EventChannelError) {
    guard port.rawValue > 0, port.rawValue < UInt32(EventSlot.portCapacity) else { throw .invalid }
    let record = unsafe slot.pointee.record(port.rawValue)
    guard record.state != .closed else { throw .invalid }
    unsafe slot.pointee.unmask(port.rawValue, virtualCPU: record.virtualCPU)
  }

  /// Opens every further port masked, as a Linux guest does at boot (events_base.c, `mask_evtchn` of all ports); for a
  /// domain without open ports.
  ///
  /// An event that comes before ``route(_:to:)`` then waits for the CPU that is to take it. Without this it is told to CPU
  /// 0, and later events of the port, which is pending already, tell nobody.
  public func startPortsMasked() {
    startsPortsMasked.store(true, ordering: .releasing)
    if interface == .twoLevel { unsafe slot.pointee.maskAllTwoLevel() }
  }

  /// Lets a virtual CPU take a port's events, from the first that came (``bind(_:to:)``, then ``unmask(_:)``).
  /// - Throws: as ``bind(_:to:)``.
  public func route(_ port: EventPort, to virtualCPU: Int) throws(EventChannelError) {
    mask(port)
    try bind(port, to: virtualCPU)
    try unmask(port)
  }

  /// Holds a port's events back until ``unmask(_:)``; the guest's own verb, a bit in a shared page.
  public func mask(_ port: EventPort) {
    guard port.rawValue < UInt32(portsOfInterface) else { return }
    unsafe slot.pointee.mask(port.rawValue)
  }

  /// The port numbers that the interface in use can tell about.
  private var portsOfInterface: Int { interface == .fifo ? FIFOLayout.portCount : SharedInfo.portCount }

  /// Raises a virtual interrupt; nothing happens when the domain did not bind it.
  ///
  /// This is the hypervisor's verb, not the guest's.
  public func raise(_ interrupt: VirtualInterrupt, on virtualCPU: Int = 0) {
    fabric.topology.withLock { state in
      let index = virtualCPU * VirtualInterrupt.count + interrupt.rawValue
      let ports = state.domains[slotIndex].interruptPorts
      guard ports.indices.contains(index), ports[index] != 0 else { return }
      unsafe slot.pointee.post(ports[index], to: unsafe slot.pointee.record(ports[index]).virtualCPU)
    }
  }

  /// Closes every port and goes back to the two-level interface (`EVTCHNOP_reset`).
  ///
  /// A few hundred ports at a time, so that nobody waits long.
  /// - Throws: `.again` when another thread opened ports meanwhile.
  public func reset() throws(EventChannelError) {
    closeAllPorts()
    leaveFIFO()
    if startsPortsMasked.load(ordering: .acquiring) { unsafe slot.pointee.maskAllTwoLevel() }
    guard openPortCount == 0 || faults.has(.resetIgnoresOpenPorts) else { throw .again }
  }

  /// Closes what is open at this moment.
  func closeAllPorts() {
    let portsPerSlice: UInt32 = faults.has(.portsClosedInOnePiece) ? 1 << 20 : 256
    let end = fabric.topology.withLock { $0.domains[slotIndex].portEnd }
    var first: UInt32 = 1
    while first < end {
      let last = min(first + portsPerSlice, end)
      fabric.topology.withLock { state in
        for port in first..<last {
          let record = unsafe slot.pointee.record(port)
          if record.state != .closed { closeOpen(port, record, in: &state) }
        }
      }
      faults.reach(.portSlice(Int(last - first)))
      first = last
    }
  }
}

extension EventChannels {
  /// Ends the domain's events: its number is free, its ports are closed, its peers' ends wait again.
  func retire() {
    fabric.unregister(slotIndex)
    closeAllPorts()
    leaveFIFO()
  }
}
