// SPDX-License-Identifier: MIT

public import GuestMemory

extension ProtectionScanner {
  /// One tuple for all of some data: a guard over every byte, and where it belongs (the proposal's eight bytes for each I/O).
  public func tuple(over data: MemoryExtentList, sector: UInt64) -> ProtectionTuple {
    var crc: UInt16 = 0
    var sum: UInt64 = 0
    for index in 0..<data.count {
      let extent = data[index]
      // SAFETY: the extent's memory is the submitter's, who keeps it in place.
      let bytes = unsafe UnsafeRawBufferPointer(
        start: UnsafeRawPointer(bitPattern: extent.address), count: extent.byteCount)
      if form.guardKind == .crc {
        crc = unsafe tables.crc(of: bytes, after: crc)
      } else {
        sum = unsafe tables.sum(of: bytes, after: sum)
      }
    }
    return ProtectionTuple(
      guardTag: form.guardKind == .crc ? crc : tables.checksum(ofSum: sum), applicationTag: form.applicationTag,
      referenceTag: form.referenceTag(place: 0, first: sector, start: UInt32(truncatingIfNeeded: sector)))
  }

  /// Holds all of some data against its one tuple.
  /// - Returns: a violation that names all of its sectors, or nil.
  public func verify(
    _ data: MemoryExtentList, sector: UInt64, againstWhole told: ProtectionTuple
  ) -> ProtectionViolation? {
    let computed = tuple(over: data, sector: sector)
    let verdict = form.judge(told, guardTag: computed.guardTag, referenceTag: computed.referenceTag)
    guard verdict != .sound else { return nil }
    return ProtectionViolation(sector: sector, verdict: verdict, sectorCount: UInt64(data.byteCount) >> 9)
  }
}
