// SPDX-License-Identifier: MIT

import BlockIO
import GuestMemory
import SharedRing
import XenHypervisor
public import XenWire

/// The end of a connection and the beginning of the next (blkfront's `blkif_free`, `blkfront_resume` and `blkif_recover`).
///
/// What outlives a connection is what its user has in hand: the buffers and the table of I/Os. An I/O that a lost backend
/// had not answered whole is issued again from its first sector, cut to what the next backend takes; what the lost one had
/// done already is done twice, which changes nothing.
extension FrontQueue {
  /// Lets go of the backend: every grant ends, the port is closed, every I/O in hand waits for ``reconnect(_:references:)``.
  ///
  /// The backend must have let go of its mappings; a page that it still maps is counted and never granted to another.
  public mutating func suspend() {
    guard !isSuspended else { return }
    quarantine += endAllGrants()
    counters.set(UInt64(quarantine.count), at: FrontCounter.stuck_pages.rawValue)
    returnBouncePages()
    platform.close(port)
    // The backend that it was meant for is no more.
    _ = coalescer.settle()
    isSuspended = true
    isBroken = false
    requeue()
  }

  /// Ends every I/O in hand with `EIO`, and every later one until ``reconnect(_:references:)``: the disk is gone.
  public mutating func abandon() {
    guard isSuspended else { return }
    isBroken = true
    endAll(with: FrontQueueErrno.ioError)
  }

  /// Begins to talk to another backend, or to the same one anew, and issues what is in hand.
  /// - Parameter references: as many as ``referenceCount(_:arenaPages:)`` says.
  public mutating func reconnect(_ connection: FrontConnection<Platform>, references: [GrantReference]) {
    precondition(isSuspended, "a queue is reconnected after it was suspended")
    let connection = suited(connection)
    quarantine = endAgain(quarantine)
    counters.set(UInt64(quarantine.count), at: FrontCounter.stuck_pages.rawValue)
    peer = connection.peer
    port = connection.port
    ringPages = connection.ring
    handle = connection.handle
    abilities = connection.abilities
    adopt(connection, references)
    if abilities.isPersistent { grant(references, from: 0) }
    isSuspended = false
    counters.add(1, to: FrontCounter.reconnects.rawValue)
    // A page that a backend kept may be written by it at any time: no data may lie there (XSA-396).
    isBroken = !quarantine.isEmpty || FrontQueue.descriptorPages(connection) > ownPageCount
    if isBroken { endAll(with: FrontQueueErrno.ioError) }
    canIssueMore = true
  }

  /// Takes I/O again for another queue to carry: the disk is back, with no ring for this queue.
  public mutating func awaitCarrier() {
    guard isSuspended else { return }
    quarantine = endAgain(quarantine)
    counters.set(UInt64(quarantine.count), at: FrontCounter.stuck_pages.rawValue)
    // As at a connection of its own: no data may lie in a page that a backend kept.
    isBroken = !quarantine.isEmpty
  }

  /// Pages behind the zero pages, for descriptors and tuples.
  private var ownPageCount: Int { arena.pages.count - arena.descriptorPage }

  /// The connection, without descriptor pages if the queue was made with fewer than it needs.
  private func suited(_ connection: FrontConnection<Platform>) -> FrontConnection<Platform> {
    var connection = connection
    if FrontQueue.descriptorPages(connection) > ownPageCount {
      connection.abilities.maxSegments = connection.plan.directSegments
    }
    return connection
  }

  /// Makes what depends on the form of the rings.
  private mutating func adopt(_ connection: FrontConnection<Platform>, _ references: [GrantReference]) {
    let plan = connection.plan
    format = plan.format
    descriptorsPerPage = plan.format.numbers.descriptorsPerPage
    descriptorPagesPerSlot = plan.descriptorPages(for: abilities.maxSegments)
    ring = FrontRing(attachingTo: ringPages.region, RingGeometry(plan))
    let slots = Int(ring.layout.slotCount)
    shadows = ShadowTable(
      count: slots, segments: abilities.maxSegments, slotReferences: abilities.isPersistent ? [] : references)
    runs = SegmentRuns(entries: ring.layout.segmentRing?.count ?? 0, slots: slots)
    adoptProtection(connection)
  }

