// SPDX-License-Identifier: MIT

public import CLinux

/// The private memory of one slot, long enough for every format.
///
/// A queue owns one; which format its bytes are in is said by whoever makes a ``RequestSlot`` over it.
@safe public struct SlotMemory: ~Copyable {
  // SAFETY: owned; `byteCount` bytes live from init to deinit.
  @usableFromInline let bytes: UnsafeMutableRawPointer

  /// The longest slot: 256 segments behind the header, rounded up to 128.
  @inlinable public static var byteCount: Int { 2176 }

  /// Makes zeroed memory.
  public init() {
    unsafe bytes = UnsafeMutableRawPointer.allocate(byteCount: Self.byteCount, alignment: 128)
    unsafe bytes.initializeMemory(as: UInt8.self, repeating: 0, count: Self.byteCount)
  }

  @inlinable
  deinit { unsafe bytes.deallocate() }
}

/// One slot's worth of private memory: where a request is built before it is copied into the ring, and where a request
/// out of the ring is judged after it was copied once.
///
/// The one codec of all formats: it knows the forms (direct, discard, indirect, run), a ``RingFormat`` knows where their
/// fields are. The bytes belong to one queue and are never shared; nothing that a peer writes later can change them.
@safe public struct RequestSlot<Format: RingFormat>: ~Copyable {
  // SAFETY: owned, or a queue's `SlotMemory` that outlives this value; at least `Format.slotSize` bytes; all offsets are
  // constants inside them but for segment indices, which are checked.
  @usableFromInline let bytes: UnsafeMutableRawPointer
  @usableFromInline let isOwner: Bool

  /// Makes a zeroed slot.
  public init() {
    unsafe bytes = UnsafeMutableRawPointer.allocate(byteCount: Self.capacity, alignment: 128)
    unsafe bytes.initializeMemory(as: UInt8.self, repeating: 0, count: Self.capacity)
    isOwner = true
  }

  /// Reads memory as a slot of this format; the memory must outlive the value.
  @unsafe @inlinable @inline(__always)
  public init(unsafeIn memory: borrowing SlotMemory) {
    unsafe bytes = memory.bytes
    isOwner = false
  }

  @inlinable
  deinit { if isOwner { unsafe bytes.deallocate() } }

  /// Bytes that a slot of this format may have once it is aligned.
  @inlinable static var capacity: Int { (Format.slotSize + 127) & ~127 }

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
    unsafe pv_copy_once(bytes, source, Format.slotSize)
  }

  /// Replaces the slot by a copy of one of `stride` bytes whose length was negotiated: no more of it than is in use, each
  /// byte fetched once.
  @inlinable
  public mutating func fill(fromShared source: UnsafeRawPointer, stride: Int) {
    precondition(stride <= Self.capacity, "longer than a slot")
    let first = min(stride, Format.segmentsOffset + BlockLimits.directSegments * BlockLimits.segmentSize)
    unsafe pv_copy_once(bytes, source, first)
    guard Format.directSegments > BlockLimits.directSegments, operation != .discard else { return }
    let end = min(stride, Format.segmentsOffset + directSegmentCount * Format.segmentStride)
    if end > first { unsafe pv_copy_once(bytes + first, source + first, end - first) }
  }

  /// Copies the slot's first `count` bytes into shared memory.
  @inlinable @inline(__always)
  public borrowing func spill(toShared destination: UnsafeMutableRawPointer, count: Int) {
    precondition(count <= Self.capacity, "longer than a slot")
    unsafe destination.copyMemory(from: bytes, byteCount: count)
  }

  /// The opcode.
  @inlinable public var operation: BlockOperation { BlockOperation(rawValue: load(UInt8.self, 0)) }

  /// The id, which the response echoes; where it is may depend on the opcode.
  @inlinable
  public var id: UInt64 {
    if operation == .indirect { return load(UInt64.self, Format.indirectIDOffset) }
    return load(UInt64.self, operation == .discard ? Format.discardIDOffset : Format.idOffset)
  }

  /// The first sector, in 512-byte units; 0 in a form that has none.
  @inlinable
  public var sector: UInt64 {
    if Format.indirectSectorOffset != Format.sectorOffset, operation == .indirect {
      return Format.indirectSectorOffset < 0 ? 0 : load(UInt64.self, Format.indirectSectorOffset)
    }
    return load(UInt64.self, operation == .discard ? Format.discardSectorOffset : Format.sectorOffset)
  }

  /// Direct form: the number of segments.
  ///
  /// The field has eight bits: in a format of 256 segments, 0 in a read or a write, which cannot be empty, stands for 256.
  @inlinable
  public var directSegmentCount: Int {
    let count = Int(load(UInt8.self, 1))
    if Format.directSegments > 255, count == 0, operation == .read || operation == .write { return 256 }
    return count
  }
  /// Direct form, and discard where it has one: the device handle.
  @inlinable public var directHandle: UInt16 { load(UInt16.self, 2) }
  /// Direct form: one segment.
  @inlinable
  public func directSegment(_ index: Int) -> Segment {
    precondition(index >= 0 && index < Format.directSegments, "no such segment")
    let offset = Format.segmentsOffset + index * Format.segmentStride
    if Format.segmentStride == 8 { return Segment(bits: load(UInt64.self, offset)) }
    return Segment(bits: UInt64(load(UInt32.self, offset)) | UInt64(load(UInt16.self, offset + 4)) << 32)
  }

  /// Discard form: the flag byte.
  @inlinable public var discardFlag: UInt8 { load(UInt8.self, 1) }
  /// Discard form: the number of sectors.
  @inlinable public var discardCount: UInt64 { load(UInt64.self, Format.discardCountOffset) }

  /// Indirect and run forms: the operation meant.
  @inlinable public var innerOperation: BlockOperation { BlockOperation(rawValue: load(UInt8.self, 1)) }
  /// Indirect form: the number of segments in the descriptor pages.
  @inlinable public var indirectSegmentCount: Int { Int(load(UInt16.self, Format.indirectCountOffset)) }
  /// Indirect form: the device handle.
  @inlinable public var indirectHandle: UInt16 { load(UInt16.self, Format.indirectHandleOffset) }
  /// Indirect form: the reference of a descriptor page.
  @inlinable
  public func indirectReference(_ index: Int) -> GrantReference {
    precondition(index >= 0 && index < Format.indirectPages, "no such descriptor page")
    return GrantReference(rawValue: load(UInt32.self, Format.indirectReferencesOffset + index * 4))
  }

  /// Run form: the first entry of the segment ring.
  @inlinable
  public var runStart: UInt32 {
    precondition(Format.runOffset >= 0, "a format without runs")
    return load(UInt32.self, Format.runOffset)
  }
  /// Run form: the number of entries.
  @inlinable
  public var runCount: Int {
    precondition(Format.runOffset >= 0, "a format without runs")
    return Int(load(UInt16.self, Format.runOffset + 4))
  }

  /// The eight bytes of protection information of a slot that is long enough for them.
  @inlinable
  public var protection: UInt64 {
    get {
      precondition(Format.protectionOffset >= 0, "a format without protection information")
      return load(UInt64.self, Format.protectionOffset)
    }
    set {
      precondition(Format.protectionOffset >= 0, "a format without protection information")
      store(newValue, Format.protectionOffset)
    }
  }
}
