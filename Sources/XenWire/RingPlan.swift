// SPDX-License-Identifier: MIT

/// The wire forms that were proposed, and the one that everybody speaks.
public enum RingVariant: String, Sendable, CaseIterable {
  /// What Linux speaks.
  case classic
  /// As many segments in the slot as both ends agreed.
  case wide
  /// Segments in a ring of their own.
  case segmentRing = "segment-ring"
  /// 64 bytes a slot.
  case slim64
  /// 32 bytes a slot.
  case slim32
}

/// Where the index words of split rings are.
public enum IndexPlacement: String, Sendable, CaseIterable {
  /// Each end's words on a line of their own.
  case apart
  /// All in the first line of the page, as the thread's text can be read.
  case together
}

/// How data is vouched for on its way through the rings (T10 protection information).
public enum RingProtection: String, Sendable, CaseIterable {
  /// Not at all.
  case off
  /// One tuple for a whole request, in its slot; for reads in the response.
  case slot
  /// One tuple for each 512-byte sector, in granted pages of their own.
  case sector

  /// Tuples of sectors that one page holds.
  public static let sectorsPerPage = 512
  /// Marks a segment of tuples: first sector 0x80, last sector 0x80 and the last 512 bytes in use.
  public static let segmentMark: UInt8 = 0x80

  /// Of so many segments, those that can be data when the others are tuples: one page of tuples goes with 64 pages.
  @inlinable
  public static func dataSegments(of segments: Int) -> Int { segments - (segments + 64) / 65 }

  /// Pages of tuples that so many sectors need.
  @inlinable
  public static func pages(for sectors: UInt64) -> Int { Int(truncatingIfNeeded: (sectors &+ 511) >> 9) }
}

/// What tuples on the rings are like: a type of T10 protection information, and how the guard is made.
public struct RingProtectionProfile: Hashable, Sendable {
  /// 1: the reference tag is the sector's number; 2: it counts on from the request's first tuple; 3: it is not checked.
  public let type: UInt8
  /// Whether the guard is the Internet checksum instead of the CRC.
  public let usesInternetChecksum: Bool

  /// Names a profile; nil unless the type is 1, 2 or 3.
  public init?(type: Int, usesInternetChecksum: Bool = false) {
    guard (1...3).contains(type) else { return nil }
    self.type = UInt8(type)
    self.usesInternetChecksum = usesInternetChecksum
  }

  private init(number: UInt32) {
    type = UInt8(number % 3 + 1)
    usesInternetChecksum = number >= 3
  }

  /// Type 1 with a CRC: what everybody who vouches for data can do.
  public static let standard = RingProtectionProfile(number: 0)
  /// All of them, in the order of their numbers.
  public static let all = (0..<6).map { RingProtectionProfile(number: $0) }

  /// The number in the store: types 1 to 3 with a CRC are 0 to 2, with the checksum 3 to 5.
  public var number: UInt32 { UInt32(type) - 1 + (usesInternetChecksum ? 3 : 0) }
}

/// What both ends of a queue agreed on about the form of its rings; one value for all queues of a disk.
public struct RingPlan: Equatable, Sendable {
  /// The ABI.
  public var blockProtocol = BlockProtocol.x86_64
  /// The form of the slots.
  public var variant = RingVariant.classic
  /// Pages of the ring, or of the request ring.
  public var ringPages = 1
  /// Whether responses have a ring of their own.
  public var isSplit = false
  /// Pages of the response ring of split rings; nil: the fewest in which every request has its response.
  public var responseRingPages: Int?
  /// Where split rings have their index words.
  public var indexPlacement = IndexPlacement.apart
  /// Whether every slot that fits is used, not a power of two of them.
  public var usesWholePage = false
  /// What header and slots are rounded up to: 64 or 128, or 0 for nothing.
  public var alignment = 0
  /// `wide`: segments of a request, 11 to 256.
  public var segmentsPerRequest = BlockLimits.directSegments
  /// How data is vouched for.
  public var protection = RingProtection.off
  /// What the tuples are like.
  public var protectionProfile = RingProtectionProfile.standard
  /// `segment-ring`: bytes in an entry, 6 or 8.
  public var segmentEntrySize = BlockLimits.segmentSize
  /// `segment-ring`: pages of the ring of segments.
  public var segmentRingPages = 1

  /// The classic protocol of 64 bits, one page.
  public init() {}

  /// The classic protocol.
  public init(_ blockProtocol: BlockProtocol, ringPages: Int = 1) {
    self.blockProtocol = blockProtocol
    self.ringPages = ringPages
  }

  /// The form of the slots, as code is specialised for it.
  public var format: SlotFormat {
    let is32 = blockProtocol == .x86_32
    switch variant {
    case .classic: return is32 ? .classic32 : .classic64
    case .wide: return is32 ? .wide32 : .wide64
    case .segmentRing: return is32 ? .segmentRing32 : .segmentRing64
    case .slim64: return is32 ? .slim64On32 : .slim64
    case .slim32: return .slim32
    }
  }

  /// Bytes in a request's slot before alignment.
  public var slotSize: Int {
    let numbers = format.numbers
    return variant == .wide ? numbers.segmentsOffset + segmentsPerRequest * numbers.segmentStride : numbers.slotSize
  }

  /// What cannot be in this plan, as the object of "the rings would have ..."; nil when all of it can.
  public var complaint: String? {
    let line = max(BlockLimits.ringHeaderSize, alignment)
    let header = isSplit && indexPlacement == .apart ? 2 * line : line
    let stride = RingGeometry.round(slotSize, up: alignment)
    if header + stride > ringPages * RingGeometry.pageSize {
      return "no room for a slot of \(stride) bytes in \(ringPages) ring pages"
    }
    if protection == .slot, !hasRoomForProtection {
      return "protection information in slots of \(stride) bytes, which have no room for it"
    }
    if isSplit, indexPlacement == .together, alignment > 0 {
      return "index words together on one line and aligned to \(alignment) at the same time"
    }
    return nil
  }

  /// Whether slots have room for protection information.
  public var hasRoomForProtection: Bool {
    let offset = format.numbers.protectionOffset
    return offset >= 0 && RingGeometry.round(slotSize, up: alignment) >= offset + 8
  }

  /// Segments that a request can carry in its own slot.
  public var directSegments: Int { variant == .wide ? segmentsPerRequest : format.numbers.directSegments }

  /// Segments of the largest request when `offered` are offered beyond the slot's own: in descriptor pages, or in the ring
  /// of segments.
  public func segmentLimit(offered: Int) -> Int {
    let most =
      variant == .segmentRing ? Int(RingGeometry(self).segmentCount) : format.numbers.indirectSegments
    return max(directSegments, min(offered, most))
  }

  /// Descriptor pages that one request of `segments` needs.
  public func descriptorPages(for segments: Int) -> Int {
    let numbers = format.numbers
    guard numbers.indirectSegments > 0, segments > directSegments else { return 0 }
    return (segments + numbers.descriptorsPerPage - 1) / numbers.descriptorsPerPage
  }
}
