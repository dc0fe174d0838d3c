// SPDX-License-Identifier: MIT

public import GuestMemory
public import Synchronization
public import XenWire

/// A ring's place in memory (ring.h `DEFINE_RING_TYPES`).
///
/// ```
/// byte 0   request producer   written by the front
///      4   request event      written by the back: "wake me when the producer passes this - 1"
///      8   response producer  written by the back
///     12   response event     written by the front
///     16   padding to 64
///     64   slot 0, slot 1 ... a power of two of them
/// ```
///
/// **Assumptions.** The pages are mapped one behind the other; slots may cross page boundaries.
@safe public struct RingLayout: Sendable {
  // SAFETY: words and slots come from a region whose length the initialiser checked.
  @usableFromInline let requestProducer: SharedWord<UInt32>
  @usableFromInline let requestEvent: SharedWord<UInt32>
  @usableFromInline let responseProducer: SharedWord<UInt32>
  @usableFromInline let responseEvent: SharedWord<UInt32>
  @usableFromInline let slots: SharedRegion
  @usableFromInline let slotSize: Int
  /// The number of slots, a power of two.
  public let slotCount: UInt32

  /// The largest power of two of slots that fit after the header.
  @inlinable
  public static func slotCount(byteCount: Int, slotSize: Int) -> UInt32 {
    let fit = (byteCount - BlockLimits.ringHeaderSize) / slotSize
    precondition(fit > 0, "a ring holds at least one slot")
    return UInt32(1) << UInt32(fit.bitWidth - 1 - fit.leadingZeroBitCount)
  }

  /// Lays a ring over a region of whole pages.
  public init(region: SharedRegion, slotSize: Int) {
    let count = RingLayout.slotCount(byteCount: region.byteCount, slotSize: slotSize)
    requestProducer = region.word32(at: 0)
    requestEvent = region.word32(at: 4)
    responseProducer = region.word32(at: 8)
    responseEvent = region.word32(at: 12)
    slots = region.slice(at: BlockLimits.ringHeaderSize, byteCount: Int(count) * slotSize)
    self.slotSize = slotSize
    slotCount = count
  }

  /// The byte offset, from slot 0, of the slot that an index falls on.
  @inlinable @inline(__always)
  func slotOffset(_ index: RingIndex) -> Int { Int(index.rawValue & (slotCount &- 1)) * slotSize }
}
