// SPDX-License-Identifier: MIT

public import BlockIO
public import GuestMemory
public import Protection
public import SharedRing
public import XenHypervisor
public import XenWire

/// One queue of a backend: takes requests off a ring, moves their data, answers (blkback's `xen_blkif_ring`).
///
/// Stages of a request, each a method: `serveRequests` copies it out of the ring once, `dispatch…` judges the copy,
/// `mapSegments` finds or maps its pages, the image moves the bytes, `finish` lets go of the pages and answers.
/// Owned by one thread; nothing here allocates, locks or waits. Only `serveRequests` knows the wire format: it chooses once a
/// batch the code that is specialised for the connection's.
///
/// **Assumptions.** The image's queue takes as many requests as the ring has slots.
public struct BackQueue<Platform: BackendPlatform, Image: BlockQueue & ~Copyable>: ~Copyable {
  @usableFromInline let platform: Platform
  @usableFromInline let peer: DomainID
  /// The local port; its peer is the frontend's.
  public let port: EventPort
  @usableFromInline let ringPages: ContiguousMapping
  @usableFromInline let format: SlotFormat
  /// Segments that a request may have in its own slot.
  @usableFromInline let directLimit: Int
  /// Segments that a request may have elsewhere.
  @usableFromInline let longLimit: Int
  @usableFromInline var ring: BackRing
  @usableFromInline var image: Image
  @usableFromInline var validator: RequestValidator
  @usableFromInline let abilities: BackAbilities
  @usableFromInline let slotMemory = SlotMemory()
  @usableFromInline var pending: PendingRequests
  @usableFromInline var scratch: MappingScratch
  @usableFromInline var cache: PersistentGrantCache
  var pool: FreePagePool
  let squeezeNanoseconds: UInt64
  @usableFromInline let counters: CounterWriter
  @usableFromInline let policy: NotificationPolicy
  @usableFromInline var coalescer = KickCoalescer()
  @usableFromInline let protection: RingProtection
  @usableFromInline let scanner: ProtectionScanner?
  let findings: ProtectionFindings?
  private let onWithdrawal: (@Sendable (BlockOperation) -> Void)?
  @usableFromInline var barrier: Int = -1
  @usableFromInline var now: UInt64 = 0
  /// What was taken and not answered, where the next process finds it; only on a platform that outlives this one.
  @usableFromInline var taken: TakenRequests
  /// Whether no further requests are taken, because the owner is about to let go.
  @usableFromInline var isDraining = false
  /// Whether the frontend broke the ring's rules: nothing is served any more until it reconnects.
  public internal(set) var isBroken = false

  /// Joins the parts of a queue that the handshake brought together.
  public init(
    connection: BackConnection<Platform>, ring: consuming BackRing, cache: consuming PersistentGrantCache,
    image: consuming Image, geometry: BlockGeometry, counters: CounterWriter
  ) {
    platform = connection.platform
    peer = connection.peer
    port = connection.port
    ringPages = connection.ringPages
    abilities = connection.abilities
    policy = connection.policy
    protection = connection.plan.protection
    scanner =
      connection.plan.protection == .off
      ? nil : ProtectionScanner(form: ProtectionForm(connection.plan.protectionProfile))
    findings = connection.findings
    onWithdrawal = connection.onWithdrawal
    validator = RequestValidator(geometry: geometry, isReadOnly: connection.abilities.isReadOnly)
    format = connection.plan.format
    directLimit = connection.plan.directSegments
    let segments = connection.plan.segmentLimit(offered: connection.abilities.maxIndirectSegments)
    longLimit = min(segments, connection.abilities.maxIndirectSegments)
    pending = PendingRequests(
      count: Int(ring.layout.slotCount), segments: segments,
      hasRanges: connection.plan.format.numbers.descriptorsCarrySectors)
    scratch = MappingScratch(
      capacity: segments, hasSectors: connection.plan.format.numbers.descriptorsCarrySectors)
    self.ring = ring
    self.cache = cache
    pool = FreePagePool(limit: connection.maxBufferPages)
    squeezeNanoseconds = UInt64(connection.bufferSqueezeMilliseconds) * 1_000_000
    self.image = image
    self.counters = counters
    if let place = connection.taken {
      taken = TakenRequests(
        memory: place.memory, identity: place.identity, slots: pending.count, stride: self.ring.layout.requestStride)
    } else {
      taken = TakenRequests()
    }
    now = connection.platform.monotonicNanoseconds
  }

