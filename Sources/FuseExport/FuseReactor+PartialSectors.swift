// SPDX-License-Identifier: MIT

public import BlockIO
public import GuestMemory

/// Writes that begin or end inside a sector: they run alone (see ``WriteGate``), while the caller waits.
extension FuseReactor where Transport: ~Copyable {
  /// Counts a write as under way; waits while somebody writes alone.
  @inlinable
  mutating func admitWrite() {
    while !gate.enter() { waitAtGate() }
  }

  @inlinable @inline(never)
  mutating func waitAtGate() {
    drainWrites()
    transport.publish()
    gate.waitUntilOpen()
  }

  /// Waits until none of this reactor's writes is under way.
  @inlinable
  mutating func drainWrites() {
    while gate.inFlight > 0 {
      progress()
      if gate.inFlight > 0 { waitForProgress() }
    }
  }

  /// Sleeps until the device has something, taking no requests.
  @inlinable
  mutating func waitForProgress() {
    if queue.prepareToWait() == .maySleep { transport.waitForDevice() } else { transport.publish() }
  }

  /// Performs one request on the reactor's own behalf and waits for it: 0, or a positive `errno`.
  @inlinable
  mutating func perform(_ operation: IOOperation, _ sectors: SectorRange, memory: MemoryExtentList?) -> CInt {
    let request = IORequest(tag: Self.ownTag, operation: operation, sectors: sectors, memory: memory)
    ownResult = nil
    while queue.submit(request) == .full {
      progress()
      if queue.inFlight >= queue.capacity { waitForProgress() }
    }
    while true {
      progress()
      if let result = ownResult { return result }
      waitForProgress()
    }
  }

  /// A WRITE whose first or last sector is shared with bytes that it must keep.
  @inlinable @inline(never)
  mutating func writePartialSectors(_ slot: Int, offset: UInt64, byteCount: Int) {
    counters.add(to: .partialSectorWrites)
    let start = offset & ~sectorMask
    let lead = Int(offset &- start)
    let error = alone {
      // The payload moves up to its place between the bytes to keep.
      let buffer = $0.region(of: slot)
      buffer.move(from: buffer, at: 0, to: lead, byteCount: byteCount)
      return $0.mergeAndWrite(slot, buffer, start: start, lead: lead, byteCount: byteCount)
    }
    guard error == 0 else { return fail(slot, error) }
    answerWrite(slot, byteCount)
  }

  /// Runs `body` with no other write under way on any queue.
  @inlinable
  mutating func alone(_ body: (inout FuseReactor) -> CInt) -> CInt {
    drainWrites()
    transport.publish()
    gate.close()
    let error = body(&self)
    gate.open()
    noteWrite()
    return error
  }

  /// Completes the first and the last sector around `byteCount` bytes at `lead` in the buffer, and writes whole
  /// sectors.
  @inlinable
  mutating func mergeAndWrite(
    _ slot: Int, _ buffer: SharedRegion, start: UInt64, lead: Int, byteCount: Int
  ) -> CInt {
    let sectorSize = Int(sectorMask) + 1
    let total = (lead + byteCount + sectorSize - 1) / sectorSize * sectorSize
    let last = total - sectorSize
    let tail = lead + byteCount
    if lead > 0 {
      let error = readSector(at: start)
      guard error == 0 else { return error }
      buffer.move(from: region(of: scratch), at: 0, to: 0, byteCount: lead)
    }
    if tail < total {
      let error = readSector(at: start + UInt64(last))
      guard error == 0 else { return error }
      buffer.move(from: region(of: scratch), at: tail - last, to: tail, byteCount: total - tail)
    }
    let memory = table.memory(slot, address: buffer.address, byteCount: total)
    return perform(.write, sectors(start, total), memory: memory)
  }

  /// Makes everything that was written durable: 0, or a positive `errno`.
  @inlinable
  mutating func flush() -> CInt {
    isReadOnly ? 0 : perform(.flush, SectorRange(start: 0, count: 0), memory: nil)
  }

  /// Reads one logical sector into the scratch buffer.
  @inlinable
  mutating func readSector(at offset: UInt64) -> CInt {
    let count = Int(sectorMask) + 1
    let memory = table.memory(scratch, address: queue.buffer(scratch).address, byteCount: count)
    return perform(.read, sectors(offset, count), memory: memory)
  }

  /// The memory of a buffer.
  @inlinable
  func region(of slot: Int) -> SharedRegion {
    guard let region = buffer(slot).region else { preconditionFailure("the device gave no buffer \(slot)") }
    return region
  }

  /// The memory of a slot: a buffer of its queue, or of the neighbour whose request it is.
  @inlinable
  func buffer(_ slot: Int) -> MemoryExtent { slot <= scratch ? queue.buffer(slot) : transport.guestBuffer(slot) }

  /// A run of bytes as sectors.
  @inlinable
  func sectors(_ offset: UInt64, _ byteCount: Int) -> SectorRange {
    let shift = UInt64(PageGeometry.sectorShift)
    return SectorRange(start: offset >> shift, count: UInt64(byteCount) >> shift)
  }
}
