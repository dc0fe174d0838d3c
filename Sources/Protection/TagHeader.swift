// SPDX-License-Identifier: MIT

/// The first bytes of a tag file, judged without the file.
///
/// ```
/// byte 0     "pvdisk protection\n", then from byte 32: form number, type, guard kind, interval shift (a byte each)
///     40     u64 sectors of the disk
/// ```
enum TagHeader {
  static let byteCount = 48
  static let mark: [UInt8] = Array("pvdisk protection\n".utf8)
  private static let formPlace = 32
  private static let sectorsPlace = 40

  /// What comes of a look at a header.
  enum Verdict: Equatable {
    case fits
    /// The disk has grown: the header has to say so.
    case grows
    /// Not written by us.
    case foreign
    /// For tuples that are made otherwise.
    case otherForm
    /// For a disk of so many sectors, which are too many.
    case larger(UInt64)
  }

  /// The header of a disk's file.
  static func bytes(form: ProtectionForm, sectorCount: UInt64) -> [UInt8] {
    var header = [UInt8](repeating: 0, count: byteCount)
    for (place, byte) in mark.enumerated() { header[place] = byte }
    for place in 0..<4 { header[formPlace + place] = byte(place, of: form) }
    for place in 0..<8 { header[sectorsPlace + place] = UInt8(truncatingIfNeeded: sectorCount >> UInt64(place * 8)) }
    return header
  }

  /// Compares what a file begins with with what it should begin with.
  /// - Parameter header: the file's first bytes, as many as there are up to ``byteCount``.
  static func judge(_ header: ArraySlice<UInt8>, form: ProtectionForm, sectorCount: UInt64) -> Verdict {
    guard header.count == byteCount, header.starts(with: mark) else { return .foreign }
    let start = header.startIndex
    for place in 0..<4 where header[start + formPlace + place] != byte(place, of: form) { return .otherForm }
    var sectors: UInt64 = 0
    for place in 0..<8 { sectors |= UInt64(header[start + sectorsPlace + place]) << UInt64(place * 8) }
    return sectors > sectorCount ? .larger(sectors) : sectors < sectorCount ? .grows : .fits
  }

  private static func byte(_ place: Int, of form: ProtectionForm) -> UInt8 {
    switch place {
    case 0: 1
    case 1: form.type.rawValue
    case 2: form.guardKind.rawValue
    default: UInt8(form.intervalShift)
    }
  }
}
