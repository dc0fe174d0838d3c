// SPDX-License-Identifier: MIT

import BlockIO
import GuestMemory
import Protection
import SharedRing
public import XenWire

/// Vouching for data in granted pages: what comes for writing is held against its tuples before it reaches the image, what
/// was read gets tuples before it is answered.
extension BackQueue where Image: ~Copyable {
  /// How many of the segments in `scratch` are data, when those at the end are tuples.
  ///
  /// 0 when the tuples are not exactly those that the data needs. Their references are noted for mapping.
  @usableFromInline
  mutating func dataSegments(of segmentCount: Int) -> Int {
    var sectors: UInt64 = 0
    var dataCount = 0
    while dataCount < segmentCount, case let segment = unsafe Segment(bits: scratch.segments[dataCount]),
      !segment.isProtection
    {
      guard segment.isValid else { return 0 }
      sectors += UInt64(segment.sectorCount)
      dataCount += 1
    }
    guard segmentCount - dataCount == RingProtection.pages(for: sectors) else { return 0 }
    for index in dataCount..<segmentCount {
      let segment = unsafe Segment(bits: scratch.segments[index])
      guard segment.isValidProtection else { return 0 }
      unsafe scratch.missing[index] = segment.reference
    }
    return dataCount
  }

  /// Lists the pages of tuples behind the request's data.
  @usableFromInline
  mutating func appendTuples(_ request: Int, from first: Int, to end: Int) {
    let dataExtents = unsafe pending.requests[request].extentCount
    for index in first..<end {
      unsafe pending.append(
        scratch.addresses[index], byteCount: PageGeometry.pageSize, to: request, joining: index > first)
    }
    let all = unsafe pending.requests[request].extentCount
    unsafe pending.extras[request].tupleExtentCount = all - dataExtents
    unsafe pending.requests[request].extentCount = dataExtents
  }

  private func tuples(of request: Int) -> TupleCursor {
    let wire = unsafe pending.requests[request]
    let start = unsafe pending.extents + request * pending.perRequest + Int(wire.extentCount)
    let count = unsafe Int(pending.extras[request].tupleExtentCount)
    return unsafe TupleCursor(MemoryExtentList(unsafeStart: start, count: count))
  }

  /// Runs `body` for each range of the disk that a request touches, with its memory.
  private func forEachRange(_ request: Int, _ body: (MemoryExtentList, UInt64) -> Void) {
    let wire = unsafe pending.requests[request]
    let count = unsafe Int(pending.extras[request].range + wire.rangesLeft) + 1
    guard count > 1 else { return body(pending.extentList(request), wire.sector) }
    for index in 0..<count {
      let range = pending[request, range: index]
      let start = unsafe pending.extents + request * pending.perRequest + Int(range.firstExtent)
      unsafe body(MemoryExtentList(unsafeStart: start, count: Int(range.extentCount)), range.sector)
    }
  }

  /// Whether the data of a write is what its tuples say.
  @usableFromInline
  mutating func isVouchedFor(_ request: Int) -> Bool {
    guard let scanner, unsafe pending.requests[request].extentCount > 0 else { return true }
    var violation: ProtectionViolation?
    if protection == .slot {
      let told = unsafe ProtectionTuple(memory: pending.extras[request].tuple)
      let wire = unsafe pending.requests[request]
      violation = scanner.verify(pending.extentList(request), sector: wire.sector, againstWhole: told)
    } else {
      var cursor = tuples(of: request)
      var start = cursor.startOfType2()
      forEachRange(request) { data, sector in
        let found = scanner.verify(data, sector: sector, start: start, against: &cursor)
        start &+= UInt32(truncatingIfNeeded: data.byteCount >> PageGeometry.sectorShift)
        violation = violation ?? found
      }
    }
    guard let violation else { return true }
    counters.add(1, to: QueueCounter.protection_errors.rawValue)
    findings?.note(violation)
    return false
  }

  /// Vouches for what a read brought, in the response or in the request's pages of tuples.
  @usableFromInline
  mutating func protectResponse(_ request: Int, _ status: BlockStatus) {
    let wire = unsafe pending.requests[request]
    let isData = status == .okay && wire.operation == .read && wire.extentCount > 0
    if protection == .slot {
      let tuple = isData ? scanner?.tuple(over: pending.extentList(request), sector: wire.sector).memory : nil
      return ring.protectNext(tuple ?? 0)
    }
    guard isData, let scanner else { return }
    var cursor = tuples(of: request)
    var start = UInt32(truncatingIfNeeded: wire.sector)
    forEachRange(request) { data, sector in
      scanner.generate(data, sector: sector, start: start, into: &cursor)
      start &+= UInt32(truncatingIfNeeded: data.byteCount >> PageGeometry.sectorShift)
    }
  }
}

extension ProtectionForm {
  /// The form of the tuples on the rings: one for each 512-byte sector.
  init(_ profile: RingProtectionProfile) {
    self.init(
      type: ProtectionType(rawValue: profile.type) ?? .type1,
      guardKind: profile.usesInternetChecksum ? .internetChecksum : .crc)
  }
}
