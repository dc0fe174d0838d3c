// SPDX-License-Identifier: MIT

import Synchronization
import XenWire

/// Taking and freeing ports; everything here runs under the fabric's lock.
extension EventChannels {
  /// Runs an operation under the lock, unless the domain was destroyed.
  func locked<Answer: Sendable>(
    evenIfDead: Bool = false, _ operation: (inout EventTopology) throws(EventChannelError) -> Answer
  ) throws(EventChannelError) -> Answer {
    try fabric.topology.withLock { (state: inout EventTopology) throws(EventChannelError) -> Answer in
      guard evenIfDead || !state.domains[slotIndex].isDead else { throw .noSuchDomain }
      return try operation(&state)
    }
  }

  /// Runs an operation that opens a port, and then does the guest's part; a port that cannot have its part is closed again.
  func open(_ operation: (inout EventTopology) throws(EventChannelError) -> UInt32) throws(EventChannelError)
    -> EventPort
  {
    let port = EventPort(rawValue: try locked(operation))
    do throws(EventChannelError) {
      try adopt(port)
    } catch {
      if !faults.has(.halfOpenPortKept) { try close(port) }
      throw error
    }
    return port
  }

  func portLimit(in state: EventTopology) -> Int {
    let limit = state.domains[slotIndex].portLimit + (faults.has(.limitIsOffByOne) ? 1 : 0)
    return min(limit, interface == .fifo ? FIFOLayout.portCount : SharedInfo.portCount)
  }

  func check(_ virtualCPU: Int, in state: EventTopology) throws(EventChannelError) {
    guard virtualCPU >= 0, virtualCPU < state.domains[slotIndex].virtualCPUCount else { throw .noSuchEntry }
  }

  /// The record of an open port.
  func openRecord(_ port: EventPort, in state: EventTopology) throws(EventChannelError) -> PortRecord {
    guard port.rawValue > 0, port.rawValue < state.domains[slotIndex].portEnd else { throw .invalid }
    let record = unsafe slot.pointee.record(port.rawValue)
    guard record.state != .closed else { throw .invalid }
    return record
  }

  /// The lowest free port; changes nothing but the note of where to look.
  func findFreePort(in state: inout EventTopology) throws(EventChannelError) -> UInt32 {
    var port = state.domains[slotIndex].lowestFreePort
    let limit = UInt32(portLimit(in: state))
    while port < limit, unsafe slot.pointee.record(port).state != .closed { port += 1 }
    state.domains[slotIndex].lowestFreePort = port
    // A closed port whose event is still in a queue is not free yet, but will be.
    while port < limit {
      if unsafe slot.pointee.record(port).state == .closed, unsafe !slot.pointee.isQueued(port) { return port }
      port += 1
    }
    if faults.has(.exhaustionUndone) { state.domains[slotIndex].openPortCount -= 1 }
    throw .noSpace
  }

  func take(_ port: UInt32, in state: inout EventTopology) {
    state.domains[slotIndex].openPortCount += 1
    if state.domains[slotIndex].lowestFreePort == port { state.domains[slotIndex].lowestFreePort = port + 1 }
    state.domains[slotIndex].portEnd = max(state.domains[slotIndex].portEnd, port + 1)
  }

  func takePort(in state: inout EventTopology) throws(EventChannelError) -> UInt32 {
    let port = try findFreePort(in: &state)
    take(port, in: &state)
    return port
  }

  func publish(_ record: PortRecord, at port: UInt32) { unsafe slot.pointee.setRecord(port, record) }

  /// Frees an open port: the peer's end waits again, what was pending is forgotten.
  func closeOpen(_ port: UInt32, _ record: PortRecord, in state: inout EventTopology) {
    publish(.closed, at: port)
    switch record.state {
    case .interdomain:
      // A loopback peer is found the same way; a peer that is this very port does not exist.
      if let peer = unsafe slots[record.remoteSlot] {
        let there = unsafe peer.pointee.record(record.remotePort)
        unsafe peer.pointee.setRecord(
          record.remotePort,
          PortRecord(
            state: .unbound, virtualCPU: there.virtualCPU, priority: there.priority, peer: domain.rawValue))
      }
    case .virtualInterrupt:
      let index = record.virtualCPU * VirtualInterrupt.count + record.interrupt
      // A domain-wide interrupt may have been moved to another CPU; it is noted under CPU 0.
      let isPerCPU = VirtualInterrupt(rawValue: record.interrupt).isPerVirtualCPU
      state.domains[slotIndex].interruptPorts[isPerCPU ? index : record.interrupt] = 0
    case .closed, .unbound, .interprocessor: break
    }
    unsafe slot.pointee.clearPending(port)
    state.domains[slotIndex].openPortCount -= 1
    state.domains[slotIndex].lowestFreePort = min(state.domains[slotIndex].lowestFreePort, port)
  }
}
