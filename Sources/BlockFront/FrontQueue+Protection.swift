// SPDX-License-Identifier: MIT

import BlockIO
public import GuestMemory
import Protection
import XenHypervisor
public import XenWire

/// What a frontend needs to vouch for its data: tables, a list of memory, and where its pages of tuples are.
@safe @usableFromInline
struct FrontGuardian: ~Copyable {
  // SAFETY: `extents` addresses `capacity` initialised elements until deinit; a request has no more pieces.
  @usableFromInline let extents: UnsafeMutablePointer<MemoryExtent>
  let capacity: Int
  let scanner: ProtectionScanner?
  /// The first slot's first page of tuples in the arena.
  let firstPage: Int
  let pagesPerSlot: Int
  /// The tuple of the response that is being judged.
  @usableFromInline var arrived: UInt64 = 0

  init(segments: Int, firstPage: Int, pagesPerSlot: Int) {
    capacity = max(segments, 1)
    scanner = segments > 0 ? ProtectionScanner(form: ProtectionForm()) : nil
    self.firstPage = firstPage
    self.pagesPerSlot = pagesPerSlot
    unsafe extents = .allocate(capacity: capacity)
    unsafe extents.initialize(repeating: MemoryExtent(address: 0, byteCount: 0), count: capacity)
  }

  @inlinable
  deinit { unsafe extents.deallocate() }
}

extension FrontQueue {
  /// The memory of a request's data, as this end sees it.
  private func data(of id: Int, segmentCount: Int) -> MemoryExtentList {
    precondition(segmentCount <= guardian.capacity, "more pieces than a request can have")
    var count = 0
    for index in 0..<segmentCount {
      let piece = unsafe shadows.pieces[id * shadows.segments + index]
      if piece.firstSector & RingProtection.segmentMark != 0 { continue }
      let first = Int(piece.firstSector)
      unsafe guardian.extents[count] = MemoryExtent(
        address: arena.address(Int(piece.page)) + UInt(first << PageGeometry.sectorShift),
        byteCount: (Int(piece.lastSector) - first + 1) << PageGeometry.sectorShift)
      count += 1
    }
    return unsafe MemoryExtentList(unsafeStart: guardian.extents, count: count)
  }

  /// The pages of a slot's tuples.
  private func tuples(of id: Int) -> SharedRegion {
    arena.pages.region.slice(
      at: (guardian.firstPage + id * guardian.pagesPerSlot) << PageGeometry.pageShift,
      byteCount: guardian.pagesPerSlot << PageGeometry.pageShift)
  }

  /// The tuple over all of a write's data; nothing for other requests.
  @usableFromInline
  func wholeTuple(_ id: Int) -> UInt64 {
    let shadow = unsafe shadows.shadows[id]
    guard shadow.operation == .write, shadow.segmentCount > 0, let scanner = guardian.scanner else { return 0 }
    return scanner.tuple(over: data(of: id, segmentCount: Int(shadow.segmentCount)), sector: shadow.sector).memory
  }

  /// Adds pages of tuples to a request's pieces, filled for a write, and writes it.
  @usableFromInline
  mutating func placeProtected<Format: RingFormat>(
    _ id: Int, io: Int, _ operation: BlockOperation, sector: UInt64, segmentCount: Int, _ format: Format.Type
  ) {
    guard let scanner = guardian.scanner else { preconditionFailure("protection without its tables") }
    let list = data(of: id, segmentCount: segmentCount)
    let sectors = UInt64(list.byteCount >> PageGeometry.sectorShift)
    let pages = RingProtection.pages(for: sectors)
    precondition(pages <= guardian.pagesPerSlot, "more tuples than a slot has pages for")
    if operation == .write {
      var cursor = TupleCursor(tuples(of: id))
      scanner.generate(list, sector: sector, into: &cursor)
    }
    var left = Int(sectors) * ProtectionTuple.byteCount
    for page in 0..<pages {
      let used = (min(left, PageGeometry.pageSize) + PageGeometry.sectorSize - 1) >> PageGeometry.sectorShift
      left -= PageGeometry.pageSize
      unsafe shadows.pieces[id * shadows.segments + segmentCount + page] = Piece(
        page: Int32(guardian.firstPage + id * guardian.pagesPerSlot + page),
        firstSector: RingProtection.segmentMark, lastSector: RingProtection.segmentMark + UInt8(used - 1), target: 0)
    }
    placePieces(id, io: io, operation, sector: sector, segmentCount: segmentCount + pages, format)
  }

  /// Holds what was read against the tuples that came with it; a mismatch is the I/O's error.
  func isVouchedFor(_ id: Int, _ shadow: Shadow) -> Bool {
    guard let scanner = guardian.scanner else { return true }
    let list = data(of: id, segmentCount: Int(shadow.segmentCount))
    if protection == .slot { return scanner.tuple(over: list, sector: shadow.sector).memory == guardian.arrived }
    var cursor = TupleCursor(tuples(of: id))
    return scanner.verify(list, sector: shadow.sector, against: &cursor) == nil
  }

  /// Notes a read that nobody vouches for: the I/O ends with `EILSEQ`.
  mutating func checkProtection(_ id: Int, _ shadow: Shadow) {
    guard !isVouchedFor(id, shadow) else { return }
    counters.add(1, to: FrontCounter.protection_errors.rawValue)
    let io = Int(shadow.io)
    if unsafe table.ios[io].errorCode == 0 { unsafe table.ios[io].errorCode = ProtectionViolation.errorCode }
  }
}
