// SPDX-License-Identifier: MIT

import Synchronization
public import XenHypervisor
public import XenWire

/// A domain's view of a real hypervisor, with a clock that the test moves and with a record of what was asked.
public final class PeerPlatform: BackendPlatform, FrontendPlatform, Sendable {
  /// A guest outlives the backend's process, as on a real Xen.
  public static var outlivesProcess: Bool { true }

  /// What was asked of the hypervisor.
  public struct Calls: Equatable, Sendable {
    /// Batches of mappings: how many references each, and whether for writing.
    public var maps: [MapCall] = []
    /// Pages unmapped.
    public var unmapped = 0
    /// Notifications sent.
    public var notifications = 0
    /// Grants made.
    public var grants = 0
    /// Grants ended with success.
    public var ended = 0
    /// Pages that the domain gave up for foreign ones to stand in.
    public var bufferPagesTaken = 0
  }

  /// One batch of mappings.
  public struct MapCall: Equatable, Sendable {
    /// The references.
    public let references: [GrantReference]
    /// Whether they were asked for to be written.
    public let isWritable: Bool
  }

  /// The hypervisor's own view.
  public let inner: EmulatedPlatform
  private let nanoseconds = Atomic<UInt64>(1_000_000_000)
  private let record = Mutex(Calls())
  private let interference = Mutex(Interference())

  /// A closure in a value of its own: one that stands alone in a `Mutex` is wrapped once more at each look.
  private struct Interference { var body: (@Sendable (Moment) -> Void)? }

  /// When a peer may do its worst.
  public enum Moment: Equatable, Sendable {
    /// Pages are about to be mapped: what was asked has been judged by now.
    case mapping
    /// A grant is about to end.
    case endingAccess
  }

  /// What runs at each such moment, on the thread that reached it; nil for nothing.
  public func interfere(_ body: (@Sendable (Moment) -> Void)?) { interference.withLock { $0.body = body } }
  private func reach(_ moment: Moment) { interference.withLock { $0.body }?(moment) }

  /// Looks at the hypervisor as `domain` does; the clock stands at one second.
  public init(hypervisor: Hypervisor, domain: Domain) {
    inner = EmulatedPlatform(hypervisor: hypervisor, domain: domain)
  }

  /// The time; it stands still until ``advanceClock(milliseconds:)``.
  public var monotonicNanoseconds: UInt64 { nanoseconds.load(ordering: .relaxed) }
  /// Lets time pass.
  public func advanceClock(milliseconds: UInt64) {
    nanoseconds.store(monotonicNanoseconds + milliseconds * 1_000_000, ordering: .relaxed)
  }
  /// Lets a little time pass.
  public func advanceClock(nanoseconds count: UInt64) {
    nanoseconds.store(monotonicNanoseconds + count, ordering: .relaxed)
  }
  /// What was asked so far.
  public var calls: Calls { record.withLock { $0 } }
  /// Starts the record anew.
  public func forgetCalls() { record.withLock { $0 = Calls() } }

  // MARK: Backend

  /// Maps, and notes it.
  public func map(
    _ references: Span<GrantReference>, of granter: DomainID, writable: Bool,
    into results: inout MutableSpan<GrantMapping>
  ) {
    let list = references.indices.map { references[$0] }
    record.withLock { $0.maps.append(MapCall(references: list, isWritable: writable)) }
    reach(.mapping)
    inner.map(references, of: granter, writable: writable, into: &results)
  }
  /// Unmaps, and notes it.
  @discardableResult
  public func unmap(_ handles: Span<GrantHandle>) -> Bool {
    let count = handles.count
    record.withLock { $0.unmapped += count }
    return inner.unmap(handles)
  }
  /// Maps pages one behind the other.
  public func mapContiguously(
    _ references: [GrantReference], of granter: DomainID
  ) throws(GrantStatus) -> ContiguousMapping { try inner.mapContiguously(references, of: granter) }
  /// Undoes it.
  public func unmap(_ mapping: ContiguousMapping) { inner.unmap(mapping) }
  /// Binds a port.
  public func bindInterdomain(remote: DomainID, port: EventPort) throws(EventChannelError) -> EventPort {
    try inner.bindInterdomain(remote: remote, port: port)
  }
  /// Closes a port.
  public func close(_ port: EventPort) { inner.close(port) }
  /// Signals a port, and notes it.
  public func notify(_ port: EventPort) {
    record.withLock { $0.notifications += 1 }
    inner.notify(port)
  }

