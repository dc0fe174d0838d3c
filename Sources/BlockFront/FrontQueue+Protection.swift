// SPDX-License-Identifier: MIT

import BlockIO
import GuestMemory
public import Protection
import SharedRing
import XenHypervisor
public import XenWire

/// What a frontend queue needs to make and check protection information (`RingProtection`).
@safe @usableFromInline
struct FrontProtection: ~Copyable {
  // SAFETY: `extents` addresses `capacity` initialised elements until deinit; users check their counts against it.
  @usableFromInline let mode: RingProtection
  @usableFromInline let scanner: ProtectionScanner
  /// Where a slot has its eight bytes.
  @usableFromInline let slotOffset: Int
  /// The tuple of the request that is being written, or 0.
  @usableFromInline var asked: UInt64 = 0
  /// The tuple of the response that is being taken.
  @usableFromInline var answered: UInt64 = 0
  let pagesPerSlot: Int
  let firstPage: Int
  let findings: ProtectionFindings?
  let extents: UnsafeMutablePointer<MemoryExtent>
  let capacity: Int

  init(_ plan: RingPlan, segments: Int, firstPage: Int, findings: ProtectionFindings?) {
    mode = plan.protection
    scanner = ProtectionScanner(form: ProtectionForm())
    slotOffset = max(plan.format.numbers.protectionOffset, 0)
    pagesPerSlot = FrontProtection.pagesPerSlot(plan, segments)
    self.firstPage = firstPage
    self.findings = findings
    capacity = plan.protection == .off ? 1 : segments
    unsafe extents = .allocate(capacity: capacity)
    unsafe extents.initialize(repeating: MemoryExtent(address: 0, byteCount: 0), count: capacity)
  }

  @inlinable
  deinit { unsafe free() }

  @unsafe @usableFromInline
  func free() { unsafe extents.deallocate() }

  /// Pages that the tuples of the largest request fill.
  static func pagesPerSlot(_ plan: RingPlan, _ segments: Int) -> Int {
    segments - plan.protection.dataSegments(of: segments)
  }
}

extension FrontQueue {
  /// Writes a request with its protection information: tuples of the data as it is now for a write, room for them for a
  /// read.
  @usableFromInline
  mutating func placeProtected<Format: RingFormat>(
    _ id: Int, io: Int, _ operation: BlockOperation, sector: UInt64, sectors: UInt64, dataCount: Int,
    _ format: Format.Type
  ) {
    let isWrite = operation != .read
    var count = dataCount
    if protection.mode == .sector {
      count += addTuplePieces(id, after: dataCount, sectors: sectors)
      if isWrite {
        var tuples = TupleCursor(tuples(id, sectors: sectors))
        protection.scanner.generate(data(id, count: dataCount), sector: sector, into: &tuples)
      }
    } else {
      protection.asked = isWrite ? protection.scanner.wholeTuple(data(id, count: dataCount), sector: sector).memory : 0
    }
    place(id, io: io, operation, sector: sector, segmentCount: count, format)
    unsafe shadows.shadows[id].dataCount = Int32(dataCount)
    unsafe shadows.shadows[id].sector = sector
  }

  /// Names the slot's own tuple pages behind the data.
  /// - Returns: how many pieces that took.
  private mutating func addTuplePieces(_ id: Int, after dataCount: Int, sectors: UInt64) -> Int {
    var left = Int(RingProtection.tupleSectors(for: sectors))
    let page = protection.firstPage + id * protection.pagesPerSlot
    var count = 0
    while left > 0 {
      let here = min(left, PageGeometry.sectorsPerPage)
      unsafe shadows.pieces[id * shadows.segments + dataCount + count] = Piece(
        page: Int32(page + count), firstSector: 0, lastSector: UInt8(here - 1), target: 0)
      left -= here
      count += 1
    }
    precondition(count <= protection.pagesPerSlot, "more tuples than their pages hold")
    return count
  }

  /// A slot's tuples.
  private func tuples(_ id: Int, sectors: UInt64) -> SharedRegion {
    let page = protection.firstPage + id * protection.pagesPerSlot
    return arena.pages.region.slice(
      at: page << PageGeometry.pageShift, byteCount: Int(sectors) * ProtectionTuple.byteCount)
  }

  /// The memory of a request's data, piece by piece.
  private func data(_ id: Int, count: Int) -> MemoryExtentList {
    precondition(count <= protection.capacity, "more pieces than a request can have")
    for index in 0..<count {
      let piece = unsafe shadows.pieces[id * shadows.segments + index]
      let address = arena.address(Int(piece.page)) + UInt(piece.firstSector) << UInt(PageGeometry.sectorShift)
      let byteCount = (Int(piece.lastSector) - Int(piece.firstSector) + 1) << PageGeometry.sectorShift
      unsafe protection.extents[index] = MemoryExtent(address: address, byteCount: byteCount)
    }
    return unsafe MemoryExtentList(unsafeStart: protection.extents, count: count)
  }

  /// Puts the request's tuple into its slot.
  /// - Returns: the bytes in use.
  @inlinable
  func protect<Format: RingFormat>(_ slot: inout RequestSlot<Format>, _ byteCount: Int) -> Int {
    guard Format.protectionOffset >= 0, protection.mode == .slot else { return byteCount }
    slot.protection = protection.asked
    return max(byteCount, Format.protectionOffset &+ ProtectionTuple.byteCount)
  }

  /// Checks what was read, before anybody sees it.
  @usableFromInline
  mutating func verifyRead(_ id: Int, _ shadow: Shadow) {
    let data = data(id, count: Int(shadow.dataCount))
    let violation: ProtectionViolation?
    if protection.mode == .sector {
      var tuples = TupleCursor(tuples(id, sectors: UInt64(data.byteCount) >> UInt64(PageGeometry.sectorShift)))
      violation = protection.scanner.verify(data, sector: shadow.sector, against: &tuples)
    } else {
      violation = protection.scanner.verifyWhole(
        data, sector: shadow.sector, against: ProtectionTuple(memory: protection.answered))
    }
    guard let violation else { return }
    protection.findings?.note(violation)
    counters.add(1, to: FrontCounter.protection_errors.rawValue)
    let io = Int(shadow.io)
    if unsafe table.ios[io].errorCode == 0 { unsafe table.ios[io].errorCode = ProtectionViolation.errorCode }
  }
}
