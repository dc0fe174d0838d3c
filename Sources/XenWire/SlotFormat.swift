// SPDX-License-Identifier: MIT

/// Which ``RingFormat`` a queue speaks: what is switched on once a batch, to run code that is specialised for one format.
public enum SlotFormat: UInt8, Sendable, CaseIterable {
  /// ``ABI64``; the Arm ABI has the same numbers.
  case classic64
  /// ``ABI32``
  case classic32
  /// ``WideFormat`` of ``ABI64``
  case wide64
  /// ``WideFormat`` of ``ABI32``
  case wide32
  /// ``SegmentRingFormat`` of ``ABI64``
  case segmentRing64
  /// ``SegmentRingFormat`` of ``ABI32``
  case segmentRing32
  /// ``Slim64Format`` of ``ABI64``
  case slim64
  /// ``Slim64Format`` of ``ABI32``
  case slim64On32
  /// ``Slim32Format``
  case slim32

  /// The format's numbers, for the control plane.
  public var numbers: FormatNumbers {
    switch self {
    case .classic64: FormatNumbers(ABI64.self)
    case .classic32: FormatNumbers(ABI32.self)
    case .wide64: FormatNumbers(WideFormat<ABI64>.self)
    case .wide32: FormatNumbers(WideFormat<ABI32>.self)
    case .segmentRing64: FormatNumbers(SegmentRingFormat<ABI64>.self)
    case .segmentRing32: FormatNumbers(SegmentRingFormat<ABI32>.self)
    case .slim64: FormatNumbers(Slim64Format<ABI64>.self)
    case .slim64On32: FormatNumbers(Slim64Format<ABI32>.self)
    case .slim32: FormatNumbers(Slim32Format.self)
    }
  }
}

/// The numbers of a ``RingFormat`` as values.
public struct FormatNumbers: Equatable, Sendable {
  /// The format's name.
  public let name: String
  /// Bytes in a slot.
  public let slotSize: Int
  /// Bytes in a response.
  public let responseSize: Int
  /// Offset of the first segment.
  public let segmentsOffset: Int
  /// Bytes from segment to segment.
  public let segmentStride: Int
  /// Segments of a direct request.
  public let directSegments: Int
  /// Segments of an indirect request.
  public let indirectSegments: Int
  /// Segments that one descriptor page holds.
  public let descriptorsPerPage: Int
  /// Whether each descriptor has a sector number of its own.
  public let descriptorsCarrySectors: Bool
  /// Offset of the protection information.
  public let protectionOffset: Int

  /// Reads a format's numbers.
  public init<Format: RingFormat>(_ format: Format.Type) {
    name = Format.name
    slotSize = Format.slotSize
    responseSize = Format.responseSize
    segmentsOffset = Format.segmentsOffset
    segmentStride = Format.segmentStride
    directSegments = Format.directSegments
    indirectSegments = Format.indirectSegments
    descriptorsPerPage = Format.descriptorsPerPage
    descriptorsCarrySectors = Format.descriptorsCarrySectors
    protectionOffset = Format.protectionOffset
  }
}
