// SPDX-License-Identifier: MIT

import CLinux
import CXen
import Glibc
import GuestMemory
import Synchronization
public import XenHypervisor
public import XenWire

/// A real Xen under a process in a guest: pages that it shares with its backend's domain, through libxengnttab's `gntshr`
/// calls and the kernel's xen-gntalloc.
///
/// The kernel makes a page and its grant at once and for good: a page is the backend's to map from the moment that it is
/// made until it is given back. A page that the backend still maps then stays out of use until it lets go.
public final class XenGuest: Sendable {
  private let shares: XenHandle
  let channels: XenChannels
  private let pages = Mutex<[FrameNumber: [GrantReference]]>([:])

  /// How many pages the kernel lets all processes together share; root may change it.
  private static let limitPath = "/sys/module/xen_gntalloc/parameters/limit"

  /// Opens Xen's libraries and devices.
  public init() throws(XenHostError) {
    if let complaint = unsafe pv_xen_load() { throw unsafe .library(String(cString: complaint)) }
    guard let pointer = unsafe pv_xen_shares_open() else { throw .device("/dev/xen/gntalloc", code: pv_errno()) }
    shares = unsafe XenHandle(pointer: pointer)
    do throws(XenHostError) { channels = try XenChannels() } catch {
      unsafe pv_xen_shares_close(pointer)
      throw error
    }
  }

  deinit { unsafe pv_xen_shares_close(shares.pointer) }

  /// Lets processes share so many pages more than they may by default; whether that worked shows when pages are taken.
  public static func raiseLimit(by count: Int) {
    let text = "\(1024 + count)\n"
    let descriptor = unsafe pv_open(limitPath, O_WRONLY | O_CLOEXEC, 0)
    guard descriptor >= 0 else { return }
    _ = unsafe write(descriptor, text, text.utf8.count)
    close(descriptor)
  }

  /// Takes zeroed pages one behind the other that `domain` may map and write.
  func share(_ count: Int, with domain: DomainID) -> GuestPages? {
    var numbers = [UInt32](repeating: 0, count: count)
    // SAFETY: the array has room for as many references as pages are asked for.
    let address = unsafe numbers.withUnsafeMutableBufferPointer { buffer -> UnsafeMutableRawPointer? in
      guard let base = buffer.baseAddress else { return nil }
      return unsafe pv_xen_share(shares.pointer, UInt32(domain.rawValue), UInt32(count), base)
    }
    guard let address = unsafe address else { return nil }
    // SAFETY: the library mapped so many pages there; they stay until `unshare`.
    let region = unsafe SharedRegion(unsafeBase: address, byteCount: count * PageGeometry.pageSize)
    // A process knows no frames; its own page numbers are as good, for nobody else looks at them.
    let first = FrameNumber(rawValue: UInt64(region.address) >> UInt64(PageGeometry.pageShift))
    pages.withLock { $0[first] = numbers.map { GrantReference(rawValue: $0) } }
    return GuestPages(firstFrame: first, count: count, region: region)
  }

  /// The references of pages.
  func references(of shared: GuestPages) -> [GrantReference] { pages.withLock { $0[shared.firstFrame] ?? [] } }

  /// Gives pages back.
  func unshare(_ shared: GuestPages) {
    guard pages.withLock({ $0.removeValue(forKey: shared.firstFrame) }) != nil,
      let address = unsafe UnsafeMutableRawPointer(bitPattern: shared.region.address)
    else { return }
    _ = unsafe pv_xen_unshare(shares.pointer, address, UInt32(shared.count))
  }

  /// The number of open ports.
  public var portCount: Int { channels.count }
  /// Pages that are shared at this moment.
  public var pageCount: Int { pages.withLock { $0.values.reduce(0) { $0 + $1.count } } }
}

/// A platform for a frontend whose events reach a thread through descriptors.
public protocol GuestPlatform: FrontendPlatform, Sendable {
  /// The same platform for the queue of one port: signals to and from that port need no look into a table.
  func specialised(for port: EventPort) -> Self
  /// Readable when the port's peer has signalled; -1 for a port that is not open.
  func waitDescriptor(of port: EventPort) -> Int32
  /// Takes the signals of a port, and lets new ones come.
  func takeEvents(of port: EventPort)
}

/// A real Xen, as BlockFront wants it, for a frontend of one backend's domain.
public struct XenGuestPlatform: GuestPlatform {
  /// The libraries and what they keep.
  public let guest: XenGuest
  /// The backend's domain, with which pages are shared.
  public let peer: DomainID
  private let fast: (port: EventPort, channel: XenHandle)?

  /// Looks at a guest's Xen for a frontend whose backend is in `peer`.
  public init(_ guest: XenGuest, peer: DomainID) { self.init(guest, peer: peer, fast: nil) }

  private init(_ guest: XenGuest, peer: DomainID, fast: (EventPort, XenHandle)?) {
    self.guest = guest
    self.peer = peer
    self.fast = fast
  }

  /// The same platform for the queue of one port, whose notifications then take no lock.
  public func specialised(for port: EventPort) -> XenGuestPlatform {
    guard let channel = guest.channels[port] else { return self }
    return XenGuestPlatform(guest, peer: peer, fast: (port, channel))
  }

  /// Takes pages that the backend may map from now on.
  public func allocatePages(_ count: Int) throws(GrantStatus) -> GuestPages {
    guard let pages = guest.share(count, with: peer) else { throw .noSpace }
    return pages
  }

  /// Gives pages back.
  public func freePages(_ pages: GuestPages) { guest.unshare(pages) }
  /// The references that the pages were made with.
  public func allocateReferences(for pages: GuestPages) throws(GrantStatus) -> [GrantReference] {
    guest.references(of: pages)
  }
  /// References without a page cannot be had from the kernel.
  public func allocateReferences(_ count: Int) throws(GrantStatus) -> [GrantReference] { throw .noSpace }
  /// A reference goes with its page.
  public func freeReferences(_ references: [GrantReference]) {}
  /// The page is granted already.
  public func grantAccess(_ reference: GrantReference, to domain: DomainID, frame: FrameNumber, isReadOnly: Bool) {}
  /// The kernel ends the grant when the page is given back, or as soon after as the backend has let go.
  public func endAccess(_ reference: GrantReference) -> Bool { true }
  /// Only the kernel can tell.
  public func isMappedByPeer(_ reference: GrantReference) -> Bool { false }

  /// Takes a port that `remote` may bind to.
  public func allocateUnbound(remote: DomainID) throws(EventChannelError) -> EventPort {
    try guest.channels.allocateUnbound(remote)
  }
  /// Closes a local port.
  public func close(_ port: EventPort) { guest.channels.close(port) }
  /// Signals the port's peer.
  public func notify(_ port: EventPort) { channel(of: port)?.notify(port) }

  private func channel(of port: EventPort) -> XenHandle? {
    if let fast, fast.port == port { return fast.channel }
    return guest.channels[port]
  }

  /// Readable when the port's peer has signalled; -1 for a port that is not open.
  public func waitDescriptor(of port: EventPort) -> Int32 { channel(of: port)?.descriptor ?? -1 }
  /// Takes the signals of a port, and lets new ones come.
  public func takeEvents(of port: EventPort) { channel(of: port)?.takeEvents() }
}
