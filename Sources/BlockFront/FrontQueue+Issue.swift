// SPDX-License-Identifier: MIT

public import BlockIO
public import GuestMemory
public import SharedRing
import XenHypervisor
public import XenWire

extension FrontQueue {
  /// Writes the next ring request of an I/O.
  ///
  /// False when it has to wait for something other than a slot.
  @inlinable
  mutating func issueOne<Format: RingFormat>(_ io: Int, _ format: Format.Type) -> Bool {
    switch unsafe table.ios[io].request.operation {
    case .read: return issueTransfer(io, .read, format)
    case .write: return issueTransfer(io, .write, format)
    case .flush: return issueFlush(io, format)
    case .discard, .secureDiscard: return issueDiscard(io, format)
    case .writeZeroes:
      let canDiscard = abilities.canDiscard && abilities.discardLeavesZeros
      return canDiscard ? issueDiscard(io, format) : issueZeroes(io, format)
    }
  }

  @inlinable
  mutating func issueTransfer<Format: RingFormat>(
    _ io: Int, _ operation: BlockOperation, _ format: Format.Type
  ) -> Bool {
    if unsafe table.ios[io].tuples != 0, !mayIssueWithTuples(io) { return true }
    guard let id = shadows.take() else { return false }
    let sector = unsafe table.ios[io].request.sectors.start &+ table.ios[io].issued
    let limit = segmentLimit(format)
    let (count, sectors) = gatherPieces(io, id: id, isWrite: operation == .write, atMost: limit)
    guard count > 0 else {
      shadows.giveBack(id)
      return false
    }
    unsafe table.ios[io].issued &+= sectors
    unsafe table.ios[io].isIssued = table.ios[io].issued == table.ios[io].request.sectors.count
    place(id, io: io, operation, sector: sector, segmentCount: count, format)
    return true
  }

  /// Cuts the next part of an I/O's memory into pieces of pages, at most one request full.
  /// - Returns: the pieces and the sectors that they cover; none when bounce pages ran out.
  @inlinable
  mutating func gatherPieces(_ io: Int, id: Int, isWrite: Bool, atMost limit: Int) -> (Int, UInt64) {
    guard let memory = unsafe table.ios[io].request.memory else { preconditionFailure("checked by submit") }
    let first = id &* shadows.segments
    var remaining = unsafe (table.ios[io].request.sectors.count &- table.ios[io].issued) << 9
    var covered: UInt64 = 0
    var count = 0
    var extent = unsafe table.ios[io].extent
    var offset = unsafe table.ios[io].extentOffset
    while count < limit, remaining > 0 {
      let here = memory[extent]
      let left = here.byteCount &- offset
      let address = here.address &+ UInt(bitPattern: offset)
      var byteCount = min(left, Int(truncatingIfNeeded: min(remaining, UInt64(PageGeometry.pageSize))))
      let inPage = Int(address & UInt(PageGeometry.pageSize &- 1))
      if let page = arena.page(at: address), abilities.isBackendTrusted, inPage & 511 == 0 {
        byteCount = min(byteCount, PageGeometry.pageSize &- inPage)
        let firstSector = inPage >> 9
        unsafe shadows.pieces[first &+ count] = Piece(
          page: Int32(truncatingIfNeeded: page), firstSector: UInt8(truncatingIfNeeded: firstSector),
          lastSector: UInt8(truncatingIfNeeded: firstSector &+ (byteCount >> 9) &- 1), target: 0)
      } else {
        guard bounce(id: id, at: first &+ count, address: address, byteCount: byteCount, isWrite: isWrite) else {
          break
        }
      }
      count &+= 1
      covered &+= UInt64(byteCount >> 9)
      remaining &-= UInt64(byteCount)
      offset &+= byteCount
      if offset == here.byteCount {
        extent &+= 1
        offset = 0
      }
    }
    unsafe table.ios[io].extent = extent
    unsafe table.ios[io].extentOffset = offset
    return (count, covered)
  }

  /// Puts a bounce page in the place of data that lies elsewhere (blkfront with `info->bounce`).
  @usableFromInline
  mutating func bounce(id: Int, at index: Int, address: UInt, byteCount: Int, isWrite: Bool) -> Bool {
    guard let page = arena.takeBounce() else { return false }
    counters.add(1, to: FrontCounter.bounced_segments.rawValue)
    let copy = MemoryExtent(address: arena.address(page), byteCount: PageGeometry.pageSize)
    if isWrite {
      copyBytes(from: MemoryExtent(address: address, byteCount: byteCount), to: copy)
    } else if !ring.faults.has(.stalePageShown) {
      copy.region?.fill(0)
    }
    unsafe shadows.pieces[index] = Piece(
      page: Int32(page), firstSector: 0, lastSector: UInt8(byteCount >> 9 - 1), target: address)
    unsafe shadows.shadows[id].hasBounced = true
    return true
  }

  @usableFromInline
  func copyBytes(from source: MemoryExtent, to destination: MemoryExtent) {
    let target = destination.region
    // SAFETY: the source is memory that the queue's user named in a request and keeps until its completion.
    unsafe source.region?.withUnsafeBytes { bytes in unsafe target?.copyIn(bytes.bytes, at: 0) }
  }

