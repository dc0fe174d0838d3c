// SPDX-License-Identifier: MIT

/// Where the fields of a ring slot are: one wire form of the block protocol, specialised at compile time.
///
/// Formats differ in these numbers and in nothing else; ``RequestSlot`` is the one codec. What differs from ring to ring
/// and not from form to form (how many slots, where the indices are) is data: ``RingGeometry``.
///
/// ```
///                        x86_64 / arm            x86_32
/// direct (ops 0-3)       op 0  nseg 1  handle 2  op 0  nseg 1  handle 2
///                        id 8  sector 16  seg 24 id 4  sector 12  seg 20
/// discard (op 5)         flag 1  count 24        flag 1  count 20
/// indirect (op 6)        inner 1  nseg u16 2     inner 1  nseg u16 2
///                        handle 24  gref 28      handle 20  gref 24
/// response               id 0  op 8  status 10   id 0  op 8  status 10
/// size                   112, response 16        108, response 12
/// ```
///
/// An offset of ``RingFormats/absent`` means that the form has no such field.
public protocol RingFormat: Sendable {
  /// What the format is called in messages; the value of the `protocol` key for the classic ones.
  static var name: String { get }
  /// Bytes in a slot, before a negotiated alignment rounds them up.
  static var slotSize: Int { get }
  /// Bytes of a slot that a response covers.
  static var responseSize: Int { get }

  /// Offset of the u64 id of a direct request.
  static var idOffset: Int { get }
  /// Offset of the u64 sector number of a direct request.
  static var sectorOffset: Int { get }
  /// Offset of the first segment of a direct request.
  static var segmentsOffset: Int { get }
  /// Bytes from one segment of a direct request to the next: 8, or 6 where forms are packed.
  static var segmentStride: Int { get }
  /// Segments that a direct request can name.
  static var directSegments: Int { get }

  /// Offset of a discard's u16 handle.
  static var discardHandleOffset: Int { get }
  /// Offset of a discard's u64 id.
  static var discardIDOffset: Int { get }
  /// Offset of a discard's u64 sector number.
  static var discardSectorOffset: Int { get }
  /// Offset of a discard's u64 sector count.
  static var discardCountOffset: Int { get }

  /// Offset of an indirect request's u16 number of segments.
  static var indirectCountOffset: Int { get }
  /// Offset of an indirect request's u16 handle.
  static var indirectHandleOffset: Int { get }
  /// Offset of an indirect request's u64 id.
  static var indirectIDOffset: Int { get }
  /// Offset of an indirect request's u64 sector number; absent where each descriptor has its own.
  static var indirectSectorOffset: Int { get }
  /// Offset of an indirect request's first u32 reference.
  static var indirectReferencesOffset: Int { get }
  /// Descriptor pages that an indirect request can name; 0: there is no such form.
  static var indirectPages: Int { get }
  /// Bytes in a descriptor: 8, or 16 where it carries a sector number.
  static var descriptorSize: Int { get }

  /// Offset of the u32 index and u16 count by which a request names segments of a ring of their own.
  static var runOffset: Int { get }
  /// Offset of the eight bytes of protection information in requests and responses that are long enough.
  static var protectionOffset: Int { get }
}

/// Numbers that are no format's.
public enum RingFormats {
  /// The offset of a field that a form does not have.
  @inlinable public static var absent: Int { -1 }
}

