// SPDX-License-Identifier: MIT

public import CLinux

/// One slot's worth of private memory: where a request is built before it is copied into the ring, and where a request
/// out of the ring is judged after it was copied once.
///
/// The bytes belong to one queue and are never shared; nothing that a peer writes later can change them.
@safe public struct RequestSlot<ABI: BlkifABI>: ~Copyable {
  // SAFETY: owned; `ABI.slotSize` bytes live from init to deinit, all offsets are constants inside them but for segment
  // indices, which are checked.
  @usableFromInline let bytes: UnsafeMutableRawPointer

  /// Makes a zeroed slot.
  public init() {
    unsafe bytes = UnsafeMutableRawPointer.allocate(byteCount: ABI.slotSize, alignment: 16)
    unsafe bytes.initializeMemory(as: UInt8.self, repeating: 0, count: ABI.slotSize)
  }

  @inlinable
  deinit { unsafe bytes.deallocate() }

  @inlinable @inline(__always)
  func load<T: BitwiseCopyable>(_ type: T.Type, _ offset: Int) -> T {
    unsafe bytes.loadUnaligned(fromByteOffset: offset, as: T.self)
  }

  @inlinable @inline(__always)
  func store<T: BitwiseCopyable>(_ value: T, _ offset: Int) {
    unsafe bytes.storeBytes(of: value, toByteOffset: offset, as: T.self)
  }

  /// Replaces the slot by a copy of shared memory, each byte fetched once.
  @inlinable @inline(__always)
  public mutating func fill(fromShared source: UnsafeRawPointer) {
    unsafe pv_copy_once(bytes, source, ABI.slotSize)
  }

  /// Copies the slot's first `count` bytes into shared memory.
  @inlinable @inline(__always)
  public borrowing func spill(toShared destination: UnsafeMutableRawPointer, count: Int) {
    precondition(count <= ABI.slotSize, "longer than a slot")
    unsafe destination.copyMemory(from: bytes, byteCount: count)
  }

  /// The opcode.
  @inlinable public var operation: BlockOperation { BlockOperation(rawValue: load(UInt8.self, 0)) }
  /// The id, which the response echoes.
  @inlinable public var id: UInt64 { load(UInt64.self, ABI.idOffset) }
  /// The first sector, in 512-byte units.
  @inlinable public var sector: UInt64 { load(UInt64.self, ABI.sectorOffset) }

  /// Direct form: the number of segments.
  @inlinable public var directSegmentCount: Int { Int(load(UInt8.self, 1)) }
  /// Direct and discard forms: the device handle.
  @inlinable public var directHandle: UInt16 { load(UInt16.self, 2) }
  /// Direct form: one segment.
  @inlinable
  public func directSegment(_ index: Int) -> Segment {
    precondition(index >= 0 && index < BlockLimits.directSegments, "no such segment")
    return Segment(bits: load(UInt64.self, ABI.segmentsOffset + index * BlockLimits.segmentSize))
  }

  /// Discard form: the flag byte.
  @inlinable public var discardFlag: UInt8 { load(UInt8.self, 1) }
  /// Discard form: the number of sectors.
  @inlinable public var discardCount: UInt64 { load(UInt64.self, ABI.discardCountOffset) }

  /// Indirect form: the operation meant.
  @inlinable public var innerOperation: BlockOperation { BlockOperation(rawValue: load(UInt8.self, 1)) }
  /// Indirect form: the number of segments in the descriptor pages.
  @inlinable public var indirectSegmentCount: Int { Int(load(UInt16.self, 2)) }
  /// Indirect form: the device handle.
  @inlinable public var indirectHandle: UInt16 { load(UInt16.self, ABI.indirectHandleOffset) }
  /// Indirect form: the reference of a descriptor page.
  @inlinable
  public func indirectReference(_ index: Int) -> GrantReference {
    precondition(index >= 0 && index < BlockLimits.indirectPages, "no such descriptor page")
    return GrantReference(rawValue: load(UInt32.self, ABI.indirectReferencesOffset + index * 4))
  }
}

extension RequestSlot {
  /// Writes the header of a direct request; segments follow by ``setDirectSegment(_:at:)``.
  /// - Returns: the bytes in use.
  @inlinable @discardableResult
  public mutating func encodeDirect(
    _ operation: BlockOperation, segmentCount: Int, handle: UInt16, id: UInt64, sector: UInt64
  ) -> Int {
    store(UInt32(operation.rawValue) | UInt32(segmentCount) << 8 | UInt32(handle) << 16, 0)
    if ABI.idOffset > 4 { store(UInt32(0), 4) }
    store(id, ABI.idOffset)
    store(sector, ABI.sectorOffset)
    return ABI.segmentsOffset + segmentCount * BlockLimits.segmentSize
  }

  /// Writes one segment of a direct request.
  @inlinable
  public mutating func setDirectSegment(_ segment: Segment, at index: Int) {
    precondition(index >= 0 && index < BlockLimits.directSegments, "no such segment")
    store(segment.bits, ABI.segmentsOffset + index * BlockLimits.segmentSize)
  }

  /// Writes a discard request.
  /// - Returns: the bytes in use.
  @inlinable @discardableResult
  public mutating func encodeDiscard(
    isSecure: Bool, handle: UInt16, id: UInt64, sector: UInt64, count: UInt64
  ) -> Int {
    let flag = isSecure ? BlockLimits.discardSecureFlag : 0
    store(UInt32(BlockOperation.discard.rawValue) | UInt32(flag) << 8 | UInt32(handle) << 16, 0)
    if ABI.idOffset > 4 { store(UInt32(0), 4) }
    store(id, ABI.idOffset)
    store(sector, ABI.sectorOffset)
    store(count, ABI.discardCountOffset)
    return ABI.discardCountOffset + 8
  }

  /// Writes the header of an indirect request; references follow by ``setIndirectReference(_:at:)``.
  /// - Returns: the bytes in use, all eight references included.
  @inlinable @discardableResult
  public mutating func encodeIndirect(
    _ inner: BlockOperation, segmentCount: Int, handle: UInt16, id: UInt64, sector: UInt64
  ) -> Int {
    let word = UInt32(BlockOperation.indirect.rawValue) | UInt32(inner.rawValue) << 8 | UInt32(segmentCount) << 16
    store(word, 0)
    if ABI.idOffset > 4 { store(UInt32(0), 4) }
    store(id, ABI.idOffset)
    store(sector, ABI.sectorOffset)
    store(UInt32(handle), ABI.indirectHandleOffset)
    for index in 0..<BlockLimits.indirectPages { store(UInt32(0), ABI.indirectReferencesOffset + index * 4) }
    return ABI.indirectReferencesOffset + BlockLimits.indirectPages * 4
  }

  /// Writes the reference of a descriptor page.
  @inlinable
  public mutating func setIndirectReference(_ reference: GrantReference, at index: Int) {
    precondition(index >= 0 && index < BlockLimits.indirectPages, "no such descriptor page")
    store(reference.rawValue, ABI.indirectReferencesOffset + index * 4)
  }
}
