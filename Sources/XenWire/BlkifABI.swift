// SPDX-License-Identifier: MIT

/// Where the fields of a classic ring slot are (blkif.h).
///
/// ABIs differ in these numbers and in nothing else.
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
public protocol BlkifABI: Sendable {
  /// The value of the `protocol` key.
  static var protocolName: String { get }
  /// Bytes in a slot.
  static var slotSize: Int { get }
  /// Bytes of a slot that a response covers.
  static var responseSize: Int { get }
  /// Offset of the u64 id in every request form.
  static var idOffset: Int { get }
  /// Offset of the u64 sector number in every request form.
  static var sectorOffset: Int { get }
  /// Offset of the first segment of a direct request.
  static var segmentsOffset: Int { get }
  /// Offset of a discard's u64 sector count.
  static var discardCountOffset: Int { get }
  /// Offset of an indirect request's u16 handle.
  static var indirectHandleOffset: Int { get }
  /// Offset of an indirect request's first u32 reference.
  static var indirectReferencesOffset: Int { get }
}

/// `x86_64-abi`: 64-bit integers are aligned to 8 bytes.
public enum ABI64: BlkifABI {
  /// `x86_64-abi`.
  public static var protocolName: String { "x86_64-abi" }
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
  /// 24.
  @inlinable public static var discardCountOffset: Int { 24 }
  /// 24.
  @inlinable public static var indirectHandleOffset: Int { 24 }
  /// 28.
  @inlinable public static var indirectReferencesOffset: Int { 28 }
}

/// `x86_32-abi`: 64-bit integers are aligned to 4 bytes, so everything after the header moves up.
public enum ABI32: BlkifABI {
  /// `x86_32-abi`.
  public static var protocolName: String { "x86_32-abi" }
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
  /// 20.
  @inlinable public static var discardCountOffset: Int { 20 }
  /// 20.
  @inlinable public static var indirectHandleOffset: Int { 20 }
  /// 24.
  @inlinable public static var indirectReferencesOffset: Int { 24 }
}

/// `arm-abi`: the 64-bit layout, on 32-bit Arm too.
public enum ABIArm: BlkifABI {
  /// `arm-abi`.
  public static var protocolName: String { "arm-abi" }
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
  /// 24.
  @inlinable public static var discardCountOffset: Int { ABI64.discardCountOffset }
  /// 24.
  @inlinable public static var indirectHandleOffset: Int { ABI64.indirectHandleOffset }
  /// 28.
  @inlinable public static var indirectReferencesOffset: Int { ABI64.indirectReferencesOffset }
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