  /// Requests taken and not answered yet.
  @inlinable public var inFlight: Int { pending.used }

  /// Readable when the image has finished something.
  @inlinable public var waitDescriptor: CInt { image.waitDescriptor }

  /// Plants bugs, for a test that wants to see them noticed; a release build has none.
  public mutating func plant(_ faults: RingFaults) { ring.faults = faults }
  /// Bugs that a test has planted.
  public var faults: RingFaults { ring.faults }

  /// Requests taken off the ring so far; wraps.
  public var requestsTaken: UInt32 { ring.requestConsumer.rawValue }

  /// Follows a disk that changed its size.
  public mutating func resize(to sectorCount: UInt64) { validator.resize(to: sectorCount) }

  /// Serves what waits in the ring, collects what the image finished, answers, and notifies once if that is due.
  @inlinable
  public mutating func advance() {
    serveRequests()
    collect()
    publish()
    if Platform.outlivesProcess, taken.isKept { taken.publish() }
  }

  /// Asks for a notification at the next request, then looks again; also arms the image's wake-up.
  @inlinable
  public mutating func prepareToWait() -> WaitReadiness {
    if image.prepareToWait() == .workPending { return .workPending }
    if policy == .adaptive { settleKick() }
    if isBroken || barrier >= 0 || (Platform.outlivesProcess && isDraining) { return .maySleep }
    do {
      return try ring.armAndRecheck() ? .workPending : .maySleep
    } catch {
      breakOff()
      return .maySleep
    }
  }

  /// Looks for work without asking for a notification: for an end that polls.
  @inlinable
  public mutating func lookForWork() -> WaitReadiness {
    if image.prepareToWait() == .workPending { return .workPending }
    if policy == .adaptive { settleKick() }
    return pollPoint?.hasMoved == true ? .workPending : .maySleep
  }

  /// What to look at for the next request; nil while requests are not served.
  @inlinable public var pollPoint: PollPoint? { isBroken || barrier >= 0 ? nil : ring.pollPoint }

  @inlinable
  mutating func publish() {
    guard ring.hasUnpublishedResponses else { return }
    if policy == .adaptive { return publishAdaptively() }
    if case .notify = ring.publishResponses() {
      platform.notify(port)
      counters.add(1, to: QueueCounter.notifications.rawValue)
      note(.published, 0, 1)
    } else {
      counters.add(1, to: QueueCounter.notifications_saved.rawValue)
      note(.published, 0, 0)
    }
  }

  @usableFromInline
  mutating func publishAdaptively() {
    let count = UInt64(ring.unpublishedResponses)
    let isAsked = ring.publishResponses() == .notify
    let inHand = pending.used > 0 || ring.pollPoint.hasMoved
    let wasOwed = coalescer.isOwed
    let mustKick = coalescer.published(count, isAsked: isAsked, inHand: inHand, now: platform.monotonicNanoseconds)
    note(.published, 0, mustKick ? 1 : 0)
    if mustKick {
      sendKick()
    } else {
      let isDeferred = coalescer.isOwed && !wasOwed
      counters.add(1, to: (isDeferred ? QueueCounter.notifications_deferred : .notifications_saved).rawValue)
    }
  }

  /// Sends a notification that was held back: nobody sleeps on one that is owed.
  @usableFromInline
  mutating func settleKick() {
    if coalescer.settle() { sendKick() }
  }

  private func sendKick() {
    platform.notify(port)
    counters.add(1, to: QueueCounter.notifications.rawValue)
  }