  /// Gives up pages, and notes it if that went well.
  public func takeBufferPages(_ count: Int) -> Bool {
    let isTaken = inner.takeBufferPages(count)
    if isTaken { record.withLock { $0.bufferPagesTaken += count } }
    return isTaken
  }
  /// Takes pages back.
  public func giveBufferPages(_ count: Int) { inner.giveBufferPages(count) }

  // MARK: Frontend

  /// Takes pages.
  public func allocatePages(_ count: Int) throws(GrantStatus) -> GuestPages { try inner.allocatePages(count) }
  /// Gives pages back.
  public func freePages(_ pages: GuestPages) { inner.freePages(pages) }
  /// Takes references.
  public func allocateReferences(_ count: Int) throws(GrantStatus) -> [GrantReference] {
    try inner.allocateReferences(count)
  }
  /// Gives references back.
  public func freeReferences(_ references: [GrantReference]) { inner.freeReferences(references) }
  /// Grants a page, and notes it.
  public func grantAccess(_ reference: GrantReference, to domain: DomainID, frame: FrameNumber, isReadOnly: Bool) {
    record.withLock { $0.grants += 1 }
    inner.grantAccess(reference, to: domain, frame: frame, isReadOnly: isReadOnly)
  }
  /// Ends a grant, and notes it if that went well.
  public func endAccess(_ reference: GrantReference) -> Bool {
    reach(.endingAccess)
    let isEnded = inner.endAccess(reference)
    if isEnded { record.withLock { $0.ended += 1 } }
    return isEnded
  }
  /// Whether the peer has the page mapped.
  public func isMappedByPeer(_ reference: GrantReference) -> Bool { inner.isMappedByPeer(reference) }
  /// Takes an unbound port.
  public func allocateUnbound(remote: DomainID) throws(EventChannelError) -> EventPort {
    try inner.allocateUnbound(remote: remote)
  }
}

/// A hypervisor with a control domain and a guest, for one end that is real and one that is scripted.
public struct PeerMachine: Sendable {
  /// The hypervisor.
  public let hypervisor: Hypervisor
  /// The backend's view.
  public let control: PeerPlatform
  /// The frontend's view.
  public let guest: PeerPlatform

  /// The guest's number.
  public static let guestID = DomainID(rawValue: 1)
  /// A third domain, to which nothing is granted.
  public static let strangerID = DomainID(rawValue: 2)

  /// Boots two domains and a stranger.
  public init(mapping: MappingStrategy = .remap, bufferPages: Int = .max) throws {
    hypervisor = try Hypervisor(mapping: mapping)
    let first = try hypervisor.createDomain(
      .control, memoryByteCount: 1 << 20, virtualCPUCount: 1, limits: DomainLimits(bufferPages: bufferPages))
    var limits = DomainLimits.xenDefaults
    limits.grantFrames = 64
    let second = try hypervisor.createDomain(
      Self.guestID, memoryByteCount: 256 << 20, virtualCPUCount: 1, limits: limits)
    try hypervisor.createDomain(Self.strangerID, memoryByteCount: 1 << 20, virtualCPUCount: 1)
    control = PeerPlatform(hypervisor: hypervisor, domain: first)
    guest = PeerPlatform(hypervisor: hypervisor, domain: second)
  }

  /// What everybody holds.
  public var ledger: ResourceLedger { hypervisor.ledger }
}
