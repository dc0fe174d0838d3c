// SPDX-License-Identifier: MIT

/// The eight bytes that protect one interval of data (SBC-3, protection information), big-endian on every wire and disk.
///
/// ```
/// byte 0  guard tag        a check sum of the interval's data
///      2  application tag  its owner's; 0xFFFF: do not check
///      4  reference tag    low 32 bits of where the data belongs (types 1, 2)
/// ```
public struct ProtectionTuple: Equatable, Sendable, BitwiseCopyable {
  /// The check sum of the data.
  public var guardTag: UInt16
  /// The owner's word.
  public var applicationTag: UInt16
  /// Where the data belongs.
  public var referenceTag: UInt32

  /// The application tag that switches checks off.
  public static let applicationEscape: UInt16 = 0xFFFF
  /// The reference tag that, together with the application tag's, switches checks of type 3 off.
  public static let referenceEscape: UInt32 = 0xFFFF_FFFF
  /// Bytes in a tuple.
  public static let byteCount = 8

  /// Makes a tuple.
  @inlinable
  public init(guardTag: UInt16, applicationTag: UInt16, referenceTag: UInt32) {
    self.guardTag = guardTag
    self.applicationTag = applicationTag
    self.referenceTag = referenceTag
  }

  /// What is stored where nothing is known: all ones, which no type checks.
  @inlinable
  public static var unprotected: ProtectionTuple {
    ProtectionTuple(guardTag: 0xFFFF, applicationTag: applicationEscape, referenceTag: referenceEscape)
  }

  /// Decodes eight bytes of memory, loaded as they stand.
  @inlinable
  public init(memory: UInt64) {
    let word = UInt64(bigEndian: memory)
    guardTag = UInt16(truncatingIfNeeded: word >> 48)
    applicationTag = UInt16(truncatingIfNeeded: word >> 32)
    referenceTag = UInt32(truncatingIfNeeded: word)
  }

  /// The eight bytes as they stand in memory.
  @inlinable
  public var memory: UInt64 {
    (UInt64(guardTag) << 48 | UInt64(applicationTag) << 32 | UInt64(referenceTag)).bigEndian
  }
}

/// What of a tuple is checked, and how its reference tag is made.
public enum ProtectionType: UInt8, Sendable, CaseIterable {
  /// Guard, and the reference tag against the interval's number.
  case type1 = 1
  /// Guard, and the reference tag against one that the request starts with.
  case type2 = 2
  /// The guard alone.
  case type3 = 3
}

/// How the guard tag is made.
public enum GuardKind: UInt8, Sendable, CaseIterable {
  /// CRC-16/T10-DIF: what media and wires carry.
  case crc = 0
  /// The Internet checksum: cheaper; between an application and its adapter only (DIX).
  case internetChecksum = 1
}

/// The form of a disk's protection information.
public struct ProtectionForm: Equatable, Sendable {
  /// What is checked.
  public var type: ProtectionType
  /// How the guard is made.
  public var guardKind: GuardKind
  /// log2 of the bytes that one tuple protects: 9 or 12.
  public var intervalShift: Int
  /// The application tag of tuples that are made here; Linux makes 0.
  public var applicationTag: UInt16

  /// Type 1, CRC, a tuple for each 512-byte sector.
  public init(
    type: ProtectionType = .type1, guardKind: GuardKind = .crc, intervalByteCount: Int = 512, applicationTag: UInt16 = 0
  ) {
    precondition(intervalByteCount == 512 || intervalByteCount == 4096, "an interval is a logical sector")
    self.type = type
    self.guardKind = guardKind
    intervalShift = intervalByteCount.trailingZeroBitCount
    self.applicationTag = applicationTag
  }

  /// Bytes that one tuple protects.
  @inlinable public var intervalByteCount: Int { 1 << intervalShift }
  /// log2 of the sectors that one tuple protects.
  @inlinable public var sectorsShift: Int { intervalShift &- 9 }

