// SPDX-License-Identifier: MIT

public import BlockIO
public import GuestMemory
public import Protection
public import SharedRing
public import XenHypervisor
public import XenWire

/// One queue of a frontend: turns I/Os into ring requests and responses into completions (blkfront's
/// `blkfront_ring_info`).
///
/// An I/O that needs more segments than one request may have becomes several; an I/O finishes when all of its requests
/// have been answered, with the first error. Data in the queue's own pages moves without a copy; other data is copied
/// through bounce pages. Owned by one thread; nothing here allocates, locks or waits.
///
/// Only ``issue()`` knows the wire format: it chooses once a batch the code that is specialised for the connection's.
///
/// A backend that breaks the rules disables the queue: every I/O in hand and every later one ends with `EIO`.
public struct FrontQueue<Platform: FrontendPlatform>: ~Copyable {
  @usableFromInline let platform: Platform
  @usableFromInline var peer: DomainID
  /// The local port; its peer is the backend's.
  public internal(set) var port: EventPort
  @usableFromInline var ringPages: GuestPages
  @usableFromInline var handle: UInt16
  @usableFromInline var abilities: FrontAbilities
  @usableFromInline var format: SlotFormat
  /// Descriptor pages that belong to each slot.
  @usableFromInline var descriptorPagesPerSlot: Int
  @usableFromInline var ring: FrontRing
  @usableFromInline let slotMemory = SlotMemory()
  @usableFromInline var arena: FrontArena
  @usableFromInline var shadows: ShadowTable
  @usableFromInline var runs: SegmentRuns
  @usableFromInline var descriptorsPerPage: Int
  @usableFromInline var protection = RingProtection.off
  /// Whether something must be done for every response, not only where pages were bounced.
  @usableFromInline var settlesEach = false
  @usableFromInline var guardian = FrontGuardian(slots: 0, segments: 0, firstPage: 0, pagesPerSlot: 0)
  /// When the backend is notified.
  public var policy = NotificationPolicy.holdOff
  @usableFromInline var coalescer = KickCoalescer()
  /// Where data that nobody vouches for is named, if anywhere.
  public var findings: ProtectionFindings?
  @usableFromInline var table: IOTable
  @usableFromInline let counters: CounterWriter
  @usableFromInline let latencies: LatencyRecorder?
  /// The time of the current pass.
  @usableFromInline var now: UInt64 = 0
  /// Whether `issue` may get further than it got last time.
  @usableFromInline var canIssueMore = false
  /// Whether the backend broke the rules.
  public internal(set) var isBroken = false
  /// Whether there is no connection: I/O is accepted and waits.
  public internal(set) var isSuspended = false
  let ownPages: BufferPages<Platform>
  /// Pages of another queue that requests may name.
  var neighbourPages: BufferPages<Platform>?
  /// References of pages that an earlier backend still mapped when its connection ended.
  var quarantine: [GrantReference] = []

  /// Joins the parts of a queue and grants its pages.
  /// - Parameters:
  ///   - references: with persistent grants one for each page of the arena, else for each ring slot one for each segment
  ///     and descriptor page.
  public init(
    connection: FrontConnection<Platform>, arena: consuming FrontArena, references: [GrantReference],
    counters: CounterWriter, latencies: LatencyRecorder? = nil, faults: RingFaults = RingFaults()
  ) {
    platform = connection.platform
    peer = connection.peer
    port = connection.port
    ringPages = connection.ring
    handle = connection.handle
    abilities = connection.abilities
    format = connection.plan.format
    descriptorPagesPerSlot = connection.plan.descriptorPages(for: connection.abilities.maxSegments)
    ring = FrontRing(attachingTo: connection.ring.region, RingGeometry(connection.plan))
    ring.faults = faults
    self.counters = counters
    self.latencies = latencies
    let slots = Int(ring.layout.slotCount)
    shadows = ShadowTable(
      count: slots, segments: connection.abilities.maxSegments,
      slotReferences: connection.abilities.isPersistent ? [] : references)
    runs = SegmentRuns(entries: ring.layout.segmentRing?.count ?? 0, slots: slots)
    descriptorsPerPage = connection.plan.format.numbers.descriptorsPerPage
    table = IOTable(capacity: max(64, 2 * slots, arena.bufferCount + 1) + Self.visitorRoom)
    ownPages = BufferPages(arena, of: connection.platform)
    self.arena = arena
    if abilities.isPersistent { grant(references, from: 0) }
    adoptProtection(connection)
  }