  @inlinable
  mutating func collect() {
    image.advance()
    while let done = image.nextCompletion() { imageFinished(Int(done.tag), errorCode: done.errorCode) }
    if barrier >= 0 { releaseBarrier() }
  }

  @inlinable
  mutating func serveRequests() {
    guard !isBroken, barrier < 0 else { return }
    if Platform.outlivesProcess, isDraining { return }
    do {
      let waiting = try ring.unconsumedRequests()
      guard waiting > 0 else { return }
      switch format {
      case .classic64: serve(waiting, ABI64.self)
      case .classic32: serve(waiting, ABI32.self)
      case .wide64: serve(waiting, WideFormat<ABI64>.self)
      case .wide32: serve(waiting, WideFormat<ABI32>.self)
      case .segmentRing64: serve(waiting, SegmentRingFormat<ABI64>.self)
      case .segmentRing32: serve(waiting, SegmentRingFormat<ABI32>.self)
      case .slim64: serve(waiting, Slim64Format<ABI64>.self)
      case .slim64On32: serve(waiting, Slim64Format<ABI32>.self)
      case .slim32: serve(waiting, Slim32Format.self)
      }
    } catch {
      breakOff()
    }
  }

  @inlinable
  mutating func serve<Format: RingFormat>(_ count: UInt32, _ format: Format.Type) {
    var waiting = count
    // SAFETY: the memory is this queue's and stays.
    var slot = unsafe RequestSlot<Format>(unsafeIn: slotMemory)
    while waiting > 0, barrier < 0 {
      guard let request = pending.take() else {
        counters.add(1, to: QueueCounter.oo_req.rawValue)
        return
      }
      ring.copyRequest(into: &slot)
      if Platform.outlivesProcess, taken.isKept { taken.take(request, index: ring.requestConsumer, slot) }
      waiting &-= 1
      dispatch(request, slot)
    }
  }

  @usableFromInline
  mutating func breakOff() {
    isBroken = true
    counters.add(1, to: QueueCounter.ring_broken.rawValue)
  }

  /// Drops idle mappings that are too old or too many; call it now and then, at least every 100 ms of activity.
  public mutating func housekeep() {
    now = platform.monotonicNanoseconds
    shrinkPool()
    guard cache.isPurgeDue(now: now) else { return }
    let platform = self.platform
    let removed = cache.purge(now: now) { handle in BackQueue.unmapOne(handle, platform) }
    if removed > 0 {
      pool.put(removed)
      shrinkPool()
      counters.add(UInt64(removed), to: QueueCounter.grants_evicted.rawValue)
      counters.add(UInt64(removed), to: QueueCounter.grants_unmapped.rawValue)
    }
    counters.set(UInt64(cache.count), at: QueueCounter.grants_persistent.rawValue)
  }

  /// The disk does not know an operation that was offered (blkback's `xen_blkbk_flush_diskcache` with 0).
  @usableFromInline
  func withdraw(_ operation: BlockOperation) { onWithdrawal?(operation) }

  /// Gives free pages back that are more than the ring may keep.
  @usableFromInline
  mutating func shrinkPool() {
    if pool.isTooFull(now: now) { pool.shrink(now: now, to: platform) }
    counters.set(UInt64(pool.count), at: QueueCounter.buffer_pages.rawValue)
  }

  /// Memory is short: the ring keeps no free pages for a while (blkback's `reclaim_memory`).
  public mutating func squeeze() {
    now = platform.monotonicNanoseconds
    pool.squeeze(until: now &+ squeezeNanoseconds)
    shrinkPool()
  }

  @usableFromInline
  static func unmapOne(_ handle: GrantHandle, _ platform: Platform) {
    // SAFETY: the span ends before the variable does.
    unsafe withUnsafePointer(to: handle) { pointer in
      let isUnmapped = unsafe platform.unmap(UnsafeBufferPointer(start: pointer, count: 1).span)
      precondition(isUnmapped, "a handle of ours was not mapped")
    }
  }

