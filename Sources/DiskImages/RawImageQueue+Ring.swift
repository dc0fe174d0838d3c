// SPDX-License-Identifier: MIT

public import BlockIO
import CLinux
import Glibc
import GuestMemory
import Synchronization

/// The slow half: requests that have to wait for something go through a slot and the ring.
extension RawImageQueue {
  /// Starts what could not be finished at once; `moved` is what the page cache took or gave, or its negative `errno`.
  @usableFromInline @inline(never)
  mutating func start(_ request: IORequest, moved: Int) {
    switch request.operation {
    case .read, .write: startTransfer(request, moved: moved)
    case .flush: startFlush(request.tag)
    case .discard, .secureDiscard, .writeZeroes: startRange(request)
    }
  }

  private mutating func startTransfer(_ request: IORequest, moved: Int) {
    guard request.sectors.count > 0 else { return complete(request.tag, 0) }
    var moved = moved
    if request.operation == .write && mayWriteInline(request, moved: moved), let memory = request.memory {
      moved = ImageSystemCalls.write(file.descriptor, memory, offset: request.sectors.byteOffset, flags: 0)
      ledger.noteWrite()
      if moved > 0 && UInt64(moved) == request.sectors.byteCount { return complete(request.tag, 0) }
    }
    if Self.isFinal(moved) { return complete(request.tag, CInt(-moved)) }
    let index = takeSlot(request)
    slots[index].memory = request.memory
    slots[index].step = request.operation == .read ? .read : .write
    slots[index].forceUnitAccess = request.forceUnitAccess && file.cache != .unsafe
    slots[index].move(by: UInt64(max(moved, 0)))
    prepare(index)
  }

  /// Whether what the page cache answered is an error that the ring would only meet again.
  ///
  /// EINVAL is not: it may mean more vectors than one call takes, and the ring takes them in parts.
  private static func isFinal(_ moved: Int) -> Bool {
    switch CInt(-moved) {
    case EAGAIN, EINTR, EOPNOTSUPP, EINVAL: false
    default: moved < 0
    }
  }

  /// Whether a write that was not made yet can go to the page cache here and now after all: the file system has turned
  /// out not to know `RWF_NOWAIT`, or the write is of parts of pages and those are in the page cache.
  private mutating func mayWriteInline(_ request: IORequest, moved: Int) -> Bool {
    guard cachedWrites.isTried && !(request.forceUnitAccess && file.cache != .unsafe) else { return false }
    if moved == -Int(EOPNOTSUPP) {
      cachedWrites = .plain
      return true
    }
    guard moved == 0 else { return false }
    if cachedReads == .plain { return true }
    let end = request.sectors.byteOffset + request.sectors.byteCount
    return ImageSystemCalls.isCached(file.descriptor, at: request.sectors.byteOffset)
      && ImageSystemCalls.isCached(file.descriptor, at: end - 1)
  }

  private mutating func startRange(_ request: IORequest) {
    guard request.sectors.count > 0 else { return complete(request.tag, 0) }
    let step: RequestSlot.Step
    switch request.operation {
    case .writeZeroes: step = zeroingStep
    case .secureDiscard:
      guard file.isSecureDiscardSupported else { return complete(request.tag, EOPNOTSUPP) }
      step = .secureData
    default:
      guard file.discard != nil, !ledger.discardIsUnsupported.load(ordering: .relaxed) else {
        return complete(request.tag, EOPNOTSUPP)
      }
      step = file.isBlockDevice ? .blockDiscard : .punch
    }
    let index = takeSlot(request)
    slots[index].step = step
    prepare(index)
  }

  /// A flush is answered by an `fdatasync(2)` that starts after it came: its own, or one that another flush has prepared
  /// and the kernel has not seen.
  private mutating func startFlush(_ tag: UInt64) {
    if file.isReadOnly || file.cache == .unsafe { return complete(tag, 0) }
    if ledger.isClean {
      let failures = ledger.writebackFailures
      let isNews = failures.generation != reportedFailures
      reportedFailures = failures.generation
      return complete(tag, isNews ? failures.errorCode : 0)
    }
    let index = takeSlot(IORequest(tag: tag, operation: .flush, sectors: SectorRange(start: 0, count: 0)))
    slots[index].failureGeneration = reportedFailures
    if let leader = preparedSync {
      slots[index].step = .joinedSync
      slots[index].next = slots[leader].next
      slots[leader].next = Int32(index)
    } else {
      slots[index].step = .sync
      preparedSync = index
      ledger.beginSync()
      prepare(index)
    }
  }

  private mutating func takeSlot(_ request: IORequest) -> Int {
    let index = slots.take()
    var slot = RequestSlot()
    slot.tag = request.tag
    slot.start = request.sectors.byteOffset
    slot.byteCount = request.sectors.byteCount
    slots[index] = slot
    slottedCount += 1
    return index
  }