  /// Segments that the next request may have: in a format with a segment ring, no more than that has room for.
  @inlinable
  func segmentLimit<Format: RingFormat>(_ format: Format.Type) -> Int {
    var limit = abilities.maxSegments
    if Format.runOffset >= 0 { limit = min(limit, max(Format.directSegments, runs.freeCount)) }
    return protection == .sector ? RingProtection.dataSegments(of: limit) : limit
  }

  /// Writes the request for the gathered pieces into the next slot.
  @inlinable
  mutating func place<Format: RingFormat>(
    _ id: Int, io: Int, _ operation: BlockOperation, sector: UInt64, segmentCount: Int, _ format: Format.Type
  ) {
    if protection == .sector, segmentCount > 0 {
      return placeProtected(id, io: io, operation, sector: sector, segmentCount: segmentCount, format)
    }
    placePieces(id, io: io, operation, sector: sector, segmentCount: segmentCount, format)
  }

  /// Writes the request for all pieces of a slot, data and tuples.
  @inlinable
  mutating func placePieces<Format: RingFormat>(
    _ id: Int, io: Int, _ operation: BlockOperation, sector: UInt64, segmentCount: Int, _ format: Format.Type
  ) {
    let isLong = segmentCount > Format.directSegments
    let bounced = unsafe shadows.shadows[id].hasBounced
    unsafe shadows.shadows[id] = Shadow(
      io: Int32(truncatingIfNeeded: io), nextFree: -1, segmentCount: Int32(truncatingIfNeeded: segmentCount),
      operation: operation, state: .waiting)
    unsafe shadows.shadows[id].isIndirect = isLong
    unsafe shadows.shadows[id].hasBounced = bounced
    if protection != .off { guardian.note(sector, of: id) }
    unsafe table.ios[io].outstanding &+= 1
    if !abilities.isPersistent { grantPieces(id, isReadOnly: operation != .read) }
    counters.add(1, to: FrontCounter.requests.rawValue)
    note(.placed, id, FrontStage.placed(io, operation, segmentCount))
    if isLong { return placeLong(id, operation, sector: sector, segmentCount: segmentCount, format) }
    // SAFETY: the memory is this queue's and stays.
    var slot = unsafe RequestSlot<Format>(unsafeIn: slotMemory)
    var byteCount = slot.encodeDirect(
      operation, segmentCount: segmentCount, handle: handle, id: UInt64(id), sector: sector)
    for index in 0..<segmentCount { slot.setDirectSegment(segment(id, index), at: index) }
    if Format.protectionOffset >= 0, protection == .slot {
      byteCount = slot.encodeProtection(wholeTuple(id), behind: byteCount)
    }
    ring.enqueue(slot, byteCount: byteCount)
  }

  /// A request whose segments are not in its slot.
  @usableFromInline
  mutating func placeLong<Format: RingFormat>(
    _ id: Int, _ operation: BlockOperation, sector: UInt64, segmentCount: Int, _ format: Format.Type
  ) {
    counters.add(1, to: FrontCounter.indirect_requests.rawValue)
    if Format.runOffset >= 0 {
      placeRun(id, operation, sector: sector, segmentCount: segmentCount, format)
    } else {
      placeIndirect(id, operation, sector: sector, segmentCount: segmentCount, format)
    }
  }

  @inlinable
  func segment(_ id: Int, _ index: Int) -> Segment {
    let piece = unsafe shadows.pieces[id &* shadows.segments &+ index]
    let reference =
      abilities.isPersistent
      ? unsafe arena.references[Int(piece.page)]
      : unsafe shadows.references[id &* shadows.referencesPerSlot &+ index]
    return Segment(reference: reference, firstSector: piece.firstSector, lastSector: piece.lastSector)
  }

  private mutating func placeIndirect<Format: RingFormat>(
    _ id: Int, _ operation: BlockOperation, sector: UInt64, segmentCount: Int, _ format: Format.Type
  ) {
    let firstPage = arena.descriptorPage + id * descriptorPagesPerSlot
    let descriptors = arena.pages.region.slice(
      at: firstPage << PageGeometry.pageShift, byteCount: descriptorPagesPerSlot << PageGeometry.pageShift)
    var next = sector
    for index in 0..<segmentCount {
      let segment = segment(id, index)
      if Format.descriptorsCarrySectors {
        descriptors.store(next, at: index &* Format.descriptorSize)
        descriptors.store(segment.bits, at: index &* Format.descriptorSize &+ 8)
        if !segment.isProtection { next &+= UInt64(segment.sectorCount) }
      } else {
        descriptors.store(segment.bits, at: index &* Format.descriptorSize)
      }
    }
    // SAFETY: the memory is this queue's and stays.
    var slot = unsafe RequestSlot<Format>(unsafeIn: slotMemory)
    var byteCount = slot.encodeIndirect(
      operation, segmentCount: segmentCount, handle: handle, id: UInt64(id), sector: sector)
    for page in 0..<Format.descriptorPages(for: segmentCount) {
      let reference =
        abilities.isPersistent
        ? unsafe arena.references[firstPage + page]
        : unsafe shadows.references[id * shadows.referencesPerSlot + abilities.maxSegments + page]
      if !abilities.isPersistent {
        platform.grantAccess(reference, to: peer, frame: arena.frame(firstPage + page), isReadOnly: true)
      }
      slot.setIndirectReference(reference, at: page)
    }
    if Format.protectionOffset >= 0, protection == .slot {
      byteCount = slot.encodeProtection(wholeTuple(id), behind: byteCount)
    }
    ring.enqueue(slot, byteCount: byteCount)
  }

