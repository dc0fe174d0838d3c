// SPDX-License-Identifier: MIT

public import BlockIO
public import GuestMemory

extension FuseReactor where Transport: ~Copyable {
  /// Decodes a request and sets it going, or answers it.
  @inlinable
  mutating func handle(_ slot: Int, payloadByteCount: Int) {
    let opcode = transport.header(slot).load(UInt32.self, at: FuseHeader.opcode)
    if opcode == FuseOpcode.read {
      read(slot)
    } else if opcode == FuseOpcode.write {
      write(slot, payloadByteCount: payloadByteCount)
    } else {
      handleRare(slot, opcode, payloadByteCount: payloadByteCount)
    }
  }

  /// READ: whole sectors around the bytes that were asked for; short at the end of the disk.
  @inlinable
  mutating func read(_ slot: Int) {
    counters.add(to: .reads)
    let arguments = transport.arguments(slot)
    let offset = arguments.load(UInt64.self, at: 8)
    var byteCount = Int(arguments.load(UInt32.self, at: 16))
    guard byteCount <= maximumTransfer else { return refuse(slot, FuseErrno.invalid) }
    if offset > diskByteCount || UInt64(byteCount) > diskByteCount &- offset {
      byteCount = clip(byteCount, at: offset)
    }
    guard byteCount > 0 else { return transport.answer(slot, error: 0, byteCount: 0) }
    let start = offset & ~sectorMask
    let end = (offset &+ UInt64(byteCount) &+ sectorMask) & ~sectorMask
    table[slot].skip = Int(offset &- start)
    table[slot].byteCount = byteCount
    begin(slot, .reading, .read, from: start, to: end)
  }

  /// WRITE: at once if it is whole sectors, alone if it is not; up to the end of the disk, as a block device does it.
  @inlinable
  mutating func write(_ slot: Int, payloadByteCount: Int) {
    counters.add(to: .writes)
    let arguments = transport.arguments(slot)
    let offset = arguments.load(UInt64.self, at: 8)
    var byteCount = Int(arguments.load(UInt32.self, at: 16))
    guard byteCount <= maximumTransfer, byteCount <= payloadByteCount else {
      return refuse(slot, FuseErrno.invalid)
    }
    guard !isReadOnly else { return fail(slot, FuseErrno.readOnly) }
    if offset > diskByteCount || UInt64(byteCount) > diskByteCount &- offset {
      byteCount = clip(byteCount, at: offset)
      guard byteCount > 0 else { return fail(slot, FuseErrno.noSpace) }
    }
    guard byteCount > 0 else { return answerWrite(slot, 0) }
    table[slot].byteCount = byteCount
    let end = offset &+ UInt64(byteCount)
    guard (offset | end) & sectorMask == 0 else {
      return writePartialSectors(slot, offset: offset, byteCount: byteCount)
    }
    admitWrite()
    noteNeighbour(from: offset, to: end)
    begin(slot, .writing, .write, from: offset, to: end)
  }

  /// The part of `byteCount` bytes at `offset` that lies on the disk, which may have grown since the last look.
  @inlinable @inline(never)
  mutating func clip(_ byteCount: Int, at offset: UInt64) -> Int {
    refreshSize()
    guard offset < diskByteCount else { return 0 }
    return Int(min(UInt64(byteCount), diskByteCount &- offset))
  }

  /// Looks at the disk's size anew.
  @inlinable
  mutating func refreshSize() { diskByteCount = device.geometry.byteCount & ~sectorMask }

  /// Gives the device a request for whole sectors, with the slot's buffer for one that moves data.
  @inlinable
  mutating func begin(
    _ slot: Int, _ stage: FuseSlot.Stage, _ operation: IOOperation, from start: UInt64, to end: UInt64
  ) {
    let shift = UInt64(PageGeometry.sectorShift)
    let sectors = SectorRange(start: start >> shift, count: (end &- start) >> shift)
    table[slot].stage = stage
    table[slot].operation = operation
    table[slot].sectors = sectors
    if operation == .read || operation == .write {
      let byteCount = Int(end &- start)
      batchedBytes &+= byteCount
      _ = table.memory(slot, address: buffer(slot).address, byteCount: byteCount)
    }
    submit(slot)
  }

  /// Submits what the slot says, or puts it in the queue of those that the device had no room for.
  @inlinable
  mutating func submit(_ slot: Int) {
    guard deferred.count == 0, offer(slot) else { return deferred.append(slot) }
  }

  /// Whether the device took the slot's request.
  @inlinable
  mutating func offer(_ slot: Int) -> Bool {
    let state = table[slot]
    let moves = state.operation == .read || state.operation == .write
    return queue.submit(
      IORequest(
        tag: UInt64(slot), operation: state.operation, sectors: state.sectors,
        memory: moves ? table.memory(slot) : nil)) == .accepted
  }

  /// Answers a request that the device or the disk's limits made fail.
  @inlinable @inline(never)
  mutating func fail(_ slot: Int, _ error: CInt) {
    counters.add(to: .failures)
    transport.answer(slot, error: answerable(error), byteCount: 0)
  }

  /// Answers a request that makes no sense.
  @inlinable @inline(never)
  mutating func refuse(_ slot: Int, _ error: CInt) {
    counters.add(to: .malformed)
    fail(slot, error)
  }

  /// Answers a WRITE with the bytes that it wrote.
  @inlinable
  mutating func answerWrite(_ slot: Int, _ byteCount: Int) {
    let area = transport.answerArea(slot)
    area.store(UInt64(byteCount), at: 0)
    counters.add(UInt64(byteCount), to: .bytesWritten)
    transport.answer(slot, error: 0, byteCount: FuseSize.writeOut)
  }
}

/// An `errno` as the kernel takes it from a file system.
///
/// `ENOSYS` would switch the operation off for good, and a value out of range would be refused: the asker would see
/// neither.
@usableFromInline
func answerable(_ error: CInt) -> CInt {
  if error == FuseErrno.notImplemented { return FuseErrno.notSupported }
  return error > 0 && error < 512 ? error : FuseErrno.inputOutput
}