  /// Prepares the ring entry for the slot's step.
  private mutating func prepare(_ index: Int) {
    let slot = slots[index]
    let descriptor = file.descriptor
    let offset = slot.start + slot.moved
    let punt = slot.retryCount > 0
    switch slot.step {
    case .read:
      ring.read(index, descriptor, slots.fillWindow(index), offset: offset, flags: 0, punt: punt)
    case .write:
      let flags = slot.forceUnitAccess ? pv_rwf_dsync : 0
      ring.write(index, descriptor, slots.fillWindow(index), offset: offset, flags: flags, punt: punt)
    case .zeroData, .secureData:
      let window = slots.fillWindow(index, repeating: file.zeros)
      ring.write(index, descriptor, window, offset: offset, flags: 0, punt: punt)
    case .sync, .secureSync:
      ring.dataSync(index, descriptor)
    case .blockDiscard, .blockDiscardAgain:
      ring.blockDiscard(index, descriptor, offset: slot.start, byteCount: slot.byteCount)
    case .punch, .zeroPunch, .securePunch:
      let mode = pv_falloc_punch_hole | pv_falloc_keep_size
      ring.allocate(index, descriptor, mode: mode, offset: slot.start, byteCount: slot.byteCount)
    case .zeroRange:
      let mode = pv_falloc_zero_range | pv_falloc_keep_size
      ring.allocate(index, descriptor, mode: mode, offset: slot.start, byteCount: slot.byteCount)
    case .joinedSync:
      preconditionFailure("a joined flush has no entry of its own")
    }
  }

  /// Enters the kernel when there is reason to, and works off the results, until neither gives anything new.
  @usableFromInline @inline(never)
  mutating func advanceRing() {
    while true {
      if ring.needsEnter {
        preparedSync = nil
        if !ring.enter() && !ring.hasResult { return }
      }
      guard ring.hasResult else { return }
      while let (index, value) = ring.takeResult() { finish(index, value) }
    }
  }

  /// Empties the wait descriptor first and looks for work second, so that whatever comes later makes it readable again.
  @usableFromInline @inline(never)
  mutating func armWaitDescriptor() -> WaitReadiness {
    guard ring.isEnabled else { return .maySleep }
    ring.drainWaitDescriptor()
    return ring.hasResult || ring.needsEnter ? .workPending : .maySleep
  }

  private mutating func finish(_ index: Int, _ value: Int32) {
    var slot = slots[index]
    let step = slot.step
    let outcome = slot.advance(result: value)
    slots[index] = slot
    guard case .done(let errorCode) = outcome else {
      if slot.step == .zeroPunch || slot.step == .zeroData { zeroingStep = slot.step }
      return prepare(index)
    }
    switch step {
    case .read: break
    case .sync: return finishSync(index, errorCode)
    case .blockDiscard where errorCode == 0 && hasStalePages(slot):
      slots[index].step = .blockDiscardAgain
      return prepare(index)
    case .punch, .blockDiscard:
      if errorCode == EOPNOTSUPP { ledger.discardIsUnsupported.store(true, ordering: .relaxed) }
      ledger.noteWrite()
    case .secureSync where errorCode != 0:
      ledger.noteFailure(errorCode)
    case .write where errorCode != 0 && slot.forceUnitAccess:
      // The kernel tells of a failed writeback once, and this call may have been it.
      ledger.noteFailure(errorCode)
    default: ledger.noteWrite()
    }
    release(index, errorCode)
  }

  /// Whether the page cache may hold what a discarded range held before.
  ///
  /// `BLOCK_URING_CMD_DISCARD` drops the range from the page cache *before* the device discards it, and keeps nobody from
  /// reading meanwhile (Linux block/ioctl.c, blkdev_cmd_discard): read-ahead of a neighbour brings the old contents back.
  /// The command once more drops them for good.
  private func hasStalePages(_ slot: RequestSlot) -> Bool {
    file.isBlockDevice && file.cache != .none
      && pv_cached_pages(file.descriptor, slot.start, slot.byteCount) != 0
  }

  /// Answers every flush that waited for a sync: with its error, or with that of a sync which failed meanwhile.
  private mutating func finishSync(_ leader: Int, _ errorCode: CInt) {
    ledger.endSync(errorCode: errorCode)
    let failures = ledger.writebackFailures
    var index = Int32(leader)
    while index >= 0 {
      let slot = slots[Int(index)]
      let hasFailed = failures.generation != slot.failureGeneration
      release(Int(index), hasFailed ? failures.errorCode : 0)
      index = slot.next
    }
    reportedFailures = failures.generation
  }

  private mutating func release(_ index: Int, _ errorCode: CInt) {
    complete(slots[index].tag, errorCode)
    slots.give(back: index)
    slottedCount -= 1
  }
}