  private mutating func placeRun<Format: RingFormat>(
    _ id: Int, _ operation: BlockOperation, sector: UInt64, segmentCount: Int, _ format: Format.Type
  ) {
    guard let entries = ring.layout.segmentRing else { preconditionFailure("a format with runs has a segment ring") }
    let start = runs.take(segmentCount, for: id)
    var place = start
    for index in 0..<segmentCount {
      entries.store(segment(id, index), at: place)
      place = place + 1 == entries.count ? 0 : place + 1
    }
    // SAFETY: the memory is this queue's and stays.
    var slot = unsafe RequestSlot<Format>(unsafeIn: slotMemory)
    let byteCount = slot.encodeRun(
      operation, start: start, count: segmentCount, handle: handle, id: UInt64(id), sector: sector)
    ring.enqueue(slot, byteCount: byteCount)
  }

  /// Without persistent grants: lets the backend at the pages of one request.
  @usableFromInline
  mutating func grantPieces(_ id: Int, isReadOnly: Bool) {
    let count = unsafe Int(shadows.shadows[id].segmentCount)
    for index in 0..<count {
      let page = unsafe Int(shadows.pieces[id * shadows.segments + index].page)
      let reference = unsafe shadows.references[id * shadows.referencesPerSlot + index]
      platform.grantAccess(reference, to: peer, frame: arena.frame(page), isReadOnly: isReadOnly)
    }
    counters.add(UInt64(count), to: FrontCounter.grants_made.rawValue)
  }
}

extension FrontQueue {
  /// A flush by whatever the backend offers; nothing to do when it offers neither (blkfront's `xlvbd_flush`).
  @usableFromInline
  mutating func issueFlush<Format: RingFormat>(_ io: Int, _ format: Format.Type) -> Bool {
    unsafe table.ios[io].isIssued = true
    guard abilities.canFlush || abilities.canBarrier else { return true }
    guard let id = shadows.take() else {
      unsafe table.ios[io].isIssued = false
      return false
    }
    let operation: BlockOperation = abilities.canFlush ? .flushDiskCache : .writeBarrier
    place(id, io: io, operation, sector: 0, segmentCount: 0, format)
    return true
  }

  @usableFromInline
  mutating func issueDiscard<Format: RingFormat>(_ io: Int, _ format: Format.Type) -> Bool {
    let request = unsafe table.ios[io].request
    let isSecure = request.operation == .secureDiscard
    guard abilities.canDiscard, !isSecure || abilities.canDiscardSecurely else {
      unsafe table.ios[io].errorCode = FrontQueueErrno.notSupported
      unsafe table.ios[io].isIssued = true
      return true
    }
    guard let id = shadows.take() else { return false }
    unsafe table.ios[io].isIssued = true
    unsafe table.ios[io].outstanding &+= 1
    unsafe shadows.shadows[id] = Shadow(
      io: Int32(io), nextFree: -1, segmentCount: 0, operation: .discard, state: .waiting)
    counters.add(1, to: FrontCounter.requests.rawValue)
    note(.placed, id, FrontStage.placed(io, .discard, 0))
    // SAFETY: the memory is this queue's and stays.
    var slot = unsafe RequestSlot<Format>(unsafeIn: slotMemory)
    let byteCount = slot.encodeDiscard(
      isSecure: isSecure, handle: handle, id: UInt64(id), sector: request.sectors.start,
      count: request.sectors.count)
    ring.enqueue(slot, byteCount: byteCount)
    return true
  }

  /// The protocol has no "write zeroes": writes from pages that hold nothing else, where a discard does not do as well.
  @usableFromInline
  mutating func issueZeroes<Format: RingFormat>(_ io: Int, _ format: Format.Type) -> Bool {
    guard let id = shadows.take() else { return false }
    let range = unsafe table.ios[io].request.sectors
    let issued = unsafe table.ios[io].issued
    var remaining = range.count - issued
    var count = 0
    let limit = min(segmentLimit(format), arena.zeroCount)
    while remaining > 0, count < limit {
      let sectors = min(remaining, UInt64(PageGeometry.sectorsPerPage))
      unsafe shadows.pieces[id * shadows.segments + count] = Piece(
        page: Int32(arena.zeroPage + count), firstSector: 0, lastSector: UInt8(sectors - 1), target: 0)
      remaining -= sectors
      count += 1
    }
    unsafe table.ios[io].issued = range.count - remaining
    unsafe table.ios[io].isIssued = remaining == 0
    place(id, io: io, .write, sector: range.start + issued, segmentCount: count, format)
    return true
  }
}