  /// Ends every grant and gives the pages back; those that the backend still maps stay out of use for ever (XSA-396).
  deinit {
    let stuck = (isSuspended ? [] : endAllGrants()) + endAgain(quarantine)
    if !stuck.isEmpty {
      ownPages.retire()
      neighbourPages?.retire()
    }
    counters.set(UInt64(stuck.count), at: FrontCounter.stuck_pages.rawValue)
    if !isSuspended { platform.close(port) }
  }

  /// The references that a queue needs for its data.
  public static func referenceCount(_ connection: FrontConnection<Platform>, arenaPages: Int) -> Int {
    if connection.abilities.isPersistent { return arenaPages }
    let segments = connection.abilities.maxSegments
    return Int(RingGeometry(connection.plan).depth) * (segments + connection.plan.descriptorPages(for: segments))
  }

  /// The descriptor pages that a queue needs, and the pages of tuples.
  public static func descriptorPages(_ connection: FrontConnection<Platform>) -> Int {
    descriptorPages(of: connection.plan, segments: connection.abilities.maxSegments)
  }

  /// The descriptor pages that a queue of some form needs, and the pages of tuples.
  public static func descriptorPages(of plan: RingPlan, segments: Int) -> Int {
    Int(RingGeometry(plan).depth) * (plan.descriptorPages(for: segments) + tuplePages(of: plan, segments: segments))
  }

  /// Pages of tuples that one slot needs.
  static func tuplePages(of plan: RingPlan, segments: Int) -> Int {
    plan.protection == .sector ? segments - RingProtection.dataSegments(of: segments) : 0
  }

  /// Descriptor pages that a request of `segments` has.
  func descriptorPages(for segments: Int) -> Int { (segments + descriptorsPerPage - 1) / descriptorsPerPage }

  /// The most I/Os of its user in hand at once.
  public var capacity: Int { table.capacity - Self.visitorRoom }
  /// I/Os accepted and not handed back.
  @inlinable public var inFlight: Int { table.active &+ table.finishedCount }
  /// The memory of one of the user's buffers.
  @inlinable public func buffer(_ index: Int) -> MemoryExtent { arena.buffer(index) }
  /// Whether `issue` may get further than it got last time.
  @inlinable public var hasMoreToIssue: Bool { canIssueMore }
  /// Whether requests wait for the backend.
  @inlinable public var awaitsResponses: Bool { !isSuspended && ring.hasOutstandingRequests }

  /// Accepts an I/O; it is issued by ``issue()``.
  @inlinable
  public mutating func submit(_ request: IORequest) -> SubmitOutcome { accept(request) == nil ? .full : .accepted }

  /// Accepts an I/O; answers its number, or nil when there is no room.
  @inlinable
  mutating func accept(_ request: IORequest) -> Int? {
    guard let io = table.accept(request) else { return nil }
    counters.add(1, to: FrontCounter.ios.rawValue)
    note(.accepted, io, request.sectors.start)
    if isBroken { unsafe table.ios[io].errorCode = FrontQueueErrno.ioError }
    if request.operation != .flush {
      if request.sectors.count == 0 { unsafe table.ios[io].isIssued = true }
      if request.operation == .read || request.operation == .write, !FrontQueue.isWellFormed(request) {
        unsafe table.ios[io].errorCode = FrontQueueErrno.invalid
      }
    }
    canIssueMore = true
    return io
  }

  /// Whether a transfer's memory is as long as its sectors, in whole sectors.
  @inlinable
  static func isWellFormed(_ request: IORequest) -> Bool {
    guard let memory = request.memory else { return request.sectors.count == 0 }
    var sum = 0
    for index in 0..<memory.count {
      let byteCount = memory[index].byteCount
      guard byteCount > 0, byteCount & (PageGeometry.sectorSize &- 1) == 0 else { return false }
      sum &+= byteCount
    }
    return UInt64(sum) == request.sectors.byteCount
  }

  /// Writes what fits into the ring, publishes it, and notifies the backend if it asked for that.
  @inlinable
  public mutating func issue() {
    canIssueMore = false
    guard !isSuspended else {
      if isBroken { endAll(with: FrontQueueErrno.ioError) }
      return
    }
    guard table.issueCount > 0 else { return publish() }
    now = platform.monotonicNanoseconds
    switch format {
    case .classic64: issueAll(ABI64.self)
    case .classic32: issueAll(ABI32.self)
    case .wide64: issueAll(WideFormat<ABI64>.self)
    case .wide32: issueAll(WideFormat<ABI32>.self)
    case .segmentRing64: issueAll(SegmentRingFormat<ABI64>.self)
    case .segmentRing32: issueAll(SegmentRingFormat<ABI32>.self)
    case .slim64: issueAll(Slim64Format<ABI64>.self)
    case .slim64On32: issueAll(Slim64Format<ABI32>.self)
    case .slim32: issueAll(Slim32Format.self)
    }
    publish()
  }

