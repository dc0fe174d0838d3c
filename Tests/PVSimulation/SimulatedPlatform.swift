// SPDX-License-Identifier: MIT

import GuestMemory
public import XenHypervisor
public import XenWire

/// Notifications that have been sent and have not arrived yet.
final class EventPost: @unchecked Sendable {
  // SAFETY: used by the one thread that runs the world.
  var letters: [(channels: EmulatedPlatform, port: EventPort)] = []
}

/// A domain's view of a real hypervisor on which luck has its hand: mappings, bindings and allocations fail, and
/// notifications are late.
public final class SimulatedPlatform: BackendPlatform, FrontendPlatform, @unchecked Sendable {
  // SAFETY: used by the one thread that runs the world.
  let inner: EmulatedPlatform
  let chance: Chance
  let post: EventPost
  var now: UInt64 = 1_000_000_000

  init(hypervisor: Hypervisor, domain: Domain, chance: Chance, post: EventPost) {
    inner = EmulatedPlatform(hypervisor: hypervisor, domain: domain)
    self.chance = chance
    self.post = post
  }

  /// The world's clock.
  public var monotonicNanoseconds: UInt64 { now }

  // MARK: Backend

  /// Maps; a batch that luck strikes loses some of its pages.
  public func map(
    _ references: Span<GrantReference>, of granter: DomainID, writable: Bool,
    into results: inout MutableSpan<GrantMapping>
  ) {
    inner.map(references, of: granter, writable: writable, into: &results)
    guard chance.strikes(.mapping) else { return }
    for index in references.indices where results[index].status == .okay && chance.oneIn(2) {
      let handles = [results[index].handle]
      inner.unmap(handles.span)
      results[index] = GrantMapping(status: .noSpace)
    }
  }

  /// Unmaps.
  @discardableResult
  public func unmap(_ handles: Span<GrantHandle>) -> Bool { inner.unmap(handles) }

  /// Maps a ring.
  public func mapContiguously(
    _ references: [GrantReference], of granter: DomainID
  ) throws(GrantStatus) -> ContiguousMapping {
    if chance.strikes(.ringMapping) { throw .noSpace }
    return try inner.mapContiguously(references, of: granter)
  }

  /// Unmaps a ring.
  public func unmap(_ mapping: ContiguousMapping) { inner.unmap(mapping) }

  /// Binds a port.
  public func bindInterdomain(remote: DomainID, port: EventPort) throws(EventChannelError) -> EventPort {
    if chance.strikes(.binding) { throw .noSpace }
    return try inner.bindInterdomain(remote: remote, port: port)
  }

  /// Closes a port.
  public func close(_ port: EventPort) { inner.close(port) }

  /// Signals a port, now or later.
  public func notify(_ port: EventPort) {
    if chance.sabotages(.notificationsGetLost, oneIn: 40) { return }
    if chance.strikes(.lateEvent) {
      post.letters.append((inner, port))
    } else {
      inner.notify(port)
    }
  }

  // MARK: Frontend

  /// Takes pages.
  public func allocatePages(_ count: Int) throws(GrantStatus) -> GuestPages {
    if chance.strikes(.allocation) { throw .noSpace }
    return try inner.allocatePages(count)
  }
  /// Gives pages back.
  public func freePages(_ pages: GuestPages) { inner.freePages(pages) }
  /// Takes references.
  public func allocateReferences(_ count: Int) throws(GrantStatus) -> [GrantReference] {
    if chance.strikes(.allocation) { throw .noSpace }
    return try inner.allocateReferences(count)
  }
  /// Gives references back.
  public func freeReferences(_ references: [GrantReference]) { inner.freeReferences(references) }
  /// Grants a page.
  public func grantAccess(_ reference: GrantReference, to domain: DomainID, frame: FrameNumber, isReadOnly: Bool) {
    inner.grantAccess(reference, to: domain, frame: frame, isReadOnly: isReadOnly)
  }
  /// Ends a grant.
  public func endAccess(_ reference: GrantReference) -> Bool { inner.endAccess(reference) }
  /// Whether the peer has the page mapped.
  public func isMappedByPeer(_ reference: GrantReference) -> Bool { inner.isMappedByPeer(reference) }
  /// Takes an unbound port.
  public func allocateUnbound(remote: DomainID) throws(EventChannelError) -> EventPort {
    if chance.strikes(.binding) { throw .noSpace }
    return try inner.allocateUnbound(remote: remote)
  }
}