  /// The pages of the queue: its user's buffers and its own, and its neighbour's buffers.
  public var arenaPageCount: Int { arena.pageCount }

  /// Lets the backend at pages of the arena, for the life of the connection.
  ///
  /// One that is not trusted has no business with users' pages, only with those that data is copied through.
  func grant(_ references: [GrantReference], from first: Int) {
    let isAllGranted = abilities.isBackendTrusted || ring.faults.has(.userPagesGranted)
    let granted = isAllGranted ? 0..<arena.pageCount : arena.userPageCount..<arena.pages.count
    for (page, reference) in zip(first..., references) {
      unsafe arena.references[page] = reference
      guard granted.contains(page) else { continue }
      platform.grantAccess(reference, to: peer, frame: arena.frame(page), isReadOnly: false)
    }
  }

  /// Ends every grant of the connection and gives the references back.
  /// - Returns: those whose page the backend still maps.
  func endAllGrants() -> [GrantReference] {
    let count = abilities.isPersistent ? arena.pageCount : shadows.count * shadows.referencesPerSlot
    return endAgain(
      (0..<count).map { unsafe abilities.isPersistent ? arena.references[$0] : shadows.references[$0] })
  }

  /// Ends access and gives back the references for which that works.
  /// - Returns: the others.
  func endAgain(_ references: [GrantReference]) -> [GrantReference] {
    var ended: [GrantReference] = []
    var stuck: [GrantReference] = []
    ended.reserveCapacity(references.count)
    for reference in references {
      if platform.endAccess(reference) { ended.append(reference) } else { stuck.append(reference) }
    }
    platform.freeReferences(ended)
    return stuck
  }

  /// Gives back the bounce pages of requests that nobody will answer.
  private mutating func returnBouncePages() {
    for id in 0..<shadows.count where unsafe shadows.shadows[id].state == .waiting && shadows.shadows[id].hasBounced {
      for index in 0..<Int(unsafe shadows.shadows[id].segmentCount) {
        let piece = unsafe shadows.pieces[id * shadows.segments + index]
        if piece.target != 0 { arena.giveBackBounce(Int(piece.page)) }
      }
      unsafe shadows.shadows[id].hasBounced = false
    }
  }

  /// Starts every I/O in hand from its beginning; one whose data was written and whose flush was owed, too.
  private mutating func requeue() {
    while table.nextToIssue != nil { table.dropFromIssueQueue() }
    for io in 0..<table.capacity where unsafe table.ios[io].isActive && !table.ios[io].isElsewhere {
      let request = unsafe table.ios[io].request
      let (errorCode, tuples) = unsafe (table.ios[io].errorCode, table.ios[io].tuples)
      unsafe table.ios[io] = PendingIO(request)
      unsafe table.ios[io].errorCode = errorCode
      unsafe table.ios[io].tuples = tuples
      if request.operation == .flush, request.memory != nil {
        unsafe table.ios[io].request.operation = .write
        unsafe table.ios[io].owesFlush = true
      }
      if request.operation != .flush, request.sectors.count == 0 { unsafe table.ios[io].isIssued = true }
      table.enqueueForIssue(io)
    }
    canIssueMore = table.issueCount > 0
  }

  /// Ends what is in hand, but for what another queue holds.
  @usableFromInline
  mutating func endAll(with errorCode: CInt) {
    while table.nextToIssue != nil { table.dropFromIssueQueue() }
    for io in 0..<table.capacity where unsafe table.ios[io].isActive && !table.ios[io].isElsewhere {
      unsafe table.ios[io].errorCode = errorCode
      table.finish(io)
    }
  }
}
