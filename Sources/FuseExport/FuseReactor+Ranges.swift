// SPDX-License-Identifier: MIT

public import BlockIO
public import GuestMemory

/// FALLOCATE: holes punched and ranges zeroed. Either way the range reads as zeros afterwards.
extension FuseReactor where Transport: ~Copyable {
  @inlinable
  mutating func allocate(_ slot: Int) {
    let arguments = transport.arguments(slot)
    let offset = arguments.load(UInt64.self, at: 8)
    let length = arguments.load(UInt64.self, at: 16)
    let mode = arguments.load(UInt32.self, at: 24)
    let (end, overflows) = offset.addingReportingOverflow(length)
    guard !overflows, length > 0 else { return refuse(slot, FuseErrno.invalid) }
    guard !isReadOnly else { return fail(slot, FuseErrno.readOnly) }
    refreshSize()
    let keepsSize = mode & FuseFallocateBits.keepSize != 0
    switch mode & ~FuseFallocateBits.keepSize {
    case 0:
      // Every byte of a disk is there already, and there can be no more.
      if end > diskByteCount { return fail(slot, FuseErrno.noSpace) }
      transport.answer(slot, error: 0, byteCount: 0)
    case FuseFallocateBits.punchHole where keepsSize:
      clearRange(slot, from: offset, to: min(end, diskByteCount), discards: true)
    case FuseFallocateBits.zeroRange:
      if !keepsSize && end > diskByteCount { return fail(slot, FuseErrno.noSpace) }
      clearRange(slot, from: offset, to: min(end, diskByteCount), discards: false)
    default: fail(slot, FuseErrno.notSupported)
    }
  }

  /// Makes a range read as zeros: parts of sectors at its ends by writing, what lies between by the device's own means.
  @inlinable
  mutating func clearRange(_ slot: Int, from offset: UInt64, to end: UInt64, discards: Bool) {
    guard offset < end else { return transport.answer(slot, error: 0, byteCount: 0) }
    var start = offset
    var stop = end
    if start & sectorMask != 0 {
      start = min((start & ~sectorMask) + sectorMask + 1, end)
      let error = zeroWithinSector(slot, from: offset, to: start)
      guard error == 0 else { return fail(slot, error) }
    }
    if stop & sectorMask != 0 && start < stop {
      stop &= ~sectorMask
      let error = zeroWithinSector(slot, from: stop, to: end)
      guard error == 0 else { return fail(slot, error) }
    }
    guard start < stop else { return transport.answer(slot, error: 0, byteCount: 0) }
    admitWrite()
    table[slot].endSector = stop >> UInt64(PageGeometry.sectorShift)
    if discards && discardLeavesZeros {
      begin(slot, .discarding, .discard, from: start, to: stop)
    } else {
      begin(slot, .zeroing, .writeZeroes, from: start, to: stop)
    }
  }

  /// Zeros bytes that lie in one sector, and keeps the rest of it.
  @inlinable
  mutating func zeroWithinSector(_ slot: Int, from offset: UInt64, to end: UInt64) -> CInt {
    let start = offset & ~sectorMask
    let lead = Int(offset - start)
    let byteCount = Int(end - offset)
    return alone {
      let buffer = $0.region(of: slot)
      buffer.fill(0, at: lead, byteCount: byteCount)
      return $0.mergeAndWrite(slot, buffer, start: start, lead: lead, byteCount: byteCount)
    }
  }

  /// Goes on with, or ends, an operation on a range.
  @inlinable @inline(never)
  mutating func finishRange(_ slot: Int, _ error: CInt) {
    let lacks = error == FuseErrno.notSupported || error == FuseErrno.notImplemented
    switch table[slot].stage {
    case .discarding where lacks:
      table[slot].stage = .zeroing
      table[slot].operation = .writeZeroes
      return submit(slot)
    case .zeroing where lacks:
      region(of: slot).fill(0)
      return fillNext(slot, from: table[slot].sectors.start)
    case .zeroFilling where error == 0:
      let next = table[slot].sectors.start + table[slot].sectors.count
      if next < table[slot].endSector { return fillNext(slot, from: next) }
    default: break
    }
    leaveGate()
    guard error == 0 else { return fail(slot, error) }
    transport.answer(slot, error: 0, byteCount: 0)
  }

  /// Writes the next piece of zeros.
  @inlinable
  mutating func fillNext(_ slot: Int, from start: UInt64) {
    let shift = UInt64(PageGeometry.sectorShift)
    let end = min(start + UInt64(maximumTransfer) >> shift, table[slot].endSector)
    begin(slot, .zeroFilling, .write, from: start << shift, to: end << shift)
  }
}