  /// The reference tag of an interval, `place` intervals into a request that starts at interval `first`.
  ///
  /// - Parameter start: what a request of type 2 starts with; the others do without.
  @inlinable
  public func referenceTag(place: Int, first: UInt64, start: UInt32) -> UInt32 {
    switch type {
    case .type1: UInt32(truncatingIfNeeded: first &+ UInt64(place))
    case .type2: start &+ UInt32(truncatingIfNeeded: place)
    case .type3: 0
    }
  }

  /// Whether a tuple says itself that it is not to be checked.
  @inlinable
  public func isEscaped(_ tuple: ProtectionTuple) -> Bool {
    tuple.applicationTag == ProtectionTuple.applicationEscape
      && (type != .type3 || tuple.referenceTag == ProtectionTuple.referenceEscape)
  }

  /// What is wrong with a tuple, given what the data and the place say.
  @inlinable
  public func judge(_ tuple: ProtectionTuple, guardTag: UInt16, referenceTag: UInt32) -> TupleVerdict {
    if isEscaped(tuple) { return .sound }
    if tuple.guardTag != guardTag { return .wrongGuard(stored: tuple.guardTag, computed: guardTag) }
    if type != .type3, tuple.referenceTag != referenceTag {
      return .wrongReference(stored: tuple.referenceTag, expected: referenceTag)
    }
    return .sound
  }
}

/// What comes of checking one tuple.
public enum TupleVerdict: Equatable, Sendable, BitwiseCopyable {
  /// All that the type checks is right, or says that it is not to be checked.
  case sound
  /// The data is not what was protected.
  case wrongGuard(stored: UInt16, computed: UInt16)
  /// The data belongs elsewhere.
  case wrongReference(stored: UInt32, expected: UInt32)
}

/// Data that its protection information does not vouch for.
public struct ProtectionViolation: Error, Equatable, Sendable, BitwiseCopyable {
  /// The first 512-byte sector of the interval.
  public var sector: UInt64
  /// The sectors that one tuple stood for, where they are more than the interval: those of a whole request.
  public var sectorCount: UInt64
  /// What is wrong.
  public var verdict: TupleVerdict

  /// Names a sector and what is wrong with it.
  @inlinable
  public init(sector: UInt64, verdict: TupleVerdict, sectorCount: UInt64 = 1) {
    self.sector = sector
    self.sectorCount = sectorCount
    self.verdict = verdict
  }

  /// The positive `errno` that stands for it: `EILSEQ`, as Linux's `BLK_STS_PROTECTION`.
  public static let errorCode: CInt = 84

  /// One sentence for a person.
  public var sentence: String {
    guard sectorCount <= 1 else { return sentenceForMany }
    return switch verdict {
    case .sound: "sector \(sector) is as it was protected"
    case .wrongGuard(let stored, let computed):
      "sector \(sector) is not as it was written: its guard tag is \(ProtectionViolation.hex(stored)), "
        + "its data gives \(ProtectionViolation.hex(computed))"
    case .wrongReference(let stored, let expected):
      "sector \(sector) holds what belongs elsewhere: its reference tag is \(stored), not \(expected)"
    }
  }

  private var sentenceForMany: String {
    let which = "of the sectors \(sector) to \(sector + sectorCount - 1)"
    return switch verdict {
    case .sound: "each \(which) is as it was protected"
    case .wrongGuard(let stored, let computed):
      "one \(which) is not as it was sent: their guard tag is \(ProtectionViolation.hex(stored)), "
        + "their data gives \(ProtectionViolation.hex(computed))"
    case .wrongReference(let stored, let expected):
      "one \(which) belongs elsewhere: their reference tag is \(stored), not \(expected)"
    }
  }

  private static func hex(_ tag: UInt16) -> String {
    let digits = String(tag, radix: 16)
    return "0x" + String(repeating: "0", count: 4 - digits.count) + digits
  }
}