  @inlinable
  mutating func issueAll<Format: RingFormat>(_ format: Format.Type) {
    while let io = table.nextToIssue {
      if unsafe table.ios[io].startedAt == 0 { unsafe table.ios[io].startedAt = now }
      if unsafe table.ios[io].errorCode != 0 || table.ios[io].isIssued {
        unsafe table.ios[io].isIssued = true
      } else {
        guard !ring.isFull else {
          counters.add(1, to: FrontCounter.ring_full.rawValue)
          break
        }
        guard issueOne(io, format) else { break }
      }
      if unsafe table.ios[io].isIssued {
        table.dropFromIssueQueue()
        if unsafe table.ios[io].outstanding == 0 { settle(io) }
      }
    }
  }

  @inlinable
  mutating func publish() {
    guard ring.hasUnpublishedRequests else {
      // Nothing more has come in this pass.
      if coalescer.isOwed { settleKick() }
      return
    }
    if policy == .adaptive { return publishAdaptively() }
    if case .notify = ring.publishRequests() {
      platform.notify(port)
      counters.add(1, to: FrontCounter.notifications.rawValue)
      note(.published, 0, 1)
    } else {
      counters.add(1, to: FrontCounter.notifications_saved.rawValue)
      note(.published, 0, 0)
    }
  }

  /// Holds a notification back while the backend has requests of earlier batches, and more are issued in every pass.
  @usableFromInline
  mutating func publishAdaptively() {
    let count = UInt64(ring.unpublishedRequests)
    let inHand = ring.requestsWithPeer > 0
    let isAsked = ring.publishRequests() == .notify
    let wasOwed = coalescer.isOwed
    let mustKick = coalescer.published(count, isAsked: isAsked, inHand: inHand, now: now)
    note(.published, 0, mustKick ? 1 : 0)
    if mustKick { return sendKick() }
    let isDeferred = coalescer.isOwed && !wasOwed
    counters.add(1, to: (isDeferred ? FrontCounter.notifications_deferred : .notifications_saved).rawValue)
  }

  /// Sends a notification that was held back: nobody sleeps on one that is owed.
  @usableFromInline
  mutating func settleKick() {
    if coalescer.settle() { sendKick() }
  }

  private func sendKick() {
    platform.notify(port)
    counters.add(1, to: FrontCounter.notifications.rawValue)
  }

  /// Takes the responses that are there.
  @inlinable
  public mutating func collect() {
    guard !isBroken, !isSuspended else { return }
    do {
      var waiting = try ring.unconsumedResponses()
      if waiting > 0 { now = platform.monotonicNanoseconds }
      while waiting > 0, !isBroken {
        if protection == .slot { guardian.arrived = ring.nextProtection }
        finish(ring.takeResponse())
        waiting &-= 1
      }
    } catch {
      breakOff()
    }
  }

  /// Takes one finished I/O.
  @inlinable public mutating func nextCompletion() -> IOCompletion? { table.takeFinished() }

  /// Looks for work without asking for a notification: for an end that polls.
  @inlinable
  public func lookForWork() -> WaitReadiness {
    if table.finishedCount > 0 || canIssueMore { return .workPending }
    return pollPoint?.hasMoved == true ? .workPending : .maySleep
  }

  /// What to look at for the next response; nil while responses are not taken.
  @inlinable public var pollPoint: PollPoint? { isBroken || isSuspended ? nil : ring.pollPoint }

  /// Asks for a notification at the next response, then looks again.
  @inlinable
  public mutating func prepareToWait() -> WaitReadiness {
    if coalescer.isOwed { settleKick() }
    if table.finishedCount > 0 || canIssueMore { return .workPending }
    if isBroken || isSuspended { return .maySleep }
    do {
      return try ring.armAndRecheck() ? .workPending : .maySleep
    } catch {
      breakOff()
      return .workPending
    }
  }
}

/// The positive `errno` values that a queue reports.
@usableFromInline
enum FrontQueueErrno {
  @usableFromInline static var ioError: CInt { 5 }
  @usableFromInline static var invalid: CInt { 22 }
  @usableFromInline static var notSupported: CInt { 95 }
}
