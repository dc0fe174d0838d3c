// SPDX-License-Identifier: MIT

import BlockIO
import GuestMemory
import SharedRing
public import XenWire

/// Requests whose segments are not in their slot: in descriptor pages, or in the ring of segments.
extension BackQueue where Image: ~Copyable {
  @usableFromInline
  mutating func dispatchIndirect<Format: RingFormat>(_ request: Int, _ slot: borrowing RequestSlot<Format>) {
    guard let count = acceptLong(request, slot.innerOperation, segmentCount: slot.indirectSegmentCount) else { return }
    for page in 0..<Format.descriptorPages(for: count) { unsafe scratch.missing[page] = slot.indirectReference(page) }
    guard copyDescriptors(request, segmentCount: count, Format.self) else { return finish(request, .error) }
    if Format.descriptorsCarrySectors {
      transferScattered(request, slot.innerOperation, segmentCount: count)
    } else {
      transfer(request, slot.innerOperation, segmentCount: count)
    }
  }

  @usableFromInline
  mutating func dispatchRun<Format: RingFormat>(_ request: Int, _ slot: borrowing RequestSlot<Format>) {
    guard let count = acceptLong(request, slot.innerOperation, segmentCount: slot.runCount) else { return }
    var place = slot.runStart
    guard let entries = ring.layout.segmentRing, place < entries.count else { return finish(request, .error) }
    for index in 0..<count {
      unsafe scratch.segments[index] = entries.load(at: place).bits
      place = place + 1 == entries.count ? 0 : place + 1
    }
    transfer(request, slot.innerOperation, segmentCount: count)
  }

  /// Judges what an indirect or run form says of itself; nil when the request has been refused.
  private mutating func acceptLong(_ request: Int, _ inner: BlockOperation, segmentCount: Int) -> Int? {
    unsafe pending.requests[request].operation = inner
    guard inner == .read || inner == .write, segmentCount > 0, segmentCount <= longLimit else {
      finish(request, .error)
      return nil
    }
    counters.add(1, to: QueueCounter.indirect_req.rawValue)
    return segmentCount
  }

  /// Copies the descriptors out of the pages in `scratch.missing`, each byte fetched once, and lets go of the pages.
  private mutating func copyDescriptors<Format: RingFormat>(
    _ request: Int, segmentCount: Int, _ format: Format.Type
  ) -> Bool {
    let pages = Format.descriptorPages(for: segmentCount)
    guard mapPages(request, count: pages, writable: abilities.isPersistent) else {
      releasePages(request)
      return false
    }
    for page in 0..<pages {
      let first = page * Format.descriptorsPerPage
      let count = min(segmentCount - first, Format.descriptorsPerPage)
      let source = unsafe MemoryExtent(
        address: scratch.addresses[page], byteCount: count * Format.descriptorSize)
      copyDescriptors(from: source, first: first, count: count, format)
    }
    releasePages(request)
    return true
  }

  private mutating func copyDescriptors<Format: RingFormat>(
    from source: MemoryExtent, first: Int, count: Int, _ format: Format.Type
  ) {
    guard let page = source.region else { return }
    guard !Format.descriptorsCarrySectors else {
      for index in 0..<count {
        unsafe scratch.sectors[first + index] = page.load(UInt64.self, at: index * Format.descriptorSize)
        unsafe scratch.segments[first + index] = page.load(UInt64.self, at: index * Format.descriptorSize + 8)
      }
      return
    }
    // SAFETY: `segments` holds `capacity` >= segmentCount words; the source is a page that is mapped right now.
    let target = unsafe UnsafeMutableRawBufferPointer(
      start: scratch.segments + first, count: count * BlockLimits.segmentSize)
    var span = unsafe target.mutableBytes
    page.copyOut(at: 0, into: &span)
  }
}
