// SPDX-License-Identifier: MIT

/// A domain's number (Xen `domid_t`).
///
/// Real domains are 0..0x7FEF; 0 is the control domain.
public struct DomainID: RawRepresentable, Hashable, Comparable, Sendable, CustomStringConvertible, BitwiseCopyable {
  /// The number as it stands on the wire.
  public var rawValue: UInt16
  /// Wraps a number.
  @inlinable public init(rawValue: UInt16) { self.rawValue = rawValue }

  /// The control domain, where backends run.
  public static let control = DomainID(rawValue: 0)
  /// "Myself" as an argument (Xen `DOMID_SELF`, xen.h).
  public static let ownSelf = DomainID(rawValue: 0x7FF0)
  /// The first number that never names a real domain (Xen `DOMID_FIRST_RESERVED`, xen.h).
  public static let firstReserved = DomainID(rawValue: 0x7FF0)

  /// Whether the number can name a real domain.
  @inlinable public var isReal: Bool { rawValue < 0x7FF0 }
  /// The number in decimal.
  public var description: String { "\(rawValue)" }
  /// Orders by number.
  @inlinable public static func < (left: DomainID, right: DomainID) -> Bool { left.rawValue < right.rawValue }
}

/// An index into a granter's table (Xen `grant_ref_t`).
public struct GrantReference: RawRepresentable, Hashable, Comparable, Sendable, BitwiseCopyable {
  /// The index as it stands on the wire.
  public var rawValue: UInt32
  /// Wraps an index.
  @inlinable public init(rawValue: UInt32) { self.rawValue = rawValue }

  /// "No grant" (Linux `INVALID_GRANT_REF`).
  public static let invalid = GrantReference(rawValue: 0xFFFF_FFFF)
  /// References 0..7 are never handed out (grant_table.h `GNTTAB_NR_RESERVED_ENTRIES`).
  public static let reservedCount: UInt32 = 8
  /// The XenStore page's reference (grant_table.h `GNTTAB_RESERVED_XENSTORE`).
  public static let xenStore = GrantReference(rawValue: 1)
  /// Orders by index.
  @inlinable
  public static func < (left: GrantReference, right: GrantReference) -> Bool { left.rawValue < right.rawValue }
}

/// A mapping's number in the mapper's maptrack table (Xen `grant_handle_t`).
public struct GrantHandle: RawRepresentable, Hashable, Sendable, BitwiseCopyable {
  /// The number.
  public var rawValue: UInt32
  /// Wraps a number.
  @inlinable public init(rawValue: UInt32) { self.rawValue = rawValue }
  /// "No mapping" (Linux `INVALID_GRANT_HANDLE`).
  public static let invalid = GrantHandle(rawValue: 0xFFFF_FFFF)
}

/// An event channel's local port (Xen `evtchn_port_t`); 0 is never handed out.
public struct EventPort: RawRepresentable, Hashable, Sendable, BitwiseCopyable {
  /// The number.
  public var rawValue: UInt32
  /// Wraps a number.
  @inlinable public init(rawValue: UInt32) { self.rawValue = rawValue }
}

/// A page number in a domain's memory.
public struct FrameNumber: RawRepresentable, Hashable, Comparable, Sendable, BitwiseCopyable {
  /// The number.
  public var rawValue: UInt64
  /// Wraps a number.
  @inlinable public init(rawValue: UInt64) { self.rawValue = rawValue }
  /// Orders by number.
  @inlinable public static func < (left: FrameNumber, right: FrameNumber) -> Bool { left.rawValue < right.rawValue }
}

/// What a grant operation answers (grant_table.h `GNTST_*`).
public enum GrantStatus: Int16, Error, Sendable, CaseIterable, BitwiseCopyable {
  case okay = 0
  case generalError = -1
  case badDomain = -2
  case badReference = -3
  case badHandle = -4
  case badVirtualAddress = -5
  case badDeviceAddress = -6
  case noDeviceSpace = -7
  case permissionDenied = -8
  case badPage = -9
  case badCopyArgument = -10
  case addressTooBig = -11
  case again = -12
  case noSpace = -13
}

/// What an event-channel operation answers when it refuses (event_channel.h; negative errno on the wire).
public enum EventChannelError: Int32, Error, Sendable, CaseIterable, BitwiseCopyable {
  case notPermitted = -1
  case noSuchEntry = -2
  case noSuchDomain = -3
  case again = -11
  case access = -13
  case exists = -17
  case invalid = -22
  case noSpace = -28
  case notImplemented = -38
  case notSupported = -95
}
