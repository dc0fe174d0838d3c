// SPDX-License-Identifier: MIT

import GuestMemory
import XenWire

/// Slots as bytes: what goes into a ring, and what comes out of one.
enum SlotBytes {
  /// The first `count` bytes as they are copied into a ring.
  static func spilled<ABI: RingFormat>(_ slot: borrowing RequestSlot<ABI>, count: Int = ABI.slotSize) throws -> [UInt8]
  {
    let memory = try MappedMemory(anonymousByteCount: PageGeometry.pageSize)
    memory.region.fill(0xEE)
    // SAFETY: a page is longer than a slot.
    unsafe memory.region.withUnsafeBytes { bytes in
      if let base = bytes.baseAddress { unsafe slot.spill(toShared: base, count: count) }
    }
    return (0..<count).map { memory.region.load(UInt8.self, at: $0) }
  }

  /// A slot that was copied out of a ring with these bytes; what is missing counts as 0xEE.
  static func filled<ABI: RingFormat>(_ abi: ABI.Type, _ bytes: [UInt8]) throws -> RequestSlot<ABI> {
    let memory = try MappedMemory(anonymousByteCount: PageGeometry.pageSize)
    memory.region.fill(0xEE)
    // SAFETY: the array outlives the call.
    unsafe memory.region.copyIn(bytes.span.bytes, at: 0)
    var slot = RequestSlot<ABI>()
    // SAFETY: a page is longer than a slot.
    unsafe memory.region.withUnsafeBytes { page in
      if let base = page.baseAddress { unsafe slot.fill(fromShared: UnsafeRawPointer(base)) }
    }
    return slot
  }
}
