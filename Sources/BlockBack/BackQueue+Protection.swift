// SPDX-License-Identifier: MIT

import BlockIO
import GuestMemory
import Protection
import SharedRing
public import XenWire

/// What a backend queue needs to check and make protection information (`RingProtection`).
@usableFromInline
struct BackProtection {
  @usableFromInline let mode: RingProtection
  /// Where a slot has its eight bytes.
  @usableFromInline let slotOffset: Int
  let scanner: ProtectionScanner
  let findings: ProtectionFindings?

  init(_ plan: RingPlan, findings: ProtectionFindings?) {
    mode = plan.protection
    slotOffset = max(plan.format.numbers.protectionOffset, 0)
    scanner = ProtectionScanner(form: ProtectionForm())
    self.findings = findings
  }
}

/// Requests with protection information: what is written is checked before the image sees it, what was read gets its tuples
/// before the frontend sees it.
extension BackQueue where Image: ~Copyable {
  /// As `transfer`, for segments of which the last may name tuples.
  @usableFromInline
  mutating func transferProtected(_ request: Int, _ operation: BlockOperation, segmentCount: Int) {
    counters.add(UInt64(segmentCount), to: QueueCounter.segments.rawValue)
    let isRead = operation == .read
    guard let data = checkSegments(request, segmentCount: segmentCount), isRead || !validator.isReadOnly else {
      return finish(request, .error)
    }
    let wire = unsafe pending.requests[request]
    guard validator.validate(start: wire.sector, count: wire.sectorCount) != nil,
      mapPages(request, count: segmentCount, writable: abilities.isPersistent || isRead)
    else { return finish(request, .error) }
    appendExtents(request, data: data, segmentCount: segmentCount)
    if !isRead, let violation = verify(request) {
      protection.findings?.note(violation)
      counters.add(1, to: QueueCounter.protection_errors.rawValue)
      return finish(request, .error)
    }
    start(request, operation)
  }

  /// Checks the segments in `scratch`, and notes their references and the sectors of data.
  /// - Returns: the number of data segments, or nil when anything is wrong.
  private mutating func checkSegments(_ request: Int, segmentCount: Int) -> Int? {
    var total: UInt64 = 0
    for index in 0..<segmentCount {
      let segment = unsafe Segment(bits: scratch.segments[index])
      guard segment.isValid else { return nil }
      total += UInt64(segment.sectorCount)
      unsafe scratch.missing[index] = segment.reference
    }
    guard let sectors = protection.mode == .sector ? RingProtection.dataSectors(of: total) : total else { return nil }
    var data: UInt64 = 0
    var count = 0
    while count < segmentCount, data < sectors {
      let here = unsafe UInt64(Segment(bits: scratch.segments[count]).sectorCount)
      guard here & validator.sectorMask == 0 else { return nil }
      data += here
      count += 1
    }
    // Data and tuples share no segment.
    guard data == sectors else { return nil }
    unsafe pending.requests[request].sectorCount = sectors
    return count
  }

  /// Lists the memory of the data, and behind it that of the tuples.
  private mutating func appendExtents(_ request: Int, data: Int, segmentCount: Int) {
    for index in 0..<segmentCount {
      let segment = unsafe Segment(bits: scratch.segments[index])
      let offset = UInt(segment.firstSector) << UInt(PageGeometry.sectorShift)
      let byteCount = segment.sectorCount << PageGeometry.sectorShift
      unsafe pending.append(
        scratch.addresses[index] &+ offset, byteCount: byteCount, to: request, joining: index != data)
      if index == data - 1 { unsafe pending.requests[request].tupleExtents = -pending.requests[request].extentCount }
    }
    // The image is given the first ones only.
    let all = unsafe pending.requests[request].extentCount
    let first = unsafe -pending.requests[request].tupleExtents
    unsafe pending.requests[request].extentCount = first
    unsafe pending.requests[request].tupleExtents = all - first
  }

  private func dataExtents(_ request: Int) -> MemoryExtentList { pending.extentList(request) }

  private func tupleExtents(_ request: Int) -> MemoryExtentList {
    let first = unsafe Int(pending.requests[request].extentCount)
    // SAFETY: `appendExtents` filled that many behind the data's.
    return unsafe MemoryExtentList(
      unsafeStart: pending.extents + request * pending.perRequest + first,
      count: Int(pending.requests[request].tupleExtents))
  }

  /// Checks what is to be written; each tuple is fetched once.
  private func verify(_ request: Int) -> ProtectionViolation? {
    let wire = unsafe pending.requests[request]
    guard protection.mode == .sector else {
      return protection.scanner.verifyWhole(
        dataExtents(request), sector: wire.sector, against: ProtectionTuple(memory: wire.tuple))
    }
    var tuples = TupleCursor(tupleExtents(request))
    return protection.scanner.verify(dataExtents(request), sector: wire.sector, against: &tuples)
  }

  /// Makes the tuples of what was read.
  @usableFromInline
  mutating func vouchForRead(_ request: Int) {
    let wire = unsafe pending.requests[request]
    guard wire.operation == .read else { return }
    if protection.mode == .sector {
      var tuples = TupleCursor(tupleExtents(request))
      protection.scanner.generate(dataExtents(request), sector: wire.sector, into: &tuples)
    } else {
      unsafe pending.requests[request].tuple =
        protection.scanner.wholeTuple(dataExtents(request), sector: wire.sector).memory
    }
  }

  /// Whether the descriptors' sectors follow each other: protected requests do not scatter over the disk.
  func isConsecutive(_ segmentCount: Int) -> Bool {
    for index in 1..<max(segmentCount, 1) {
      let before = unsafe UInt64(Segment(bits: scratch.segments[index - 1]).sectorCount)
      guard unsafe scratch.sectors[index] == scratch.sectors[index - 1] &+ before else { return false }
    }
    return true
  }
}
