// SPDX-License-Identifier: MIT

import CLinux
import Glibc
import Synchronization
import XenHypervisor
import XenPlatform
import XenWire

/// Two domains in this process whose events travel through descriptors, as those of a real Xen do: what the service and the
/// guest's frontend are run on where there is no Xen.
final class LoopbackHost: Sendable {
  private struct Channel {
    var descriptor: CInt
    var peer: EventPort?
  }

  let hypervisor: Hypervisor
  let control: Domain
  let guest: Domain
  private let channels = Mutex<(last: UInt32, open: [EventPort: Channel])>((0, [:]))
  /// Whether mapping is refused from now on.
  let refusesMappings = Atomic<Bool>(false)

  static let guestID = DomainID(rawValue: 7)

  init() throws {
    hypervisor = try Hypervisor()
    control = try hypervisor.createDomain(.control, memoryByteCount: 1 << 20, virtualCPUCount: 1)
    var limits = DomainLimits.xenDefaults
    limits.grantFrames = 64
    guest = try hypervisor.createDomain(Self.guestID, memoryByteCount: 64 << 20, virtualCPUCount: 1, limits: limits)
  }

  var portCount: Int { channels.withLock { $0.open.count } }

  func open(peer: EventPort?) -> EventPort {
    channels.withLock { channels in
      channels.last += 1
      let port = EventPort(rawValue: channels.last)
      channels.open[port] = Channel(descriptor: eventfd(0, CInt(EFD_CLOEXEC) | CInt(EFD_NONBLOCK)), peer: peer)
      if let peer { channels.open[peer]?.peer = port }
      return port
    }
  }

  func isOpen(_ port: EventPort) -> Bool { channels.withLock { $0.open[port] != nil } }

  func close(_ port: EventPort) {
    channels.withLock { channels in
      guard let channel = channels.open.removeValue(forKey: port) else { return }
      if let peer = channel.peer { channels.open[peer]?.peer = nil }
      Glibc.close(channel.descriptor)
    }
  }

  func notify(_ port: EventPort) {
    let target = channels.withLock { channels in channels.open[port]?.peer.flatMap { channels.open[$0]?.descriptor } }
    if let target { _ = eventfd_write(target, 1) }
  }

  func descriptor(of port: EventPort) -> CInt { channels.withLock { $0.open[port]?.descriptor ?? -1 } }

  func takeEvents(of port: EventPort) {
    var value: eventfd_t = 0
    _ = unsafe eventfd_read(descriptor(of: port), &value)
  }
}

/// One domain's view of a ``LoopbackHost``.
struct LoopbackPlatform: HostPlatform, GuestPlatform {
  static var outlivesProcess: Bool { true }

  let host: LoopbackHost
  let inner: EmulatedPlatform

  init(_ host: LoopbackHost, _ domain: Domain) {
    self.host = host
    inner = EmulatedPlatform(hypervisor: host.hypervisor, domain: domain)
  }

  func specialised(for port: EventPort) -> LoopbackPlatform { self }
  func waitDescriptor(of port: EventPort) -> Int32 { host.descriptor(of: port) }
  func takeEvents(of port: EventPort) { host.takeEvents(of: port) }
  func notify(_ port: EventPort) { host.notify(port) }
  func close(_ port: EventPort) { host.close(port) }
  func allocateUnbound(remote: DomainID) throws(EventChannelError) -> EventPort { host.open(peer: nil) }
  func bindInterdomain(remote: DomainID, port: EventPort) throws(EventChannelError) -> EventPort {
    guard host.isOpen(port) else { throw .invalid }
    return host.open(peer: port)
  }

  func map(
    _ references: Span<GrantReference>, of granter: DomainID, writable: Bool,
    into results: inout MutableSpan<GrantMapping>
  ) {
    guard !host.refusesMappings.load(ordering: .relaxed) else {
      for index in 0..<references.count { results[index] = GrantMapping(status: .noSpace) }
      return
    }
    inner.map(references, of: granter, writable: writable, into: &results)
  }
  func unmap(_ handles: Span<GrantHandle>) -> Bool { inner.unmap(handles) }
  func mapContiguously(_ references: [GrantReference], of granter: DomainID) throws(GrantStatus) -> ContiguousMapping {
    try inner.mapContiguously(references, of: granter)
  }
  func unmap(_ mapping: ContiguousMapping) { inner.unmap(mapping) }
  func allocatePages(_ count: Int) throws(GrantStatus) -> GuestPages { try inner.allocatePages(count) }
  func freePages(_ pages: GuestPages) { inner.freePages(pages) }
  func allocateReferences(_ count: Int) throws(GrantStatus) -> [GrantReference] {
    try inner.allocateReferences(count)
  }
  func freeReferences(_ references: [GrantReference]) { inner.freeReferences(references) }
  func grantAccess(_ reference: GrantReference, to domain: DomainID, frame: FrameNumber, isReadOnly: Bool) {
    inner.grantAccess(reference, to: domain, frame: frame, isReadOnly: isReadOnly)
  }
  func endAccess(_ reference: GrantReference) -> Bool { inner.endAccess(reference) }
  func isMappedByPeer(_ reference: GrantReference) -> Bool { inner.isMappedByPeer(reference) }
}
