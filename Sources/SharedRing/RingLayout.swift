// SPDX-License-Identifier: MIT

public import GuestMemory
public import Synchronization
public import XenWire

/// A queue's rings in memory: a ``RingGeometry`` laid over mapped pages (ring.h `DEFINE_RING_TYPES`).
///
/// ```
/// byte 0   request producer   written by the front           (the shared ring of the classic protocol)
///      4   request event      written by the back: "wake me when the producer passes this - 1"
///      8   response producer  written by the back
///     12   response event     written by the front
///     16   padding to 64
///     64   slot 0, slot 1 ... a power of two of them
/// ```
///
/// The ends keep byte cursors beside the free-running indices: a slot's place is where the cursor is, not a mask of the
/// index, so a count that is no power of two needs no other code and survives the index's wrap at 2^32.
///
/// **Assumptions.** The pages are mapped one behind the other; slots may cross page boundaries.
@safe public struct RingLayout: Sendable {
  // SAFETY: words and slots come from a region whose length the initialiser checked.
  @usableFromInline let requestProducer: SharedWord<UInt32>
  @usableFromInline let requestEvent: SharedWord<UInt32>
  @usableFromInline let responseProducer: SharedWord<UInt32>
  @usableFromInline let responseEvent: SharedWord<UInt32>
  @usableFromInline let responseConsumer: SharedWord<UInt32>
  @usableFromInline let requests: SharedRegion
  @usableFromInline let responses: SharedRegion
  /// Bytes from one request to the next.
  public let requestStride: Int
  @usableFromInline let responseStride: Int
  @usableFromInline let responseSize: Int
  @usableFromInline let responseProtectionOffset: Int
  @usableFromInline let isSplit: Bool
  /// The most requests that may be out at once: the number of slots of a shared ring.
  public let slotCount: UInt32
  /// The ring of segments, where there is one.
  public let segmentRing: SegmentRing?

  /// The largest power of two of slots that fit after the classic header.
  @inlinable
  public static func slotCount(byteCount: Int, slotSize: Int) -> UInt32 {
    RingGeometry.count(
      byteCount: byteCount, headerSize: BlockLimits.ringHeaderSize, stride: slotSize, usesWholePage: false)
  }

  /// Lays rings over a region of as many pages as the geometry says.
  public init(region: SharedRegion, geometry: RingGeometry) {
    precondition(region.byteCount == geometry.pageCount * PageGeometry.pageSize, "rings of another size")
    requestProducer = region.word32(at: geometry.requestProducerOffset)
    requestEvent = region.word32(at: geometry.requestEventOffset)
    responseProducer = region.word32(at: geometry.responseProducerOffset)
    responseEvent = region.word32(at: geometry.responseEventOffset)
    responseConsumer = region.word32(at: geometry.responseConsumerOffset ?? geometry.responseProducerOffset)
    requestStride = geometry.requestStride
    responseStride = geometry.responseStride
    responseSize = geometry.responseSize
    responseProtectionOffset = geometry.responseProtectionOffset ?? -1
    isSplit = geometry.isSplit
    requests = region.slice(
      at: geometry.requestsOffset, byteCount: Int(geometry.requestCount) * geometry.requestStride)
    responses = region.slice(
      at: geometry.responsesOffset, byteCount: Int(geometry.responseCount) * geometry.responseStride)
    slotCount = geometry.depth
    segmentRing =
      geometry.segmentCount == 0
      ? nil
      : SegmentRing(
        region: region.slice(
          at: geometry.segmentsOffset, byteCount: Int(geometry.segmentCount) * geometry.segmentEntrySize),
        entrySize: geometry.segmentEntrySize)
  }

  /// Where the cursor of the requests stands when the index is `index` and has not wrapped since the ring was new.
  func requestCursor(_ index: RingIndex) -> Int {
    Int(index.rawValue % UInt32(requests.byteCount / requestStride)) * requestStride
  }

  /// The same for the responses.
  func responseCursor(_ index: RingIndex) -> Int {
    Int(index.rawValue % UInt32(responses.byteCount / responseStride)) * responseStride
  }

  /// The cursor after this one.
  @inlinable @inline(__always)
  func nextRequest(_ cursor: Int) -> Int {
    let next = cursor &+ requestStride
    return next == requests.byteCount ? 0 : next
  }

  /// The cursor after this one.
  @inlinable @inline(__always)
  func nextResponse(_ cursor: Int) -> Int {
    let next = cursor &+ responseStride
    return next == responses.byteCount ? 0 : next
  }
}

/// A ring that holds nothing but segments (variant B): the front writes runs of them, requests name the runs.
public struct SegmentRing: Sendable {
  @usableFromInline let region: SharedRegion
  @usableFromInline let entrySize: Int
  /// The number of entries; a run goes on at entry 0 behind the last.
  public let count: UInt32

  init(region: SharedRegion, entrySize: Int) {
    self.region = region
    self.entrySize = entrySize
    count = UInt32(region.byteCount / entrySize)
  }

  /// Writes an entry.
  @inlinable
  public func store(_ segment: Segment, at index: UInt32) {
    let offset = Int(index) * entrySize
    if entrySize == BlockLimits.segmentSize { return region.store(segment.bits, at: offset) }
    region.store(segment.reference.rawValue, at: offset)
    region.store(UInt16(truncatingIfNeeded: segment.bits >> 32), at: offset + 4)
  }

  /// Copies an entry out, each byte fetched once.
  @inlinable
  public func load(at index: UInt32) -> Segment {
    let offset = Int(index) * entrySize
    if entrySize == BlockLimits.segmentSize { return Segment(bits: region.load(UInt64.self, at: offset)) }
    let low = UInt64(region.load(UInt32.self, at: offset))
    return Segment(bits: low | UInt64(region.load(UInt16.self, at: offset + 4)) << 32)
  }
}
