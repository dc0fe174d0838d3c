// SPDX-License-Identifier: MIT

public import BlockIO
import GuestMemory
public import SharedRing
import XenHypervisor
public import XenWire

extension FrontQueue {
  /// Judges a response by what was asked, and credits it to its I/O.
  ///
  /// A response that cannot be ours disables the queue.
  @inlinable
  mutating func finish(_ response: BlockResponse) {
    guard response.id < UInt64(shadows.count) else { return breakOff() }
    let id = Int(truncatingIfNeeded: response.id)
    let shadow = unsafe shadows.shadows[id]
    guard shadow.state == .waiting, shadow.operation == response.operation || ring.faults.has(.answersUnchecked) else {
      return breakOff()
    }
    let io = Int(shadow.io)
    note(.taken, id, UInt64(UInt16(bitPattern: response.status.rawValue)))
    if shadow.hasBounced || settlesEach {
      letGo(id, isOkay: response.status == .okay)
      if isBroken { return }
    }
    if response.status != .okay { fail(io, shadow.operation, response.status) }
    if shadow.isIndirect, runs.entries > 0 { runs.giveBack(of: id) }
    shadows.giveBack(id)
    unsafe table.ios[io].outstanding &-= 1
    if unsafe table.ios[io].outstanding == 0, unsafe table.ios[io].isIssued { settle(io) }
    if table.issueCount > 0 { canIssueMore = true }
  }

  /// Ends an I/O, or starts the flush that it still owes.
  @inlinable
  mutating func settle(_ io: Int) {
    if unsafe table.ios[io].owesFlush, unsafe table.ios[io].errorCode == 0 { return startOwedFlush(io) }
    if unsafe table.ios[io].tuples != 0 { settleTuples(io) }
    note(.finished, io, UInt64(unsafe table.ios[io].errorCode))
    if let latencies {
      let time = unsafe now &- table.ios[io].startedAt
      latencies.record(LatencyKind(unsafe table.ios[io].request.operation), nanoseconds: time)
    }
    table.finish(io)
  }

  @usableFromInline
  mutating func startOwedFlush(_ io: Int) {
    unsafe table.ios[io].owesFlush = false
    unsafe table.ios[io].request.operation = .flush
    unsafe table.ios[io].isIssued = false
    table.enqueueForIssue(io)
    canIssueMore = true
  }

  /// Notes an error; an optional request that the backend refuses is not asked for again, and a refused flush counts as
  /// done, as in blkfront.
  @usableFromInline
  mutating func fail(_ io: Int, _ operation: BlockOperation, _ status: BlockStatus) {
    var code = FrontQueueErrno.ioError
    if status == .unsupported {
      code = FrontQueueErrno.notSupported
      if operation == .discard {
        abilities.canDiscard = false
      } else if operation == .flushDiskCache || operation == .writeBarrier {
        if operation == .flushDiskCache { abilities.canFlush = false } else { abilities.canBarrier = false }
        code = 0
      }
    }
    if unsafe table.ios[io].errorCode == 0 { unsafe table.ios[io].errorCode = code }
  }

  /// Ends the grants of one request, and copies out what was read into bounce pages.
  @usableFromInline
  mutating func letGo(_ id: Int, isOkay: Bool) {
    let shadow = unsafe shadows.shadows[id]
    let hasLeft = abilities.isPersistent || endGrants(id, shadow)
    if !hasLeft, !ring.faults.has(.accessEndedByForce) { return breakOff() }
    if protection != .off, shadow.segmentCount > 0 { checkProtection(id, shadow, isOkay: isOkay) }
    guard shadow.hasBounced else { return }
    for index in 0..<Int(shadow.segmentCount) {
      let piece = unsafe shadows.pieces[id * shadows.segments + index]
      guard piece.target != 0 else { continue }
      if isOkay, shadow.operation == .read {
        let byteCount = (Int(piece.lastSector) + 1) << PageGeometry.sectorShift
        copyBytes(
          from: MemoryExtent(address: arena.address(Int(piece.page)), byteCount: byteCount),
          to: MemoryExtent(address: piece.target, byteCount: byteCount))
      }
      arena.giveBackBounce(Int(piece.page))
    }
    unsafe shadows.shadows[id].hasBounced = false
  }

  /// Ends access to each page of a request.
  ///
  /// One that the backend still maps is its fault: such a page must never be used for anything else (XSA-396).
  private mutating func endGrants(_ id: Int, _ shadow: Shadow) -> Bool {
    var hasEnded = true
    let first = id * shadows.referencesPerSlot
    for index in 0..<Int(shadow.segmentCount) {
      if unsafe !platform.endAccess(shadows.references[first + index]) { hasEnded = false }
    }
    if shadow.isIndirect, descriptorPagesPerSlot > 0 {
      for page in 0..<descriptorPages(for: Int(shadow.segmentCount)) {
        if unsafe !platform.endAccess(shadows.references[first + abilities.maxSegments + page]) { hasEnded = false }
      }
    }
    return hasEnded
  }

  /// Stops trusting the backend: every I/O in hand ends with `EIO`.
  @usableFromInline
  mutating func breakOff() {
    guard !isBroken else { return }
    isBroken = true
    counters.add(1, to: FrontCounter.bad_responses.rawValue)
    endAll(with: FrontQueueErrno.ioError)
  }
}
