// SPDX-License-Identifier: MIT

import CLinux
import CXen
import GuestMemory
import Synchronization
import XenHypervisor
import XenWire

/// Why a real Xen cannot be used from here.
public enum XenHostError: Error, Equatable, Sendable, CustomStringConvertible {
  /// A library is not installed.
  case library(String)
  /// A device cannot be opened.
  case device(String, code: Int32)

  /// A sentence that says what is missing.
  public var description: String {
    switch self {
    case .library(let what):
      "\(what): install Xen's libraries (Debian: apt-get install libxengnttab1 libxenevtchn1)"
    case .device(let path, let code):
      "\(path) cannot be opened (error \(code)): run this as root in a domain of a Xen host, with the modules "
        + "xen-gntdev and xen-evtchn loaded"
    }
  }
}

/// A real Xen under this process: libxengnttab and libxenevtchn, found when the program runs.
///
/// It keeps what the libraries leave to their callers: which address a grant handle stands for, and which of the process's
/// event-channel descriptors a port belongs to. Each port has a descriptor of its own, so that each queue's thread sleeps on
/// what concerns it. When the process dies the kernel unmaps and closes everything.
public final class XenHost: Sendable {
  /// One mapped page, or one ring.
  struct Mapping {
    var address: UInt = 0
    var count: UInt32 = 0
  }

  private struct Mappings {
    var entries: [Mapping] = []
    var free: [UInt32] = []
  }

  /// A handle of a C library, which is safe to use from any thread.
  @safe struct Handle: @unchecked Sendable {
    // SAFETY: the libraries' calls on one handle are single system calls on its descriptor.
    let pointer: UnsafeMutableRawPointer
  }

  private let grants: Handle
  private let mappings = Mutex(Mappings())
  private let channels = Mutex<[EventPort: Handle]>([:])

  /// Opens Xen's libraries and devices.
  public init() throws(XenHostError) {
    if let complaint = unsafe pv_xen_load() { throw unsafe .library(String(cString: complaint)) }
    guard let pointer = unsafe pv_xen_grants_open() else { throw .device("/dev/xen/gntdev", code: pv_errno()) }
    grants = unsafe Handle(pointer: pointer)
    guard let probe = unsafe pv_xen_events_open() else {
      let code = pv_errno()
      unsafe pv_xen_grants_close(pointer)
      throw .device("/dev/xen/evtchn", code: code)
    }
    unsafe pv_xen_events_close(probe)
  }

  deinit {
    for channel in channels.withLock({ Array($0.values) }) { unsafe pv_xen_events_close(channel.pointer) }
    unsafe pv_xen_grants_close(grants.pointer)
  }

  /// The number of mappings that are not undone.
  public var mappingCount: Int { mappings.withLock { $0.entries.count - $0.free.count } }
  /// The number of open ports.
  public var portCount: Int { channels.withLock { $0.count } }

  // MARK: Grants

  /// Maps pages one behind the other; nil when Xen refuses one of them.
  func map(_ references: Span<GrantReference>, of domain: DomainID, writable: Bool) -> (GrantHandle, UInt)? {
    let numbers = (0..<references.count).map { references[$0].rawValue }
    // SAFETY: the address and the count are those of the array, which the call only reads.
    let address = unsafe numbers.withUnsafeBufferPointer { buffer -> UInt in
      guard let base = buffer.baseAddress else { return 0 }
      return UInt(
        bitPattern: unsafe pv_xen_map(
          grants.pointer, UInt32(buffer.count), UInt32(domain.rawValue), base, writable ? 1 : 0))
    }
    guard address != 0 else { return nil }
    return mappings.withLock { mappings in
      let mapping = Mapping(address: address, count: UInt32(references.count))
      if let number = mappings.free.popLast() {
        mappings.entries[Int(number)] = mapping
        return (GrantHandle(rawValue: number), address)
      }
      mappings.entries.append(mapping)
      return (GrantHandle(rawValue: UInt32(mappings.entries.count - 1)), address)
    }
  }

  /// Undoes a mapping; false when the handle stands for none.
  func unmap(_ handle: GrantHandle) -> Bool {
    let mapping = mappings.withLock { mappings -> Mapping? in
      let index = Int(handle.rawValue)
      guard index < mappings.entries.count, mappings.entries[index].count > 0 else { return nil }
      defer {
        mappings.entries[index] = Mapping()
        mappings.free.append(handle.rawValue)
      }
      return mappings.entries[index]
    }
    guard let mapping, let pointer = unsafe UnsafeMutableRawPointer(bitPattern: mapping.address) else { return false }
    return unsafe pv_xen_unmap(grants.pointer, pointer, mapping.count) == 0
  }

  // MARK: Event channels

  /// Binds a local port, with a descriptor of its own, to a peer's unbound one.
  func bind(_ domain: DomainID, _ port: EventPort) throws(EventChannelError) -> EventPort {
    guard let handle = unsafe pv_xen_events_open() else { throw .noSpace }
    let local = unsafe pv_xen_bind_interdomain(handle, UInt32(domain.rawValue), port.rawValue)
    guard local > 0 else {
      let code = pv_errno()
      unsafe pv_xen_events_close(handle)
      throw EventChannelError(rawValue: -code) ?? .invalid
    }
    let bound = EventPort(rawValue: UInt32(local))
    let channel = unsafe Handle(pointer: handle)
    channels.withLock { $0[bound] = channel }
    return bound
  }

  func close(_ port: EventPort) {
    guard let channel = channels.withLock({ $0.removeValue(forKey: port) }) else { return }
    unsafe pv_xen_events_close(channel.pointer)
  }

  func channel(of port: EventPort) -> Handle? { channels.withLock { $0[port] } }
}
