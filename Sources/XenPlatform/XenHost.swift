// SPDX-License-Identifier: MIT

import CLinux
import CXen
import GuestMemory
import Synchronization
import XenHypervisor
public import XenWire

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
        + "xen-evtchn and xen-gntdev (for a backend) or xen-gntalloc (for a frontend) loaded"
    }
  }
}

/// A real Xen under this process: libxengnttab and libxenevtchn, found when the program runs.
///
/// It keeps what the libraries leave to their callers: which address a grant handle stands for, and how many pages of each
/// domain are mapped. When the process dies the kernel unmaps and closes everything.
public final class XenHost: Sendable {
  /// One mapped page, or one ring.
  struct Mapping {
    var address: UInt = 0
    var count: UInt32 = 0
    var domain = DomainID.control
  }

  struct Mappings {
    var entries: [Mapping] = []
    var free: [UInt32] = []
    /// Pages of each domain; domains without any are not in it.
    var pages: [DomainID: Int] = [:]
  }

  private let grants: XenHandle
  /// Pages of one domain that may be mapped at once.
  private let pagesOfDomain: Int
  private let mappings = Mutex(Mappings())
  let channels: XenChannels

  /// Opens Xen's libraries and devices.
  /// - Parameter pagesOfDomain: how many pages of one domain may be mapped at once; what goes beyond is refused, as a domain
  ///   could otherwise use up what all share.
  public init(pagesOfDomain: Int = .max) throws(XenHostError) {
    self.pagesOfDomain = pagesOfDomain
    if let complaint = unsafe pv_xen_load() { throw unsafe .library(String(cString: complaint)) }
    guard let pointer = unsafe pv_xen_grants_open() else { throw .device("/dev/xen/gntdev", code: pv_errno()) }
    grants = unsafe XenHandle(pointer: pointer)
    do throws(XenHostError) { channels = try XenChannels() } catch {
      unsafe pv_xen_grants_close(pointer)
      throw error
    }
  }

  deinit { unsafe pv_xen_grants_close(grants.pointer) }

  /// The number of mappings that are not undone.
  public var mappingCount: Int { mappings.withLock { $0.entries.count - $0.free.count } }
  /// The number of open ports.
  public var portCount: Int { channels.count }

  // MARK: Grants

  /// Maps pages one behind the other; nil when Xen refuses one of them, or when the domain has too many mapped already.
  func map(_ references: Span<GrantReference>, of domain: DomainID, writable: Bool) -> (GrantHandle, UInt)? {
    let count = references.count
    guard count > 0, mappings.withLock({ $0.reserve(count, of: domain, limit: pagesOfDomain) }) else { return nil }
    // SAFETY: a reference is its 32-bit number; the call only reads `count` of them.
    let address = unsafe references.withUnsafeBytes { bytes -> UInt in
      guard let base = bytes.baseAddress else { return 0 }
      return UInt(
        bitPattern: unsafe pv_xen_map(
          grants.pointer, UInt32(count), UInt32(domain.rawValue), base.assumingMemoryBound(to: UInt32.self),
          writable ? 1 : 0))
    }
    return mappings.withLock { mappings in
      guard address != 0 else {
        mappings.release(count, of: domain)
        return nil
      }
      return (mappings.insert(Mapping(address: address, count: UInt32(count), domain: domain)), address)
    }
  }

  /// Undoes a mapping; false when the handle stands for none.
  func unmap(_ handle: GrantHandle) -> Bool {
    guard let mapping = mappings.withLock({ $0.remove(handle) }),
      let pointer = unsafe UnsafeMutableRawPointer(bitPattern: mapping.address)
    else { return false }
    return unsafe pv_xen_unmap(grants.pointer, pointer, mapping.count) == 0
  }

  /// Pages of a domain that are mapped.
  public func pageCount(of domain: DomainID) -> Int { mappings.withLock { $0.pages[domain] ?? 0 } }
}

extension XenHost.Mappings {
  /// Counts pages as mapped before they are; false when that would be too many.
  mutating func reserve(_ count: Int, of domain: DomainID, limit: Int) -> Bool {
    let mapped = pages[domain] ?? 0
    guard count <= limit - mapped else { return false }
    pages[domain] = mapped + count
    return true
  }

  mutating func release(_ count: Int, of domain: DomainID) {
    let rest = (pages[domain] ?? 0) - count
    pages[domain] = rest > 0 ? rest : nil
  }

  mutating func insert(_ mapping: XenHost.Mapping) -> GrantHandle {
    if let number = free.popLast() {
      entries[Int(number)] = mapping
      return GrantHandle(rawValue: number)
    }
    entries.append(mapping)
    return GrantHandle(rawValue: UInt32(entries.count - 1))
  }

  /// Takes a mapping out; nil when the handle stands for none.
  mutating func remove(_ handle: GrantHandle) -> XenHost.Mapping? {
    let index = Int(handle.rawValue)
    guard index < entries.count, entries[index].count > 0 else { return nil }
    let mapping = entries[index]
    entries[index] = XenHost.Mapping()
    free.append(handle.rawValue)
    release(Int(mapping.count), of: mapping.domain)
    return mapping
  }
}
