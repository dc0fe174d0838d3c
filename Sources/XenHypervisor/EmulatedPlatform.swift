// SPDX-License-Identifier: MIT

public import XenWire

/// One domain's view of the hypervisor in this process, as BlockFront and BlockBack want it.
public struct EmulatedPlatform: BackendPlatform, FrontendPlatform, Sendable {
  /// The hypervisor.
  public let hypervisor: Hypervisor
  /// The domain whose view this is.
  public let domain: Domain
  @usableFromInline let channels: EventChannels
  @usableFromInline let grants: GrantTable

  /// Looks at the hypervisor as `domain` does.
  public init(hypervisor: Hypervisor, domain: Domain) {
    self.hypervisor = hypervisor
    self.domain = domain
    channels = domain.eventChannels
    grants = domain.grantTable
  }

  // MARK: Both ends

  /// Signals the port's peer.
  @inlinable public func notify(_ port: EventPort) { channels.notify(port) }

  /// Closes a local port; one that is not open is ignored.
  public func close(_ port: EventPort) {
    do throws(EventChannelError) { try channels.close(port) } catch {}
  }

  // MARK: Backend

  /// Maps each reference of `granter`; every element of `results` is written.
  public func map(
    _ references: Span<GrantReference>, of granter: DomainID, writable: Bool,
    into results: inout MutableSpan<GrantMapping>
  ) {
    hypervisor.map(
      references, of: granter, for: domain, flags: writable ? .host : .readOnlyHost, into: &results)
  }

  /// The machine's clock.
  public var monotonicNanoseconds: UInt64 { hypervisor.monotonicNanoseconds }

  /// Gives up pages of the domain for foreign ones to stand in.
  public func takeBufferPages(_ count: Int) -> Bool { domain.takeBufferPages(count) }
  /// Takes them back.
  public func giveBufferPages(_ count: Int) { domain.giveBufferPages(count) }

  /// Undoes mappings; a handle that is not mapped is left alone and makes the answer false.
  @discardableResult
  public func unmap(_ handles: Span<GrantHandle>) -> Bool { hypervisor.unmap(handles, of: domain) }

  /// Maps pages one behind the other whatever their frames; all or nothing.
  public func mapContiguously(
    _ references: [GrantReference], of granter: DomainID
  ) throws(GrantStatus) -> ContiguousMapping {
    try hypervisor.mapContiguously(references, of: granter, for: domain)
  }

  /// Undoes ``mapContiguously(_:of:)``.
  public func unmap(_ mapping: ContiguousMapping) { hypervisor.unmap(mapping.handles.span, of: domain) }

  /// Binds a local port to the peer's unbound one.
  public func bindInterdomain(remote: DomainID, port: EventPort) throws(EventChannelError) -> EventPort {
    try channels.bindInterdomain(remote: remote, port: port)
  }

  // MARK: Frontend

  /// Takes `count` adjacent zeroed pages of the domain's memory.
  public func allocatePages(_ count: Int) throws(GrantStatus) -> GuestPages { try domain.memory.allocate(count) }

  /// Gives pages back; they must not be granted any more.
  public func freePages(_ pages: GuestPages) { domain.memory.free(pages) }

  /// Takes `count` free references; all or nothing.
  public func allocateReferences(_ count: Int) throws(GrantStatus) -> [GrantReference] {
    try grants.allocateReferences(count)
  }

  /// Gives references back; access to them must have ended.
  public func freeReferences(_ references: [GrantReference]) { grants.freeReferences(references) }

  /// Lets `domain` map the page.
  @inlinable
  public func grantAccess(_ reference: GrantReference, to domain: DomainID, frame: FrameNumber, isReadOnly: Bool) {
    grants.grantAccess(reference, to: domain, frame: frame, isReadOnly: isReadOnly)
  }

  /// Ends access; false when the peer still has the page mapped.
  @inlinable public func endAccess(_ reference: GrantReference) -> Bool { grants.endAccess(reference) }

  /// Whether the peer has the page mapped at this instant.
  @inlinable public func isMappedByPeer(_ reference: GrantReference) -> Bool { grants.isMappedByPeer(reference) }

  /// Takes a port that `remote` may bind to.
  public func allocateUnbound(remote: DomainID) throws(EventChannelError) -> EventPort {
    try channels.allocateUnbound(remote: remote)
  }
}
