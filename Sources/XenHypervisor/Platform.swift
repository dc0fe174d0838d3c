// SPDX-License-Identifier: MIT

public import CLinux
public import GuestMemory
public import XenWire

/// One foreign page as the mapper sees it.
public struct GrantMapping: Equatable, BitwiseCopyable, Sendable {
  /// How the mapping went; the other fields mean something only when it is `.okay`.
  public var status: GrantStatus
  /// What undoes the mapping.
  public var handle: GrantHandle
  /// Where the page is in this process.
  public var address: UInt

  /// Describes a mapping.
  @inlinable
  public init(status: GrantStatus, handle: GrantHandle = .invalid, address: UInt = 0) {
    self.status = status
    self.handle = handle
    self.address = address
  }
}

/// The time that a platform runs by; a simulation brings its own.
public protocol PlatformClock {
  /// Nanoseconds since some fixed moment, never going back.
  var monotonicNanoseconds: UInt64 { get }
}

extension PlatformClock {
  /// CLOCK_MONOTONIC.
  @inlinable public var monotonicNanoseconds: UInt64 { pv_monotonic_nanoseconds() }
}

/// What a backend needs of the hypervisor under it: foreign pages and notifications.
///
/// Conformers are concrete types that the hot path is specialised for: the emulated hypervisor here, libxengnttab and
/// libxenevtchn on a real Xen.
public protocol BackendPlatform: PlatformClock {
  /// Whether frontends live on when this process dies, and find the next one on the same ring: then a queue notes what it has
  /// taken where the next process finds it. A constant, so that nobody else pays for it.
  static var outlivesProcess: Bool { get }
  /// Maps each reference of `granter`; every element of `results` is written. Pages whose frames are adjacent in the
  /// granter's memory come out at adjacent addresses. A failed element leaves the others mapped.
  func map(
    _ references: Span<GrantReference>, of granter: DomainID, writable: Bool,
    into results: inout MutableSpan<GrantMapping>)
  /// Undoes mappings; a handle that is not mapped is answered `.badHandle` and changes nothing. True when all were okay.
  @discardableResult
  func unmap(_ handles: Span<GrantHandle>) -> Bool
  /// Maps pages one behind the other whatever their frames, for a ring that spans pages; all or nothing.
  func mapContiguously(_ references: [GrantReference], of granter: DomainID) throws(GrantStatus) -> ContiguousMapping
  /// Undoes ``mapContiguously(_:of:)``.
  func unmap(_ mapping: ContiguousMapping)
  /// Binds a local port to the peer's unbound one.
  func bindInterdomain(remote: DomainID, port: EventPort) throws(EventChannelError) -> EventPort
  /// Closes a local port.
  func close(_ port: EventPort)
  /// Signals the port's peer.
  func notify(_ port: EventPort)
  /// Gives up pages of the domain for foreign ones to stand in; all or nothing.
  /// - Returns: false when the domain has no more to give.
  func takeBufferPages(_ count: Int) -> Bool
  /// Takes back pages that were given up.
  func giveBufferPages(_ count: Int)
}

extension BackendPlatform {
  /// Domains in this process die with it.
  @inlinable public static var outlivesProcess: Bool { false }
  /// Where somebody else keeps the pages, as a real Xen's libraries do, there is nothing to give up.
  public func takeBufferPages(_ count: Int) -> Bool { true }
  /// Nothing was given up.
  public func giveBufferPages(_ count: Int) {}
}

/// Foreign pages mapped one behind the other.
public struct ContiguousMapping: Sendable {
  /// The bytes, in the order of the references.
  public let region: SharedRegion
  /// One handle a page.
  public let handles: [GrantHandle]

  /// Describes pages mapped one behind the other.
  public init(region: SharedRegion, handles: [GrantHandle]) {
    self.region = region
    self.handles = handles
  }
}

/// What a frontend needs of the hypervisor under it: pages of its own, grants on them, and notifications.
public protocol FrontendPlatform: PlatformClock {
  /// Takes `count` adjacent zeroed pages of the domain's memory.
  func allocatePages(_ count: Int) throws(GrantStatus) -> GuestPages
  /// Gives pages back. They must not be granted any more.
  func freePages(_ pages: GuestPages)
  /// Takes `count` free references; all or nothing (`.noSpace`).
  func allocateReferences(_ count: Int) throws(GrantStatus) -> [GrantReference]
  /// Takes a reference for each of the pages, which stay granted for as long as they are used; all or nothing.
  func allocateReferences(for pages: GuestPages) throws(GrantStatus) -> [GrantReference]
  /// Gives references back; access to them must have ended.
  func freeReferences(_ references: [GrantReference])
  /// Lets `domain` map the page: domid and frame first, then a barrier, then the flags.
  func grantAccess(_ reference: GrantReference, to domain: DomainID, frame: FrameNumber, isReadOnly: Bool)
  /// Ends access by one compare-exchange; false when the peer still has the page mapped, and then nothing changed.
  func endAccess(_ reference: GrantReference) -> Bool
  /// Whether the peer has the page mapped at this instant.
  func isMappedByPeer(_ reference: GrantReference) -> Bool
  /// Takes a port that `remote` may bind to.
  func allocateUnbound(remote: DomainID) throws(EventChannelError) -> EventPort
  /// Closes a local port.
  func close(_ port: EventPort)
  /// Signals the port's peer.
  func notify(_ port: EventPort)
}

extension FrontendPlatform {
  /// Where references and pages have nothing to do with each other, any will do.
  public func allocateReferences(for pages: GuestPages) throws(GrantStatus) -> [GrantReference] {
    try allocateReferences(pages.count)
  }
}

/// Adjacent pages of a domain's own memory.
public struct GuestPages: Sendable {
  /// The first page's frame.
  public let firstFrame: FrameNumber
  /// The number of pages.
  public let count: Int
  /// The bytes as the owner sees them.
  public let region: SharedRegion

  /// Describes pages.
  public init(firstFrame: FrameNumber, count: Int, region: SharedRegion) {
    self.firstFrame = firstFrame
    self.count = count
    self.region = region
  }
}
