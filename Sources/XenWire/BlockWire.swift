// SPDX-License-Identifier: MIT

/// What a ring request asks for (blkif.h `BLKIF_OP_*`).
///
/// Unknown codes stay numbers: they are answered, not trapped on.
public struct BlockOperation: RawRepresentable, Hashable, Sendable, BitwiseCopyable {
  /// The opcode as it stands on the wire.
  public var rawValue: UInt8
  /// Wraps an opcode.
  @inlinable public init(rawValue: UInt8) { self.rawValue = rawValue }

  /// `BLKIF_OP_READ`.
  @inlinable public static var read: BlockOperation { BlockOperation(rawValue: 0) }
  /// `BLKIF_OP_WRITE`.
  @inlinable public static var write: BlockOperation { BlockOperation(rawValue: 1) }
  /// `BLKIF_OP_WRITE_BARRIER`: earlier writes complete first, later ones wait.
  @inlinable public static var writeBarrier: BlockOperation { BlockOperation(rawValue: 2) }
  /// `BLKIF_OP_FLUSH_DISKCACHE`: commits the volatile cache; may carry data (flush, then write).
  @inlinable public static var flushDiskCache: BlockOperation { BlockOperation(rawValue: 3) }
  /// `BLKIF_OP_DISCARD`.
  @inlinable public static var discard: BlockOperation { BlockOperation(rawValue: 5) }
  /// `BLKIF_OP_INDIRECT`.
  @inlinable public static var indirect: BlockOperation { BlockOperation(rawValue: 6) }
  /// Ours, for the segment ring: the thread assigned no number, and 7 is the first that blkif.h does not use.
  @inlinable public static var segmentRun: BlockOperation { BlockOperation(rawValue: 7) }
}

/// How a ring request ended (blkif.h `BLKIF_RSP_*`).
public struct BlockStatus: RawRepresentable, Hashable, Sendable, BitwiseCopyable {
  /// The status as it stands on the wire.
  public var rawValue: Int16
  /// Wraps a status.
  @inlinable public init(rawValue: Int16) { self.rawValue = rawValue }

  /// `BLKIF_RSP_OKAY`.
  @inlinable public static var okay: BlockStatus { BlockStatus(rawValue: 0) }
  /// `BLKIF_RSP_ERROR`.
  @inlinable public static var error: BlockStatus { BlockStatus(rawValue: -1) }
  /// `BLKIF_RSP_EOPNOTSUPP`.
  @inlinable public static var unsupported: BlockStatus { BlockStatus(rawValue: -2) }
}

/// Bits of the `info` node (blkif.h `VDISK_*`).
public struct DiskInfoFlags: OptionSet, Hashable, Sendable {
  /// The bits as the node's number.
  public let rawValue: UInt32
  /// Wraps the bits.
  public init(rawValue: UInt32) { self.rawValue = rawValue }
  /// `VDISK_CDROM`.
  public static let cdrom = DiskInfoFlags(rawValue: 1)
  /// `VDISK_REMOVABLE`.
  public static let removable = DiskInfoFlags(rawValue: 2)
  /// `VDISK_READONLY`.
  public static let readOnly = DiskInfoFlags(rawValue: 4)
}

/// Numbers that every form of the block protocol shares (blkif.h).
public enum BlockLimits {
  /// Segments in a request's slot (`BLKIF_MAX_SEGMENTS_PER_REQUEST`).
  public static let directSegments = 11
  /// Descriptor pages of an indirect request (`BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST`).
  public static let indirectPages = 8
  /// Segments that one descriptor page holds: 4096 / 8.
  public static let segmentsPerIndirectPage = 512
  /// Most segments that an indirect request can name.
  public static let indirectSegments = indirectPages * segmentsPerIndirectPage
  /// Bytes in a segment on every ABI.
  public static let segmentSize = 8
  /// The last sector of a page.
  public static let lastSectorInPage: UInt8 = 7
  /// Discard flag bit 0: destroy the old contents (`BLKIF_DISCARD_SECURE`).
  public static let discardSecureFlag: UInt8 = 1
  /// Bytes before slot 0: four indices and padding.
  public static let ringHeaderSize = 64

  /// Descriptor pages that `segments` need.
  @inlinable
  public static func indirectPages(for segments: Int) -> Int {
    (segments + segmentsPerIndirectPage - 1) / segmentsPerIndirectPage
  }
}

/// A piece of a page to read or write (blkif.h `struct blkif_request_segment`): gref u32 @0, first u8 @4, last u8 @5,
/// two bytes of padding; 8 bytes on every ABI.
public struct Segment: Equatable, Sendable, BitwiseCopyable {
  /// The granted page.
  public var reference: GrantReference
  /// The first sector in the page, 0..7.
  public var firstSector: UInt8
  /// The last sector in the page, inclusive.
  public var lastSector: UInt8

  /// Names sectors `firstSector...lastSector` of a granted page.
  @inlinable
  public init(reference: GrantReference, firstSector: UInt8, lastSector: UInt8) {
    self.reference = reference
    self.firstSector = firstSector
    self.lastSector = lastSector
  }

  /// Decodes the eight bytes.
  @inlinable
  public init(bits: UInt64) {
    reference = GrantReference(rawValue: UInt32(truncatingIfNeeded: bits))
    firstSector = UInt8(truncatingIfNeeded: bits >> 32)
    lastSector = UInt8(truncatingIfNeeded: bits >> 40)
  }

  /// The eight bytes, padding zero.
  @inlinable
  public var bits: UInt64 {
    UInt64(reference.rawValue) | UInt64(firstSector) << 32 | UInt64(lastSector) << 40
  }

  /// Whether first and last lie in the page and in order.
  @inlinable
  public var isValid: Bool { lastSector <= BlockLimits.lastSectorInPage && firstSector <= lastSector }

  /// Whether the segment names tuples and not data (``RingProtection/sector``).
  @inlinable public var isProtection: Bool { firstSector & RingProtection.segmentMark != 0 }
  /// Whether a segment of tuples lies in its page.
  @inlinable
  public var isValidProtection: Bool { firstSector == RingProtection.segmentMark && lastSector & 0xF8 == firstSector }

  /// The number of sectors of a valid segment.
  @inlinable
  public var sectorCount: Int { Int(lastSector) - Int(firstSector) + 1 }
}

/// A response as both ends think of it.
public struct BlockResponse: Equatable, Sendable, BitwiseCopyable {
  /// The request's id, echoed.
  public var id: UInt64
  /// The request's opcode; for an indirect request the inner one.
  public var operation: BlockOperation
  /// How it ended.
  public var status: BlockStatus

  /// Makes a response.
  @inlinable
  public init(id: UInt64, operation: BlockOperation, status: BlockStatus) {
    self.id = id
    self.operation = operation
    self.status = status
  }
}
