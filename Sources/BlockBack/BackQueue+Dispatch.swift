// SPDX-License-Identifier: MIT

public import BlockIO
public import GuestMemory
public import SharedRing
public import XenWire

extension BackQueue where Image: ~Copyable {
  /// Judges the private copy in `slot` and starts what it asks for.
  @inlinable
  mutating func dispatch<Format: RingFormat>(_ request: Int, _ slot: borrowing RequestSlot<Format>) {
    let operation = slot.operation
    unsafe pending.requests[request] = PendingRequest(
      id: slot.id, sector: slot.sector, operation: operation, stage: .transferring)
    if Format.protectionOffset >= 0, protection == .slot {
      unsafe pending.extras[request].tuple = slot.protection
    }
    if Format.descriptorsCarrySectors { unsafe pending.extras[request].range = 0 }
    if operation == .read || operation == .write {
      dispatchDirect(request, operation, slot)
    } else if operation == .indirect, Format.indirectPages > 0 {
      dispatchIndirect(request, slot)
    } else if operation == .segmentRun, Format.runOffset >= 0 {
      dispatchRun(request, slot)
    } else {
      dispatchOther(request, operation, slot)
    }
  }

  @inlinable
  mutating func dispatchDirect<Format: RingFormat>(
    _ request: Int, _ operation: BlockOperation, _ slot: borrowing RequestSlot<Format>
  ) {
    let count = slot.directSegmentCount
    guard count > 0 || ring.faults.has(.emptyTransferStarts), count <= directLimit else {
      return finish(request, .error)
    }
    for index in 0..<count { unsafe scratch.segments[index] = slot.directSegment(index).bits }
    transfer(request, operation, segmentCount: count)
  }

  /// Checks the segments in `scratch`, finds their pages and starts the I/O.
  @inlinable
  mutating func transfer(_ request: Int, _ operation: BlockOperation, segmentCount: Int) {
    counters.add(UInt64(segmentCount), to: QueueCounter.segments.rawValue)
    var sectorCount: UInt64 = 0
    let dataCount = protection == .sector ? dataSegments(of: segmentCount) : segmentCount
    guard dataCount > 0 || protection != .sector else { return finish(request, .error) }
    for index in 0..<dataCount {
      let segment = unsafe Segment(bits: scratch.segments[index])
      guard segment.isValid, UInt64(segment.sectorCount) & validator.sectorMask == 0 else {
        return finish(request, .error)
      }
      sectorCount &+= UInt64(segment.sectorCount)
      unsafe scratch.missing[index] = segment.reference
    }
    let sector = unsafe pending.requests[request].sector
    unsafe pending.requests[request].sectorCount = sectorCount
    let isRead = operation == .read
    guard isRead || !validator.isReadOnly, validator.validate(start: sector, count: sectorCount) != nil else {
      return finish(request, .error)
    }
    guard mapPages(request, count: segmentCount, writable: abilities.isPersistent || isRead) else {
      return finish(request, .error)
    }
    if ring.faults.has(.slotReadAgain) { readSlotAgain(segmentCount: segmentCount) }
    for index in 0..<dataCount {
      if ring.faults.has(.strangersMerged), index > 0 { mergeStranger(index) }
      let segment = unsafe Segment(bits: scratch.segments[index])
      let offset = UInt(segment.firstSector) << UInt(PageGeometry.sectorShift)
      unsafe pending.append(
        scratch.addresses[index] &+ offset, byteCount: segment.sectorCount << PageGeometry.sectorShift, to: request)
    }
    if protection == .sector { appendTuples(request, from: dataCount, to: segmentCount) }
    start(request, operation)
  }

  /// Hands a request whose pages are in place to the image, flushing or waiting first where the operation says so.
  @inlinable
  mutating func start(_ request: Int, _ operation: BlockOperation) {
    if operation == .read { return submit(request, .read) }
    if protection != .off, !isVouchedFor(request) { return finish(request, .error) }
    if operation == .write {
      submit(request, .write)
    } else {
      startOrdered(request, operation)
    }
  }

  @inlinable
  mutating func submit(_ request: Int, _ operation: IOOperation) {
    let wire = unsafe pending.requests[request]
    guard let range = validator.validate(start: wire.sector, count: wire.sectorCount) else {
      return finish(request, .error)
    }
    let io = IORequest(
      tag: UInt64(request), operation: operation, sectors: range.sectors,
      memory: wire.extentCount > 0 ? pending.extentList(request) : nil)
    guard case .accepted = image.submit(io) else { preconditionFailure("the image takes a whole ring of requests") }
  }
}

extension BackQueue where Image: ~Copyable {
  /// Flush, barrier, discard, and what nobody knows.
  @usableFromInline
  mutating func dispatchOther<Format: RingFormat>(
    _ request: Int, _ operation: BlockOperation, _ slot: borrowing RequestSlot<Format>
  ) {
    if operation == .flushDiskCache || operation == .writeBarrier {
      let isOffered = operation == .flushDiskCache ? abilities.canFlush : abilities.canBarrier
      guard isOffered else { return finish(request, .unsupported) }
      dispatchFlush(request, operation, slot)
    } else if operation == .discard {
      dispatchDiscard(request, slot)
    } else {
      finish(request, .unsupported)
    }
  }

  mutating func dispatchFlush<Format: RingFormat>(
    _ request: Int, _ operation: BlockOperation, _ slot: borrowing RequestSlot<Format>
  ) {
    let count = slot.directSegmentCount
    guard count <= directLimit, !validator.isReadOnly else { return finish(request, .error) }
    counters.add(1, to: QueueCounter.f_req.rawValue)
    if count == 0 {
      unsafe pending.requests[request].sector = 0
      return startOrdered(request, operation)
    }
    for index in 0..<count { unsafe scratch.segments[index] = slot.directSegment(index).bits }
    transfer(request, operation, segmentCount: count)
  }

  /// A flush goes first; a barrier also waits until nothing else is under way, and holds up what comes after it.
  @usableFromInline
  mutating func startOrdered(_ request: Int, _ operation: BlockOperation) {
    if operation == .writeBarrier {
      unsafe pending.requests[request].stage = .draining
      barrier = request
    } else {
      startFlush(request)
    }
  }

  @usableFromInline
  mutating func startFlush(_ request: Int) {
    unsafe pending.requests[request].stage = .flushing
    let io = IORequest(tag: UInt64(request), operation: .flush, sectors: SectorRange(start: 0, count: 0))
    guard case .accepted = image.submit(io) else { preconditionFailure("the image takes a whole ring of requests") }
  }

  @usableFromInline
  mutating func releaseBarrier() {
    guard pending.used == 1, unsafe pending.requests[barrier].stage == .draining else { return }
    startFlush(barrier)
    image.advance()
    while let done = image.nextCompletion() { imageFinished(Int(done.tag), errorCode: done.errorCode) }
  }

  mutating func dispatchDiscard<Format: RingFormat>(_ request: Int, _ slot: borrowing RequestSlot<Format>) {
    let isSecure = slot.discardFlag & BlockLimits.discardSecureFlag != 0 && abilities.canDiscardSecurely
    let count = slot.discardCount
    unsafe pending.requests[request].sectorCount = count
    guard abilities.canDiscard else { return finish(request, .unsupported) }
    let sector = unsafe pending.requests[request].sector
    guard !validator.isReadOnly, count > 0, validator.validate(start: sector, count: count) != nil else {
      return finish(request, .error)
    }
    counters.add(1, to: QueueCounter.ds_req.rawValue)
    submit(request, isSecure ? .secureDiscard : .discard)
  }
}
