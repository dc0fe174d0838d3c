// SPDX-License-Identifier: MIT

import CLinux
import CXen
import Synchronization
import XenHypervisor
import XenWire

/// A handle of a C library, which is safe to use from any thread.
@safe struct XenHandle: @unchecked Sendable {
  // SAFETY: the libraries' calls on one handle are single system calls on its descriptor.
  let pointer: UnsafeMutableRawPointer
}

/// The event channels of this process: which descriptor a port belongs to.
///
/// Each port has a descriptor of its own, so that each queue's thread sleeps on what concerns it.
final class XenChannels: Sendable {
  private let open = Mutex<[EventPort: XenHandle]>([:])

  /// Tries whether there are event channels.
  init() throws(XenHostError) {
    guard let probe = unsafe pv_xen_events_open() else { throw .device("/dev/xen/evtchn", code: pv_errno()) }
    unsafe pv_xen_events_close(probe)
  }

  deinit {
    for channel in open.withLock({ Array($0.values) }) { unsafe pv_xen_events_close(channel.pointer) }
  }

  var count: Int { open.withLock { $0.count } }

  /// Binds a local port to a peer's unbound one.
  func bind(_ domain: DomainID, _ port: EventPort) throws(EventChannelError) -> EventPort {
    try make { handle in unsafe pv_xen_bind_interdomain(handle.pointer, UInt32(domain.rawValue), port.rawValue) }
  }

  /// Takes a port that a peer may bind to.
  func allocateUnbound(_ domain: DomainID) throws(EventChannelError) -> EventPort {
    try make { handle in unsafe pv_xen_bind_unbound(handle.pointer, UInt32(domain.rawValue)) }
  }

  private func make(_ bind: (XenHandle) -> CInt) throws(EventChannelError) -> EventPort {
    guard let pointer = unsafe pv_xen_events_open() else { throw .noSpace }
    let channel = unsafe XenHandle(pointer: pointer)
    let local = bind(channel)
    guard local > 0 else {
      let code = pv_errno()
      unsafe pv_xen_events_close(pointer)
      throw EventChannelError(rawValue: -code) ?? .invalid
    }
    let port = EventPort(rawValue: UInt32(local))
    open.withLock { $0[port] = channel }
    return port
  }

  func close(_ port: EventPort) {
    guard let channel = open.withLock({ $0.removeValue(forKey: port) }) else { return }
    unsafe pv_xen_events_close(channel.pointer)
  }

  subscript(port: EventPort) -> XenHandle? { open.withLock { $0[port] } }
}

extension XenHandle {
  /// Signals the peer of a port that belongs to this handle.
  func notify(_ port: EventPort) { _ = unsafe pv_xen_notify(pointer, port.rawValue) }

  /// Readable when the handle's port is pending.
  var descriptor: Int32 { unsafe pv_xen_events_descriptor(pointer) }

  /// Takes the signals, and lets new ones come.
  func takeEvents() {
    while case let pending = unsafe pv_xen_pending(pointer), pending > 0 {
      _ = unsafe pv_xen_unmask(pointer, UInt32(pending))
    }
  }
}