  /// Lets go of every page of the frontend, and of the port.
  ///
  /// The image's queue, which may still be at work on those pages after a crash of the frontend, goes first and waits
  /// for what it has begun.
  deinit {
    let platform = self.platform
    _ = consume image
    for request in 0..<pending.count where unsafe pending.requests[request].stage != .free {
      let first = unsafe pending.handles + request * pending.perRequest
      for index in 0..<Int(unsafe pending.requests[request].mappedCount) {
        unsafe BackQueue.unmapOne(first[index], platform)
      }
    }
    cache.forEachMapping { handle in BackQueue.unmapOne(handle, platform) }
    pool.giveBackAll(to: platform)
    if !ring.faults.has(.portKept) { platform.close(port) }
    platform.unmap(ringPages)
  }
}

/// One queue's way to its frontend: what the handshake found in the store, mapped and bound.
public struct BackConnection<Platform: BackendPlatform> {
  /// The hypervisor.
  public let platform: Platform
  /// The frontend's domain.
  public let peer: DomainID
  /// The local event-channel port.
  public let port: EventPort
  /// The pages of the rings.
  public let ringPages: ContiguousMapping
  /// Their form.
  public let plan: RingPlan
  /// What was offered and accepted.
  public let abilities: BackAbilities
  /// When to notify.
  public let policy: NotificationPolicy
  /// Where data that nobody vouches for is named, if anywhere.
  public var findings: ProtectionFindings?
  /// Memory that outlives this process, and what tells this connection from others; see ``TakenRequests``.
  public var taken: (memory: SharedRegion, identity: UInt64)?
  /// Told on the queue's thread that the disk does not know a flush or a barrier which was offered.
  public var onWithdrawal: (@Sendable (BlockOperation) -> Void)?
  /// `max_buffer_pages`.
  public var maxBufferPages = BackendKnobs().maxBufferPages
  /// `buffer_squeeze_duration_ms`.
  public var bufferSqueezeMilliseconds = BackendKnobs().bufferSqueezeMilliseconds

  /// Describes a connection.
  public init(
    platform: Platform, peer: DomainID, port: EventPort, ringPages: ContiguousMapping, plan: RingPlan = RingPlan(),
    abilities: BackAbilities, policy: NotificationPolicy = .holdOff
  ) {
    self.platform = platform
    self.peer = peer
    self.port = port
    self.ringPages = ringPages
    self.plan = plan
    self.abilities = abilities
    self.policy = policy
  }
}

/// What a backend told its frontend that it can do, latched for the life of the connection.
public struct BackAbilities: Equatable, Sendable {
  /// Both ends speak persistent grants.
  public var isPersistent: Bool
  /// Segments of an indirect request; 0: none.
  public var maxIndirectSegments: Int
  /// Flush was offered.
  public var canFlush: Bool
  /// Barrier was offered.
  public var canBarrier: Bool
  /// Discard was offered.
  public var canDiscard: Bool
  /// Secure discard was offered.
  public var canDiscardSecurely: Bool
  /// Writes are refused.
  public var isReadOnly: Bool

  /// Describes what was offered.
  public init(
    isPersistent: Bool, maxIndirectSegments: Int, canFlush: Bool, canBarrier: Bool, canDiscard: Bool,
    canDiscardSecurely: Bool, isReadOnly: Bool
  ) {
    self.isPersistent = isPersistent
    self.maxIndirectSegments = maxIndirectSegments
    self.canFlush = canFlush
    self.canBarrier = canBarrier
    self.canDiscard = canDiscard
    self.canDiscardSecurely = canDiscardSecurely
    self.isReadOnly = isReadOnly
  }
}

/// Why a queue could not start.
public enum BackQueueError: Error, Sendable {
  /// The ring that the frontend offered breaks the rules.
  case ring(RingViolation)
  /// A page or port of the frontend could not be had.
  case grant(GrantStatus)
  /// The event channel could not be bound.
  case event(EventChannelError)
  /// The disk's own queue could not be made.
  case disk(BlockError)
  /// No memory.
  case memory(SystemError)
}