extension RingFormat {
  /// 8: the aligned segment.
  @inlinable public static var segmentStride: Int { BlockLimits.segmentSize }
  /// 11.
  @inlinable public static var directSegments: Int { BlockLimits.directSegments }
  /// 2: where a direct request has it.
  @inlinable public static var discardHandleOffset: Int { 2 }
  /// Where a direct request has it.
  @inlinable public static var discardIDOffset: Int { idOffset }
  /// Where a direct request has it.
  @inlinable public static var discardSectorOffset: Int { sectorOffset }
  /// Behind the sector number.
  @inlinable public static var discardCountOffset: Int { sectorOffset + 8 }
  /// 2.
  @inlinable public static var indirectCountOffset: Int { 2 }
  /// Behind the sector number.
  @inlinable public static var indirectHandleOffset: Int { sectorOffset + 8 }
  /// Where a direct request has it.
  @inlinable public static var indirectIDOffset: Int { idOffset }
  /// Where a direct request has it.
  @inlinable public static var indirectSectorOffset: Int { sectorOffset }
  /// Behind the handle and two bytes of padding.
  @inlinable public static var indirectReferencesOffset: Int { sectorOffset + 12 }
  /// 8.
  @inlinable public static var indirectPages: Int { BlockLimits.indirectPages }
  /// 8: a segment.
  @inlinable public static var descriptorSize: Int { BlockLimits.segmentSize }
  /// None.
  @inlinable public static var runOffset: Int { RingFormats.absent }
  /// None.
  @inlinable public static var protectionOffset: Int { RingFormats.absent }

  /// Whether each descriptor of an indirect request has a sector number of its own.
  @inlinable public static var descriptorsCarrySectors: Bool { descriptorSize > BlockLimits.segmentSize }
  /// Descriptors in a page.
  @inlinable public static var descriptorsPerPage: Int { 4096 / descriptorSize }
  /// Segments that an indirect request can name at most.
  @inlinable public static var indirectSegments: Int { indirectPages * descriptorsPerPage }
  /// Bytes of an indirect request in use.
  @inlinable
  public static var indirectSize: Int {
    max(indirectReferencesOffset + indirectPages * 4, indirectCountOffset + 2)
  }
  /// Descriptor pages that `segments` need.
  @inlinable
  public static func descriptorPages(for segments: Int) -> Int {
    (segments + descriptorsPerPage - 1) / descriptorsPerPage
  }
}

/// `x86_64-abi`: 64-bit integers are aligned to 8 bytes.
public enum ABI64: RingFormat {
  /// `x86_64-abi`.
  public static var name: String { "x86_64-abi" }
  /// 112.
  @inlinable public static var slotSize: Int { 112 }
  /// 16.
  @inlinable public static var responseSize: Int { 16 }
  /// 8.
  @inlinable public static var idOffset: Int { 8 }
  /// 16.
  @inlinable public static var sectorOffset: Int { 16 }
  /// 24.
  @inlinable public static var segmentsOffset: Int { 24 }
}

/// `x86_32-abi`: 64-bit integers are aligned to 4 bytes, so everything after the header moves up.
public enum ABI32: RingFormat {
  /// `x86_32-abi`.
  public static var name: String { "x86_32-abi" }
  /// 108.
  @inlinable public static var slotSize: Int { 108 }
  /// 12.
  @inlinable public static var responseSize: Int { 12 }
  /// 4.
  @inlinable public static var idOffset: Int { 4 }
  /// 12.
  @inlinable public static var sectorOffset: Int { 12 }
  /// 20.
  @inlinable public static var segmentsOffset: Int { 20 }
}

/// `arm-abi`: the 64-bit layout, on 32-bit Arm too.
public enum ABIArm: RingFormat {
  /// `arm-abi`.
  public static var name: String { "arm-abi" }
  /// 112.
  @inlinable public static var slotSize: Int { ABI64.slotSize }
  /// 16.
  @inlinable public static var responseSize: Int { ABI64.responseSize }
  /// 8.
  @inlinable public static var idOffset: Int { ABI64.idOffset }
  /// 16.
  @inlinable public static var sectorOffset: Int { ABI64.sectorOffset }
  /// 24.
  @inlinable public static var segmentsOffset: Int { ABI64.segmentsOffset }
}

/// The three forms of the classic protocol, as the `protocol` key names them.
public enum BlockProtocol: String, Sendable, CaseIterable {
  /// `x86_64-abi`
  case x86_64 = "x86_64-abi"
  /// `x86_32-abi`
  case x86_32 = "x86_32-abi"
  /// `arm-abi`
  case arm = "arm-abi"

  /// Bytes in a slot.
  public var slotSize: Int { self == .x86_32 ? ABI32.slotSize : ABI64.slotSize }
}
