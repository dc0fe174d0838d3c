// SPDX-License-Identifier: MIT

public import BlockIO
public import SharedRing
public import XenHypervisor
public import XenWire

extension BackQueue where Image: ~Copyable {
  /// Finds or maps the pages whose references stand in `scratch.missing[0..<count]`, and writes their addresses to
  /// `scratch.addresses`.
  ///
  /// What was taken is noted in the request, so that `releasePages` undoes exactly that, also after a failure
  /// (blkback's `xen_blkbk_map`; XSA-365: the first failure condemns the request and nothing is touched).
  @inlinable
  mutating func mapPages(_ request: Int, count: Int, writable: Bool) -> Bool {
    precondition(count <= scratch.capacity, "more pages than a request can have")
    guard abilities.isPersistent else {
      for index in 0..<count { unsafe scratch.missingIndex[index] = Int32(truncatingIfNeeded: index) }
      return mapMissing(request, count: count, writable: writable)
    }
    var missing = 0
    for index in 0..<count {
      let reference = unsafe scratch.missing[index]
      if case .hit(let address) = cache.acquire(reference) {
        unsafe scratch.addresses[index] = address
        pending.keepReference(reference, of: request)
      } else {
        unsafe scratch.missing[missing] = reference
        unsafe scratch.missingIndex[missing] = Int32(truncatingIfNeeded: index)
        missing &+= 1
      }
    }
    counters.add(UInt64(count &- missing), to: QueueCounter.grants_reused.rawValue)
    return missing == 0 || mapMissing(request, count: missing, writable: writable)
  }

  /// Maps `scratch.missing[0..<count]`; a page that the cache has room for stays, the others go with the request.
  @usableFromInline
  mutating func mapMissing(_ request: Int, count: Int, writable: Bool) -> Bool {
    guard pool.take(count, from: platform) else { return false }
    // SAFETY: both lists hold `capacity` >= count initialised elements that nobody else touches meanwhile.
    let references = unsafe UnsafeBufferPointer(start: scratch.missing, count: count).span
    var results = unsafe UnsafeMutableBufferPointer(start: scratch.results, count: count).mutableSpan
    platform.map(references, of: peer, writable: writable, into: &results)
    note(.mapped, unsafe pending.requests[request].id, UInt64(count))
    var isComplete = true
    for index in 0..<count {
      let result = unsafe scratch.results[index]
      guard result.status == .okay else {
        precondition(!ring.faults.has(.failedMappingStops), "a page could not be mapped")
        isComplete = false
        pool.put(1)
        continue
      }
      if ring.faults.has(.lastMappingDecides) { isComplete = true }
      counters.add(1, to: QueueCounter.grants_mapped.rawValue)
      unsafe scratch.addresses[Int(scratch.missingIndex[index])] = result.address
      let reference = unsafe scratch.missing[index]
      if abilities.isPersistent, keep(reference, result) {
        pending.keepReference(reference, of: request)
      } else {
        pending.keepHandle(result.handle, of: request)
      }
    }
    if !isComplete { shrinkPool() }
    return isComplete
  }

  mutating func keep(_ reference: GrantReference, _ mapping: GrantMapping) -> Bool {
    if cache.mustEvictToInsert, let oldest = cache.evictOldest() {
      BackQueue.unmapOne(oldest, platform)
      pool.put(1)
      counters.add(1, to: QueueCounter.grants_evicted.rawValue)
      counters.add(1, to: QueueCounter.grants_unmapped.rawValue)
    }
    let isKept = cache.insert(reference, address: mapping.address, handle: mapping.handle)
    if isKept { counters.set(UInt64(cache.count), at: QueueCounter.grants_persistent.rawValue) }
    return isKept
  }

  /// Lets go of every page that a request holds: kept ones become idle, the others are unmapped in one batch.
  @inlinable
  mutating func releasePages(_ request: Int) {
    let first = request &* pending.perRequest
    let kept = unsafe Int(pending.requests[request].persistentCount)
    for index in 0..<kept { unsafe cache.release(pending.references[first &+ index], now: now) }
    unsafe pending.requests[request].persistentCount = 0
    if unsafe pending.requests[request].mappedCount > 0 { unmapPages(request) }
  }

  @usableFromInline
  mutating func unmapPages(_ request: Int) {
    let count = unsafe Int(pending.requests[request].mappedCount)
    // SAFETY: the request's own part of `handles`, `count` of which were initialised by `keepHandle`.
    let handles = unsafe UnsafeBufferPointer(start: pending.handles + request * pending.perRequest, count: count).span
    let isComplete = platform.unmap(handles)
    precondition(isComplete, "a handle of ours was not mapped")
    unsafe pending.requests[request].mappedCount = 0
    pool.put(count)
    shrinkPool()
    counters.add(UInt64(count), to: QueueCounter.grants_unmapped.rawValue)
  }

  /// Takes the image's word for one part of a request: goes on to the next part, or answers.
  @inlinable
  mutating func imageFinished(_ request: Int, errorCode: CInt) {
    note(.moved, unsafe pending.requests[request].id, UInt64(errorCode))
    if unsafe pending.requests[request].stage == .flushing, errorCode == 0,
      unsafe pending.requests[request].extentCount > 0
    {
      unsafe pending.requests[request].stage = .transferring
      return submit(request, .write)
    }
    if unsafe pending.requests[request].rangesLeft > 0, errorCode == 0 { return startNextRange(request) }
    finish(request, errorCode == 0 ? .okay : failure(request, errorCode))
  }

  @usableFromInline
  func failure(_ request: Int, _ errorCode: CInt) -> BlockStatus {
    let operation = unsafe pending.requests[request].operation
    let canBeUnsupported = operation != .read && operation != .write
    guard canBeUnsupported, errorCode == 95 else { return .error }
    if operation == .flushDiskCache || operation == .writeBarrier { withdraw(operation) }
    return .unsupported
  }

  /// Lets go of the request's pages and puts its response on the ring.
  @inlinable
  mutating func finish(_ request: Int, _ status: BlockStatus) {
    if protection != .off { protectResponse(request, status) }
    if ring.faults.has(.failureKeepsPages), status != .okay { unsafe pending.requests[request].persistentCount = 0 }
    releasePages(request)
    let wire = unsafe pending.requests[request]
    note(.answered, wire.id, UInt64(UInt16(bitPattern: status.rawValue)))
    if request == barrier { barrier = -1 }
    pending.giveBack(request)
    if Platform.outlivesProcess, taken.isKept { taken.answer(request, as: ring.privateResponseProducer) }
    ring.enqueue(BlockResponse(id: wire.id, operation: wire.operation, status: status))
    count(wire, status)
  }

  @inlinable
  mutating func count(_ wire: PendingRequest, _ status: BlockStatus) {
    counters.add(1, to: QueueCounter.responses.rawValue)
    if status != .okay {
      let counter = status == .unsupported ? QueueCounter.unsupported_req : .err_req
      counters.add(1, to: counter.rawValue)
    } else if wire.operation == .read {
      counters.add(1, to: QueueCounter.rd_req.rawValue)
      counters.add(wire.sectorCount, to: QueueCounter.rd_sect.rawValue)
    } else if wire.extentCount > 0 {
      counters.add(1, to: QueueCounter.wr_req.rawValue)
      counters.add(wire.sectorCount, to: QueueCounter.wr_sect.rawValue)
    }
  }
}
