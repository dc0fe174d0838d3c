// SPDX-License-Identifier: MIT

import Synchronization
import XenHypervisor
import XenWire

/// A domain's view of a real hypervisor, with a clock that a fuzzer moves; it writes nothing down, for it lives for ever.
final class PlainPlatform: BackendPlatform, FrontendPlatform, Sendable {
  static let start: UInt64 = 1_000_000_000
  let inner: EmulatedPlatform
  private let nanoseconds = Atomic<UInt64>(start)

  init(hypervisor: Hypervisor, domain: Domain) { inner = EmulatedPlatform(hypervisor: hypervisor, domain: domain) }

  var monotonicNanoseconds: UInt64 { nanoseconds.load(ordering: .relaxed) }
  func setClock(_ time: UInt64) { nanoseconds.store(time, ordering: .relaxed) }
  func advanceClock(milliseconds: UInt64) { setClock(monotonicNanoseconds + milliseconds * 1_000_000) }

  func map(
    _ references: Span<GrantReference>, of granter: DomainID, writable: Bool,
    into results: inout MutableSpan<GrantMapping>
  ) { inner.map(references, of: granter, writable: writable, into: &results) }
  @discardableResult
  func unmap(_ handles: Span<GrantHandle>) -> Bool { inner.unmap(handles) }
  func mapContiguously(_ references: [GrantReference], of granter: DomainID) throws(GrantStatus) -> ContiguousMapping {
    try inner.mapContiguously(references, of: granter)
  }
  func unmap(_ mapping: ContiguousMapping) { inner.unmap(mapping) }
  func bindInterdomain(remote: DomainID, port: EventPort) throws(EventChannelError) -> EventPort {
    try inner.bindInterdomain(remote: remote, port: port)
  }
  func close(_ port: EventPort) { inner.close(port) }
  func notify(_ port: EventPort) { inner.notify(port) }
  func takeBufferPages(_ count: Int) -> Bool { inner.takeBufferPages(count) }
  func giveBufferPages(_ count: Int) { inner.giveBufferPages(count) }

  func allocatePages(_ count: Int) throws(GrantStatus) -> GuestPages { try inner.allocatePages(count) }
  func freePages(_ pages: GuestPages) { inner.freePages(pages) }
  func allocateReferences(_ count: Int) throws(GrantStatus) -> [GrantReference] { try inner.allocateReferences(count) }
  func freeReferences(_ references: [GrantReference]) { inner.freeReferences(references) }
  func grantAccess(_ reference: GrantReference, to domain: DomainID, frame: FrameNumber, isReadOnly: Bool) {
    inner.grantAccess(reference, to: domain, frame: frame, isReadOnly: isReadOnly)
  }
  func endAccess(_ reference: GrantReference) -> Bool { inner.endAccess(reference) }
  func isMappedByPeer(_ reference: GrantReference) -> Bool { inner.isMappedByPeer(reference) }
  func allocateUnbound(remote: DomainID) throws(EventChannelError) -> EventPort {
    try inner.allocateUnbound(remote: remote)
  }
}

/// A hypervisor with a control domain and a guest.
struct PlainMachine {
  static let guestID = DomainID(rawValue: 1)
  let hypervisor: Hypervisor
  let control: PlainPlatform
  let guest: PlainPlatform

  init(guestPages: Int) throws {
    hypervisor = try Hypervisor(mapping: .alias)
    let first = try hypervisor.createDomain(.control, memoryByteCount: 1 << 20, virtualCPUCount: 1)
    var limits = DomainLimits.xenDefaults
    limits.grantFrames = 64
    let second = try hypervisor.createDomain(
      Self.guestID, memoryByteCount: guestPages << 12, virtualCPUCount: 1, limits: limits)
    control = PlainPlatform(hypervisor: hypervisor, domain: first)
    guest = PlainPlatform(hypervisor: hypervisor, domain: second)
  }

  /// What everybody holds.
  var ledger: ResourceLedger { hypervisor.ledger }
}
