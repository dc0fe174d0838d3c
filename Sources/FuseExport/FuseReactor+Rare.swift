// SPDX-License-Identifier: MIT

public import BlockIO
public import GuestMemory

/// Everything that is not READ or WRITE.
extension FuseReactor where Transport: ~Copyable {
  @inlinable @inline(never)
  mutating func handleRare(_ slot: Int, _ opcode: UInt32, payloadByteCount: Int) {
    switch opcode {
    case FuseOpcode.fsync:
      counters.add(to: .flushes)
      begin(slot, .flushing, .flush, from: 0, to: 0)
    case FuseOpcode.fallocate:
      counters.add(to: .allocations)
      allocate(slot)
    case FuseOpcode.lseek:
      counters.add(to: .others)
      seek(slot)
    default:
      counters.add(to: .others)
      answerFromNamespace(slot, opcode, payloadByteCount: payloadByteCount)
    }
  }

  @inlinable
  mutating func answerFromNamespace(_ slot: Int, _ opcode: UInt32, payloadByteCount: Int) {
    let exchange = FuseNamespace.Exchange(
      header: transport.header(slot), arguments: transport.arguments(slot), payload: region(of: slot),
      payloadByteCount: payloadByteCount,
      area: transport.answerArea(slot), disk: diskExtent())
    switch namespace.answer(opcode, exchange) {
    case .small(let error, let byteCount): transport.answer(slot, error: error, byteCount: byteCount)
    case .payload(let byteCount): transport.answerPayload(slot, from: 0, byteCount: byteCount)
    case .none: transport.release(slot)
    }
  }

  /// What the disk's attributes are to say.
  @inlinable
  mutating func diskExtent() -> DiskExtent {
    refreshSize()
    var generation: UInt64 = 0
    for seat in 0..<gate.seatCount { generation &+= writeCounts.word64(at: seat &* 8).loadRelaxed() }
    return DiskExtent(
      byteCount: diskByteCount, allocatedSectors: allocatedBytes() / UInt64(PageGeometry.sectorSize),
      generation: generation)
  }

  /// Bytes that are not known to be holes.
  ///
  /// It looks at no more than the first holes, and counts the rest as data: enough for `cp` and `tar` to see that the
  /// file is sparse, at a bounded cost.
  @inlinable
  func allocatedBytes() -> UInt64 {
    var allocated: UInt64 = 0
    var position: UInt64 = 0
    for _ in 0..<16 {
      guard position < diskByteCount, let data = device.nextData(from: position), data < diskByteCount else {
        return allocated
      }
      position = min(device.nextHole(from: data), diskByteCount)
      guard position > data else { break }
      allocated += position - data
    }
    return position < diskByteCount ? allocated + (diskByteCount - position) : allocated
  }

  /// LSEEK: data and holes as the device knows them.
  @inlinable
  mutating func seek(_ slot: Int) {
    let arguments = transport.arguments(slot)
    let offset = arguments.load(UInt64.self, at: 8)
    let whence = arguments.load(UInt32.self, at: 16)
    refreshSize()
    guard offset < diskByteCount else { return transport.answer(slot, error: FuseErrno.noSuchAddress, byteCount: 0) }
    let found: UInt64?
    switch whence {
    case 3: found = device.nextData(from: offset).flatMap { $0 < diskByteCount ? $0 : nil }
    case 4: found = min(device.nextHole(from: offset), diskByteCount)
    default: return transport.answer(slot, error: FuseErrno.invalid, byteCount: 0)
    }
    guard let found else { return transport.answer(slot, error: FuseErrno.noSuchAddress, byteCount: 0) }
    transport.answerArea(slot).store(found, at: 0)
    transport.answer(slot, error: 0, byteCount: FuseSize.lseekOut)
  }
}
