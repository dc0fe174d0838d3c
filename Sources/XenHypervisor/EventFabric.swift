// SPDX-License-Identifier: MIT

import GuestMemory
import Synchronization
import XenWire

/// The event channels of all domains: one slot of lasting memory for each, and one lock for who is bound to whom.
///
/// Opening and closing ports takes the lock. Sending does not: it reads packed records and shared pages only.
///
/// **Invariants.** A slot's memory lives as long as the fabric; a slot serves another domain only after nothing refers to the
/// domain before it. A record is published after everything that it names.
@safe @usableFromInline
final class EventFabric: @unchecked Sendable {
  // SAFETY: the slot table is sized once; a slot's pointer is stored under the lock before any record names the slot.
  static let slotCapacity = 32_768

  let slots: UnsafeMutablePointer<UnsafeMutablePointer<EventSlot>?>
  private let slotMemory: MappedMemory
  let topology = RankedLock(.topology, EventTopology())
  let faults: PlantedFaults

  init(faults: PlantedFaults) throws(SystemError) {
    self.faults = faults
    slotMemory = try MappedMemory(anonymousByteCount: Self.slotCapacity * MemoryLayout<UInt>.stride)
    // SAFETY: zeroed memory is an array of empty optional pointers.
    unsafe slots = slotMemory.region.withUnsafeBytes { bytes in
      unsafe bytes.bindMemory(to: UnsafeMutablePointer<EventSlot>?.self).baseAddress.unsafelyUnwrapped
    }
  }

  deinit {
    for index in 0..<topology.withLock({ $0.slotCount }) {
      guard let slot = unsafe slots[index] else { continue }
      unsafe slot.deinitialize(count: 1)
      unsafe slot.deallocate()
    }
  }

  /// Gives a new domain a slot.
  func register(
    _ domain: DomainID, virtualCPUCount: Int, onlineCount: Int, portLimit: Int, policy: DomainPolicy
  ) throws(SystemError) -> Int {
    try topology.withLock { (state: inout EventTopology) throws(SystemError) -> Int in
      let index = state.freeSlots.last ?? state.slotCount
      precondition(index < Self.slotCapacity, "more domains than numbers for them")
      if unsafe slots[index] == nil {
        let slot = UnsafeMutablePointer<EventSlot>.allocate(capacity: 1)
        do throws(SystemError) {
          unsafe slot.initialize(to: try EventSlot())
        } catch {
          unsafe slot.deallocate()
          throw error
        }
        unsafe slots[index] = slot
        state.slotCount = index + 1
        state.domains.append(EventDomain())
        state.freeSlots.append(index)
      }
      if let slot = unsafe slots[index] {
        for virtualCPU in 0..<onlineCount { try unsafe slot.pointee.bringUp(virtualCPU) }
        unsafe slot.pointee.clear()
      }
      state.freeSlots.removeLast()
      state.domains[index] = EventDomain(
        id: domain, portLimit: portLimit, virtualCPUCount: virtualCPUCount, policy: policy)
      state.slotOf[domain] = index
      return index
    }
  }

  /// Takes the domain's number out of use; its slot stays until nothing refers to it.
  func unregister(_ index: Int) {
    topology.withLock { state in
      guard let domain = state.domains[index].id, !state.domains[index].isDead else { return }
      state.domains[index].isDead = true
      if state.slotOf[domain] == index { state.slotOf[domain] = nil }
    }
  }

  /// Lets another domain have the slot.
  func release(_ index: Int) {
    topology.withLock { state in
      state.domains[index] = EventDomain()
      state.freeSlots.append(index)
    }
  }
}

/// Which domain is in which slot; guarded by the fabric's lock.
struct EventTopology: Sendable {
  var slotOf: [DomainID: Int] = [:]
  var domains: [EventDomain] = []
  var freeSlots: [Int] = []
  var slotCount = 0
}

/// What the fabric remembers of one domain beside its records.
struct EventDomain: Sendable {
  var id: DomainID?
  var portLimit = 0
  var virtualCPUCount = 0
  var policy = DomainPolicy.anyPeer
  var isDead = false
  var openPortCount = 0
  /// No free port is lower.
  var lowestFreePort: UInt32 = 1
  /// One past the highest port that was ever open.
  var portEnd: UInt32 = 1
  /// The port of each virtual interrupt, by virtual CPU * 24 + number; 0 is none.
  var interruptPorts: [UInt32] = []

  init() {}

  init(id: DomainID, portLimit: Int, virtualCPUCount: Int, policy: DomainPolicy) {
    self.id = id
    self.portLimit = portLimit
    self.virtualCPUCount = virtualCPUCount
    self.policy = policy
    interruptPorts = Array(repeating: 0, count: virtualCPUCount * VirtualInterrupt.count)
  }
}
