// SPDX-License-Identifier: MIT

/// A format made from another by changing a few of its numbers.
public protocol DerivedFormat: RingFormat {
  /// The format whose numbers hold where this one says nothing.
  associatedtype Base: RingFormat
}

extension DerivedFormat {
  /// The base's.
  @inlinable public static var responseSize: Int { Base.responseSize }
  /// The base's.
  @inlinable public static var slotSize: Int { Base.slotSize }
  /// The base's.
  @inlinable public static var idOffset: Int { Base.idOffset }
  /// The base's.
  @inlinable public static var sectorOffset: Int { Base.sectorOffset }
  /// The base's.
  @inlinable public static var segmentsOffset: Int { Base.segmentsOffset }
}

/// Variant A, Spectra Logic: a classic request whose array of segments is as long as both ends agreed, 11 to 256.
///
/// The slot's real size is ``RingPlan/slotSize``; the number here is that of the longest. The count of segments has eight
/// bits, which the thread overlooked: 0 stands for 256 in reads and writes.
public enum WideFormat<Base: RingFormat>: DerivedFormat {
  /// `wide`.
  public static var name: String { "wide \(Base.name)" }
  /// 256.
  @inlinable public static var directSegments: Int { 256 }
  /// 2072, or 2068 for the 32-bit ABI.
  @inlinable public static var slotSize: Int { Base.segmentsOffset + directSegments * BlockLimits.segmentSize }
  /// There is no need for descriptor pages.
  @inlinable public static var indirectPages: Int { 0 }
}

/// Variant B, Intel (Ronghui): requests name a run of a ring of segments that lies beside the request ring.
///
/// ```
/// run (op 7)   op 0  inner 1  handle 2  id 8 (4)  sector 16 (12)  start u32 24 (20)  count u16 28 (24)
/// ```
/// Direct requests of 11 segments stay legal.
public enum SegmentRingFormat<Base: RingFormat>: DerivedFormat {
  /// `segment-ring`.
  public static var name: String { "segment-ring \(Base.name)" }
  /// Where a direct request's segments would be.
  @inlinable public static var runOffset: Int { Base.segmentsOffset }
  /// There is no need for descriptor pages.
  @inlinable public static var indirectPages: Int { 0 }
}

/// Variant C, Konrad: 64 bytes a slot, four direct segments, one page of descriptors with a sector number each.
///
/// ```
/// direct     as classic, four segments: 56 bytes (52)      protection 56
/// indirect   op 0  inner 1  handle 2  id 8 (4)  gref 16 (12)  seg[4] 20 (16), unused  count u16 52 (48)
/// entry      sector u64 0  gref u32 8  first 12  last 13  pad 14
/// ```
/// The thread's form has no count; it stands in the spare bytes behind the used ones.
public enum Slim64Format<Base: RingFormat>: DerivedFormat {
  /// `slim64`.
  public static var name: String { "slim64 \(Base.name)" }
  /// 64.
  @inlinable public static var slotSize: Int { 64 }
  /// 4.
  @inlinable public static var directSegments: Int { 4 }
  /// 52, or 48 for the 32-bit ABI.
  @inlinable public static var indirectCountOffset: Int { indirectReferencesOffset + 36 }
  /// 2.
  @inlinable public static var indirectHandleOffset: Int { 2 }
  /// Each descriptor has its own.
  @inlinable public static var indirectSectorOffset: Int { RingFormats.absent }
  /// 16, or 12 for the 32-bit ABI.
  @inlinable public static var indirectReferencesOffset: Int { Base.idOffset + 8 }
  /// 1.
  @inlinable public static var indirectPages: Int { 1 }
  /// 16.
  @inlinable public static var descriptorSize: Int { 16 }
  /// 56.
  @inlinable public static var protectionOffset: Int { 56 }
}

/// Variant D, Roger: 32 bytes a slot, packed, the same on every architecture; two direct segments of six bytes, four pages
/// of descriptors.
///
/// ```
/// direct     op 0  nseg 1  handle 2  id 4  sector 12  seg6[2] 20
/// indirect   op 0  inner 1  count u16 2  handle 4  id 6  gref[4] 14
/// discard    op 0  flag 1  id 2  sector 10  count 18
/// entry      sector u64 0  gref u32 8  first 12  last 13  pad 14
/// ```
/// In slots of 64 bytes (alignment 64) the protection information is at 56.
public enum Slim32Format: RingFormat {
  /// `slim32`.
  public static var name: String { "slim32" }
  /// 32.
  @inlinable public static var slotSize: Int { 32 }
  /// 16.
  @inlinable public static var responseSize: Int { 16 }
  /// 4.
  @inlinable public static var idOffset: Int { 4 }
  /// 12.
  @inlinable public static var sectorOffset: Int { 12 }
  /// 20.
  @inlinable public static var segmentsOffset: Int { 20 }
  /// 6.
  @inlinable public static var segmentStride: Int { 6 }
  /// 2.
  @inlinable public static var directSegments: Int { 2 }
  /// None.
  @inlinable public static var discardHandleOffset: Int { RingFormats.absent }
  /// 2.
  @inlinable public static var discardIDOffset: Int { 2 }
  /// 10.
  @inlinable public static var discardSectorOffset: Int { 10 }
  /// 18.
  @inlinable public static var discardCountOffset: Int { 18 }
  /// 4.
  @inlinable public static var indirectHandleOffset: Int { 4 }
  /// 6.
  @inlinable public static var indirectIDOffset: Int { 6 }
  /// Each descriptor has its own.
  @inlinable public static var indirectSectorOffset: Int { RingFormats.absent }
  /// 14.
  @inlinable public static var indirectReferencesOffset: Int { 14 }
  /// 4.
  @inlinable public static var indirectPages: Int { 4 }
  /// 16.
  @inlinable public static var descriptorSize: Int { 16 }
  /// 56, in slots of 64 bytes.
  @inlinable public static var protectionOffset: Int { 56 }
}
