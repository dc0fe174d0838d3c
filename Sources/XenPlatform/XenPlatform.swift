// SPDX-License-Identifier: MIT

import GuestMemory
public import XenHypervisor
public import XenWire

/// A real Xen, as BlockBack wants it.
public struct XenPlatform: HostPlatform {
  /// Guests are other machines: they wait for the next process.
  @inlinable public static var outlivesProcess: Bool { true }
  /// The libraries and what they keep.
  public let host: XenHost
  /// The port that notifications go to without a look into a table, and its handle.
  private let fast: (port: EventPort, channel: XenHandle)?

  /// Looks at a host from the domain that this process runs in.
  public init(_ host: XenHost) {
    self.host = host
    fast = nil
  }

  private init(_ host: XenHost, fast: (EventPort, XenHandle)) {
    self.host = host
    self.fast = fast
  }

  /// The same platform for the queue of one port, whose notifications then take no lock.
  public func specialised(for port: EventPort) -> XenPlatform {
    guard let channel = host.channels[port] else { return self }
    return XenPlatform(host, fast: (port, channel))
  }

  /// Maps each reference; one that Xen refuses is answered so and leaves the others mapped.
  ///
  /// Each page is a mapping of its own, because each may be given back on its own.
  public func map(
    _ references: Span<GrantReference>, of granter: DomainID, writable: Bool,
    into results: inout MutableSpan<GrantMapping>
  ) {
    for index in 0..<references.count {
      let one = references.extracting(index..<index + 1)
      if let (handle, address) = host.map(one, of: granter, writable: writable) {
        results[index] = GrantMapping(status: .okay, handle: handle, address: address)
      } else {
        results[index] = GrantMapping(status: .generalError)
      }
    }
  }

  /// Undoes mappings; a handle that is not mapped is left alone and makes the answer false.
  @discardableResult
  public func unmap(_ handles: Span<GrantHandle>) -> Bool {
    var areAllOkay = true
    for index in 0..<handles.count where !host.unmap(handles[index]) { areAllOkay = false }
    return areAllOkay
  }

  /// Maps pages one behind the other; all or nothing.
  public func mapContiguously(
    _ references: [GrantReference], of granter: DomainID
  ) throws(GrantStatus) -> ContiguousMapping {
    guard let (handle, address) = host.map(references.span, of: granter, writable: true),
      let base = unsafe UnsafeMutableRawPointer(bitPattern: address)
    else { throw .generalError }
    // SAFETY: the library mapped so many pages there; they stay until `unmap` of the same mapping.
    let region = unsafe SharedRegion(unsafeBase: base, byteCount: references.count * PageGeometry.pageSize)
    return ContiguousMapping(region: region, handles: [handle])
  }

  /// Undoes ``mapContiguously(_:of:)``.
  public func unmap(_ mapping: ContiguousMapping) { unmap(mapping.handles.span) }

  /// Binds a local port to the peer's unbound one.
  public func bindInterdomain(remote: DomainID, port: EventPort) throws(EventChannelError) -> EventPort {
    try host.channels.bind(remote, port)
  }

  /// Closes a local port.
  public func close(_ port: EventPort) { host.channels.close(port) }

  /// Signals the port's peer.
  public func notify(_ port: EventPort) { channel(of: port)?.notify(port) }

  private func channel(of port: EventPort) -> XenHandle? {
    if let fast, fast.port == port { return fast.channel }
    return host.channels[port]
  }

  // MARK: Waiting

  /// Readable when the port's peer has signalled; -1 for a port that is not open.
  public func waitDescriptor(of port: EventPort) -> Int32 { channel(of: port)?.descriptor ?? -1 }

  /// Takes the signals of a port, and lets new ones come.
  public func takeEvents(of port: EventPort) { channel(of: port)?.takeEvents() }
}
