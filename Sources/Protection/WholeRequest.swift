// SPDX-License-Identifier: MIT

public import GuestMemory

extension ProtectionScanner {
  /// One tuple for all of some data: a CRC over every byte, and where it belongs (the proposal's eight bytes for each I/O).
  public func tuple(over data: MemoryExtentList, sector: UInt64) -> ProtectionTuple {
    var crc: UInt16 = 0
    for index in 0..<data.count {
      let extent = data[index]
      // SAFETY: the extent's memory is the submitter's, who keeps it in place.
      let bytes = unsafe UnsafeRawBufferPointer(
        start: UnsafeRawPointer(bitPattern: extent.address), count: extent.byteCount)
      crc = unsafe tables.crc(of: bytes, after: crc)
    }
    return ProtectionTuple(
      guardTag: crc, applicationTag: form.applicationTag, referenceTag: UInt32(truncatingIfNeeded: sector))
  }
}
