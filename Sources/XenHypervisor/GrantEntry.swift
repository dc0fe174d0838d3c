// SPDX-License-Identifier: MIT

/// The flag word of a grant entry (Xen grant_table.h, `GTF_*`).
public struct GrantFlags: OptionSet, Hashable, Sendable, BitwiseCopyable {
  /// The word as it stands in the shared entry.
  public var rawValue: UInt16
  /// Wraps a word.
  @inlinable public init(rawValue: UInt16) { self.rawValue = rawValue }

  /// The peer may map or copy the page (`GTF_permit_access`, a value of the type field).
  public static let permitAccess = GrantFlags(rawValue: 1)
  /// The peer may only read (`GTF_readonly`).
  public static let readOnly = GrantFlags(rawValue: 4)
  /// The peer may map or copy the page, and only read it.
  public static let permitReading = GrantFlags(rawValue: 5)
  /// The hypervisor's mark: pinned for reading (`GTF_reading`).
  public static let reading = GrantFlags(rawValue: 8)
  /// The hypervisor's mark: pinned for writing (`GTF_writing`).
  public static let writing = GrantFlags(rawValue: 16)
  /// Version 2: only a part of the page may be copied (`GTF_sub_page`).
  public static let subPage = GrantFlags(rawValue: 256)
  /// Either of the hypervisor's marks.
  public static let inUse: GrantFlags = [.reading, .writing]

  /// The bits that hold the entry's type (`GTF_type_mask`): 0 is an entry that grants nothing.
  public static let typeMask: UInt16 = 3
  /// Version 2: the grant forwards another domain's grant (`GTF_transitive`, a value of the type field).
  public static let transitiveType: UInt16 = 3

  /// The type field.
  @inlinable public var type: UInt16 { rawValue & Self.typeMask }
}

/// Where the fields of a version 1 grant entry stand (Xen grant_table.h, `struct grant_entry_v1`).
///
/// ```
///   0        2        4                8
///   | flags  | domid  | frame (u32)    |      512 entries in a 4096-byte frame
/// ```
public enum GrantEntryV1 {
  /// Bytes in an entry.
  public static let byteCount = 8
  /// The offset of the 16-bit flag word.
  public static let flagsOffset = 0
  /// The offset of the 16-bit number of the domain that may use the grant.
  public static let domainOffset = 2
  /// The offset of the 32-bit frame number.
  public static let frameOffset = 4
  /// Entries in one frame of the table.
  public static let perFrame = 512
}

/// Where the fields of a version 2 grant entry stand (Xen grant_table.h, `union grant_entry_v2`).
///
/// ```
///   0        2        4          6         8                        16
///   | flags  | domid  | page_off | length  | frame (u64)            |  256 entries in a 4096-byte frame
/// ```
/// The hypervisor's marks are not in the entry but in a 16-bit word of the status frames, 2048 words a frame.
public enum GrantEntryV2 {
  /// Bytes in an entry.
  public static let byteCount = 16
  /// The offset of the 16-bit flag word.
  public static let flagsOffset = 0
  /// The offset of the 16-bit number of the domain that may use the grant.
  public static let domainOffset = 2
  /// The offset of a sub-page grant's first byte in its page.
  public static let pageOffsetOffset = 4
  /// The offset of a sub-page grant's length in bytes.
  public static let lengthOffset = 6
  /// The offset of the 64-bit frame number.
  public static let frameOffset = 8
  /// Entries in one frame of the table.
  public static let perFrame = 256
  /// Status words in one status frame.
  public static let statusPerFrame = 2048
}

/// How a grant is to be mapped (Xen grant_table.h, `GNTMAP_*`).
public struct GrantMapFlags: OptionSet, Hashable, Sendable, BitwiseCopyable {
  /// The flags as they stand in the operation.
  public var rawValue: UInt32
  /// Wraps flags.
  @inlinable public init(rawValue: UInt32) { self.rawValue = rawValue }

  /// A device may reach the page; counted, but this machine has no devices that need an address.
  public static let device = GrantMapFlags(rawValue: 1)
  /// The mapper's own code may reach the page.
  public static let host = GrantMapFlags(rawValue: 2)
  /// The mapper will only read.
  public static let readOnly = GrantMapFlags(rawValue: 4)
  /// The mapper's own code will only read.
  public static let readOnlyHost = GrantMapFlags(rawValue: 6)
  /// Either kind of address.
  public static let anywhere = GrantMapFlags(rawValue: 3)
}
