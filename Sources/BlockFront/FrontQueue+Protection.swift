// SPDX-License-Identifier: MIT

import BlockIO
public import GuestMemory
import Protection
import XenHypervisor
public import XenWire

/// What a frontend needs to vouch for its data: tables, a list of memory, and where its pages of tuples are.
@safe @usableFromInline
struct FrontGuardian: ~Copyable {
  // SAFETY: `extents` addresses `capacity` and `sectors` `slots` initialised elements (one of each at least) until deinit; a
  // request has no more pieces, and slot ids come from the shadow table, which has as many.
  @usableFromInline let extents: UnsafeMutablePointer<MemoryExtent>
  /// Each slot's first sector.
  @usableFromInline let sectors: UnsafeMutablePointer<UInt64>
  let capacity: Int
  let slots: Int
  let scanner: ProtectionScanner?
  /// The first slot's first page of tuples in the arena.
  let firstPage: Int
  let pagesPerSlot: Int
  /// The tuple of the response that is being judged.
  @usableFromInline var arrived: UInt64 = 0

  init(slots: Int, segments: Int, firstPage: Int, pagesPerSlot: Int) {
    self.slots = slots
    unsafe sectors = .allocate(capacity: max(slots, 1))
    unsafe sectors.initialize(repeating: 0, count: max(slots, 1))
    capacity = max(segments, 1)
    scanner = segments > 0 ? ProtectionScanner(form: ProtectionForm()) : nil
    self.firstPage = firstPage
    self.pagesPerSlot = pagesPerSlot
    unsafe extents = .allocate(capacity: capacity)
    unsafe extents.initialize(repeating: MemoryExtent(address: 0, byteCount: 0), count: capacity)
  }

  @inlinable
  deinit {
    unsafe extents.deallocate()
    unsafe sectors.deallocate()
  }

  @usableFromInline
  func note(_ sector: UInt64, of slot: Int) {
    precondition(slot < slots, "no such slot")
    unsafe sectors[slot] = sector
  }

  func sector(of slot: Int) -> UInt64 {
    precondition(slot < slots, "no such slot")
    return unsafe sectors[slot]
  }
}

extension FrontQueue {
  /// Vouches for data from now on as a connection's ends agreed; to be called for every new connection.
  mutating func adoptProtection(_ connection: FrontConnection<Platform>) {
    protection = connection.plan.protection
    settlesEach = protection != .off || !abilities.isPersistent
    guardian = FrontGuardian(
      slots: protection == .off ? 0 : shadows.count, segments: protection == .off ? 0 : abilities.maxSegments,
      firstPage: arena.descriptorPage + shadows.count * descriptorPagesPerSlot,
      pagesPerSlot: Self.tuplePages(connection))
  }

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
    return scanner.tuple(over: data(of: id, segmentCount: Int(shadow.segmentCount)), sector: guardian.sector(of: id))
      .memory
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
    let sector = guardian.sector(of: id)
    if protection == .slot { return scanner.tuple(over: list, sector: sector).memory == guardian.arrived }
    var cursor = TupleCursor(tuples(of: id))
    return scanner.verify(list, sector: sector, against: &cursor) == nil
  }

  /// Notes a read that nobody vouches for: the I/O ends with `EILSEQ`.
  mutating func checkProtection(_ id: Int, _ shadow: Shadow) {
    guard !isVouchedFor(id, shadow) else { return }
    counters.add(1, to: FrontCounter.protection_errors.rawValue)
    let io = Int(shadow.io)
    if unsafe table.ios[io].errorCode == 0 { unsafe table.ios[io].errorCode = ProtectionViolation.errorCode }
  }
}
