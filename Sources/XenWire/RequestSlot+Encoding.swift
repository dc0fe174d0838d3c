// SPDX-License-Identifier: MIT

extension RequestSlot {
  /// Writes the header of a direct request; segments follow by ``setDirectSegment(_:at:)``.
  /// - Returns: the bytes in use.
  @inlinable @discardableResult
  public mutating func encodeDirect(
    _ operation: BlockOperation, segmentCount: Int, handle: UInt16, id: UInt64, sector: UInt64
  ) -> Int {
    let count = UInt32(UInt8(truncatingIfNeeded: segmentCount))
    store(UInt32(operation.rawValue) | count << 8 | UInt32(handle) << 16, 0)
    if Format.idOffset > 4 { store(UInt32(0), 4) }
    store(id, Format.idOffset)
    store(sector, Format.sectorOffset)
    return Format.segmentsOffset + segmentCount * Format.segmentStride
  }

  /// Writes one segment of a direct request.
  @inlinable
  public mutating func setDirectSegment(_ segment: Segment, at index: Int) {
    precondition(index >= 0 && index < Format.directSegments, "no such segment")
    let offset = Format.segmentsOffset + index * Format.segmentStride
    if Format.segmentStride == 8 { return store(segment.bits, offset) }
    store(segment.reference.rawValue, offset)
    store(UInt16(truncatingIfNeeded: segment.bits >> 32), offset + 4)
  }

  /// Writes a discard request.
  /// - Returns: the bytes in use.
  @inlinable @discardableResult
  public mutating func encodeDiscard(
    isSecure: Bool, handle: UInt16, id: UInt64, sector: UInt64, count: UInt64
  ) -> Int {
    store(BlockOperation.discard.rawValue, 0)
    store(isSecure ? BlockLimits.discardSecureFlag : 0, 1)
    if Format.discardHandleOffset >= 0 { store(handle, Format.discardHandleOffset) }
    if Format.discardIDOffset > 4 { store(UInt32(0), 4) }
    store(id, Format.discardIDOffset)
    store(sector, Format.discardSectorOffset)
    store(count, Format.discardCountOffset)
    return Format.discardCountOffset + 8
  }

  /// Writes the header of an indirect request; references follow by ``setIndirectReference(_:at:)``.
  ///
  /// In a format whose descriptors carry sector numbers `sector` is not written.
  /// - Returns: the bytes in use, all references included.
  @inlinable @discardableResult
  public mutating func encodeIndirect(
    _ inner: BlockOperation, segmentCount: Int, handle: UInt16, id: UInt64, sector: UInt64
  ) -> Int {
    precondition(Format.indirectPages > 0, "a format without descriptor pages")
    // SAFETY: `indirectSize` is a constant inside the slot.
    unsafe bytes.initializeMemory(as: UInt8.self, repeating: 0, count: Format.indirectSize)
    store(BlockOperation.indirect.rawValue, 0)
    store(inner.rawValue, 1)
    store(UInt16(truncatingIfNeeded: segmentCount), Format.indirectCountOffset)
    store(handle, Format.indirectHandleOffset)
    store(id, Format.indirectIDOffset)
    if Format.indirectSectorOffset >= 0 { store(sector, Format.indirectSectorOffset) }
    return Format.indirectSize
  }

  /// Writes protection information behind the bytes in use, with nothing but zeros between.
  /// - Returns: the bytes in use.
  @inlinable
  public mutating func encodeProtection(_ tuple: UInt64, behind count: Int) -> Int {
    precondition(Format.protectionOffset >= count, "a format without room for protection information")
    // SAFETY: the offset lies in the slot, which is at least eight bytes longer.
    unsafe (bytes + count).initializeMemory(as: UInt8.self, repeating: 0, count: Format.protectionOffset - count)
    store(tuple, Format.protectionOffset)
    return Format.protectionOffset + 8
  }

  /// Writes the reference of a descriptor page.
  @inlinable
  public mutating func setIndirectReference(_ reference: GrantReference, at index: Int) {
    precondition(index >= 0 && index < Format.indirectPages, "no such descriptor page")
    store(reference.rawValue, Format.indirectReferencesOffset + index * 4)
  }

  /// Writes a request for a run of the segment ring.
  /// - Returns: the bytes in use.
  @inlinable @discardableResult
  public mutating func encodeRun(
    _ inner: BlockOperation, start: UInt32, count: Int, handle: UInt16, id: UInt64, sector: UInt64
  ) -> Int {
    precondition(Format.runOffset >= 0, "a format without runs")
    store(UInt32(BlockOperation.segmentRun.rawValue) | UInt32(inner.rawValue) << 8 | UInt32(handle) << 16, 0)
    if Format.idOffset > 4 { store(UInt32(0), 4) }
    store(id, Format.idOffset)
    store(sector, Format.sectorOffset)
    store(start, Format.runOffset)
    store(UInt32(UInt16(truncatingIfNeeded: count)), Format.runOffset + 4)
    return Format.runOffset + 8
  }
}
