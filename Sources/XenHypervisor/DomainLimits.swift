// SPDX-License-Identifier: MIT

public import XenWire

/// How much of the hypervisor one domain may use up; fixed when the domain is created.
public struct DomainLimits: Equatable, Sendable {
  /// Frames that the domain's grant table may grow to (Xen `max_grant_frames`).
  public var grantFrames: Int
  /// Frames of 256 handles for foreign pages that the domain maps (Xen `max_maptrack_frames`).
  public var maptrackFrames: Int
  /// Port numbers are below this; the event-channel interface in use may allow fewer (Xen `max_evtchn_port` + 1).
  public var eventPorts: Int
  /// Pages of its own that the domain can give up at a time for foreign ones to stand in.
  public var bufferPages: Int
  /// The newest layout of grant entries that the domain may choose (Xen `max_grant_version`).
  public var grantTableVersion: Int

  /// Sets limits.
  public init(
    grantFrames: Int = 64, maptrackFrames: Int = 1024, eventPorts: Int = 131_072, grantTableVersion: Int = 1,
    bufferPages: Int = .max
  ) {
    self.grantFrames = grantFrames
    self.maptrackFrames = maptrackFrames
    self.eventPorts = eventPorts
    self.grantTableVersion = grantTableVersion
    self.bufferPages = bufferPages
  }

  /// What Xen gives a domain by default, with version 1 grant entries only, as its advisories advise.
  public static let xenDefaults = DomainLimits()

  /// Whether the numbers make a machine.
  var isSound: Bool {
    (1...32_768).contains(grantFrames) && (1...65_536).contains(maptrackFrames) && (1...131_072).contains(eventPorts)
      && (1...2).contains(grantTableVersion) && bufferPages >= 0
  }
}

/// Who may share pages and event channels with a domain: the security policy that real Xen asks through XSM.
public enum DomainPolicy: Equatable, Sendable {
  /// Any domain.
  case anyPeer
  /// These domains only; others are refused with `.permissionDenied` and `.notPermitted`.
  case only(Set<DomainID>)

  func allows(_ domain: DomainID) -> Bool {
    switch self {
    case .anyPeer: true
    case .only(let allowed): allowed.contains(domain)
    }
  }
}

/// How a foreign page becomes reachable in this process.
public enum MappingStrategy: Equatable, Sendable, CaseIterable {
  /// A real mapping of the granter's page at another address, with the grant's rights, undone by a real unmapping.
  case remap
  /// The same accounting, but the address is the granter's own mapping of the page.
  case alias
}

/// Why a domain could not be created.
public enum HypervisorError: Error, Equatable, Sendable {
  /// The number is reserved (0x7FF0 and above).
  case reservedDomain(DomainID)
  /// A domain with that number lives already.
  case domainExists(DomainID)
  /// A number of virtual CPUs outside 1...256, or none of them running.
  case badVirtualCPUCount(Int)
  /// The limits make no machine: a negative number, none at all, or more than a table can hold.
  case badLimits
  /// The system refused memory or a descriptor: the call and its `errno`.
  case system(call: String, code: Int32)
}
