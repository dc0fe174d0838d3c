// SPDX-License-Identifier: MIT

import BlockIO
import GuestMemory
import PVPeers
import XenHypervisor
import XenWire

@testable import BlockFront
@testable import SharedRing

/// A frontend's queue on a machine that stays up, and a backend that plays against it.
///
/// A backend that is not trusted also looks into every page that it is granted, for bytes of the user that it was not sent.
@safe final class FrontWorld<Format: RingFormat>: RingPlayer {
  // SAFETY: `extents` has an element for each buffer, and is this object's own.
  /// What a user's memory holds that is no part of a request.
  private static var canary: UInt8 { 0xC3 }
  private static var bufferCount: Int { 4 }
  private static var bufferByteCount: Int { 64 << 10 }

  /// First here, so that it goes before the counters that it writes to.
  private var front: FrontQueue<PlainPlatform>
  private let machine: PlainMachine
  private let ringPages: GuestPages
  private let ring: RawRing<Format>
  private let counters: CounterTable
  private let abilities: FrontAbilities
  private let extents: UnsafeMutablePointer<MemoryExtent>
  private let looks: Bool
  private let ledgerBefore: ResourceLedger
  /// The index of the next request to read, and of the next response to write.
  private var consumed: UInt32 = 0
  private var produced: UInt32 = 0
  private var accepted = 0
  private var taken: [(id: UInt64, operation: BlockOperation)] = []
  /// The transfer that each buffer is in, and what of it.
  private var transfers: [(tag: UInt64, memory: MemoryExtent)?]
  private var isEnded: [Bool] = []

  init(_ form: RingForm) throws {
    looks = form.choices & 2 == 0
    let plan = form.plan
    let isShort = form.shape != 1 && form.choices & 4 != 0
    abilities = FrontAbilities(
      isPersistent: form.choices & 1 != 0,
      maxSegments: isShort ? plan.directSegments : 32, canFlush: true, canBarrier: true,
      canDiscard: true, canDiscardSecurely: true, isBackendTrusted: !looks)
    machine = try PlainMachine(guestPages: 4096)
    let shape = RingGeometry(plan)
    ringPages = try machine.guest.allocatePages(shape.pageCount)
    ring = RawRing(ringPages.region, shape)
    FrontRing.initialise(ringPages.region, shape)
    let port = try machine.guest.allocateUnbound(remote: .control)
    _ = try machine.control.bindInterdomain(remote: PlainMachine.guestID, port: port)
    counters = try CounterTable(count: FrontCounter.allCases.count)
    let connection = FrontConnection(
      platform: machine.guest, peer: .control, port: port, ring: ringPages, plan: plan, handle: 0xCA00,
      abilities: abilities)
    let demand = BufferDemand(count: Self.bufferCount, byteCount: Self.bufferByteCount)
    let pageCount = FrontArena.pageCount(
      demand: demand, descriptorPages: FrontQueue<PlainPlatform>.descriptorPages(connection))
    let count = FrontQueue<PlainPlatform>.referenceCount(connection, arenaPages: pageCount)
    front = FrontQueue(
      connection: connection, arena: FrontArena(pages: try machine.guest.allocatePages(pageCount), demand: demand),
      references: try machine.guest.allocateReferences(count), counters: counters.writer)
    unsafe extents = .allocate(capacity: Self.bufferCount)
    transfers = Array(repeating: nil, count: Self.bufferCount)
    ledgerBefore = machine.ledger
    for index in 0..<Self.bufferCount { front.buffer(index).region?.wipe(Self.canary) }
  }

  deinit { unsafe extents.deallocate() }

  // MARK: One input

  func play(_ input: inout FuzzInput, isThorough: Bool) -> UInt64 {
    var outcome = Outcome()
    var steps = 0
    while !input.isAtEnd, steps < 16, !front.isBroken {
      steps += 1
      step(&input, &outcome)
    }
    // A producer that has run away: the frontend has to give up, and to say so to everyone who waits.
    ring.responseProducer = produced &+ 0x4000_0000
    collect(&outcome)
    demand(front.isBroken, "a frontend gives up a backend that has run away")
    demand(isEnded.allSatisfy { $0 }, "every I/O ends")
    demand(front.inFlight == 0, "nothing is in hand when all has ended")
    putBack(isThorough: isThorough)
    return outcome.value
  }

  private func step(_ input: inout FuzzInput, _ outcome: inout Outcome) {
    switch input.byte() & 63 {
    case 0..<24: submit(&input)
    case 24..<44:
      guard !taken.isEmpty else { return }
      let status = input.byte()
      let request = taken.remove(at: Int(input.byte()) % taken.count)
      respond(
        BlockResponse(
          id: request.id, operation: request.operation,
          status: BlockStatus(rawValue: status < 192 ? 0 : Int16(bitPattern: input.number(UInt16.self)))))
    case 44..<48:
      let shape = input.byte()
      respond(
        BlockResponse(
          id: shape & 1 == 0 ? UInt64(input.byte()) : input.number(UInt64.self),
          operation: BlockOperation(rawValue: shape >> 1 & 15),
          status: BlockStatus(rawValue: Int16(Int8(bitPattern: input.byte())))))
    case 48: ring.responseProducer = input.number(UInt32.self) & 0x8000_00FF
    case 49:
      let place = ring.responseSlot(produced &+ UInt32(input.byte() & 3))
      for index in 0..<min(place.byteCount, 16) { place.store(input.byte(), at: index) }
    case 50: ring.requestEvent = produced &+ input.number(UInt32.self)
    case 51: machine.guest.advanceClock(milliseconds: UInt64(input.byte()) * 500)
    default: collect(&outcome)
    }
  }

  private func respond(_ response: BlockResponse) {
    ring.write(response, to: produced)
    produced &+= 1
    ring.responseProducer = produced
  }

  private func collect(_ outcome: inout Outcome) {
    for round in 0..<4 where round == 0 || front.hasMoreToIssue {
      front.collect()
      front.issue()
      while let completion = front.nextCompletion() {
        outcome.note(completion.tag << 32 | UInt64(UInt32(bitPattern: completion.errorCode)))
        let tag = Int(completion.tag)
        demand(tag < isEnded.count && !isEnded[tag], "an I/O ends once")
        isEnded[tag] = true
        release { $0.tag == completion.tag }
      }
    }
  }

  /// A buffer whose transfer has ended holds nothing but canaries again.
  private func release(_ isMeant: ((tag: UInt64, memory: MemoryExtent)) -> Bool) {
    for index in 0..<Self.bufferCount {
      guard let transfer = transfers[index], isMeant(transfer) else { continue }
      transfer.memory.region?.wipe(Self.canary)
      transfers[index] = nil
    }
  }

  private func submit(_ input: inout FuzzInput) {
    let choice = input.byte()
    let operation = [IOOperation.read, .write, .write, .flush, .discard, .writeZeroes][Int(choice & 63) % 6]
    let size = Int(input.byte())
    let isMoving = operation == .read || operation == .write
    // Most transfers are of a page or two; some need several requests.
    let sectors = 1 + (choice & 64 == 0 || size < 240 ? size & 15 : size & 127)
    let number = Int(choice >> 6) % Self.bufferCount
    var memory: MemoryExtent?
    if isMoving {
      guard transfers[number] == nil else { return }
      let offset = Int(input.byte()) % (129 - sectors) * 512
      let part = MemoryExtent(
        address: front.buffer(number).address + UInt(offset), byteCount: sectors * 512)
      if operation == .write { part.region?.wipe(0x11) }
      unsafe extents[number] = part
      memory = part
    }
    let request = IORequest(
      tag: UInt64(accepted), operation: operation,
      sectors: SectorRange(start: 0, count: operation == .flush ? 0 : UInt64(sectors)),
      memory: memory == nil ? nil : unsafe MemoryExtentList(unsafeStart: UnsafePointer(extents + number), count: 1),
      forceUnitAccess: operation == .write && size & 16 != 0)
    guard case .accepted = front.submit(request) else { return }
    if let memory { transfers[number] = (UInt64(accepted), memory) }
    accepted += 1
    isEnded.append(false)
    front.issue()
    takeRequests()
  }

  private func takeRequests() {
    let end = ring.requestProducer
    while consumed != end {
      let slot = ring.request(consumed)
      consumed &+= 1
      let isElsewhere = slot.operation == .indirect || slot.operation == .segmentRun
      let operation = isElsewhere ? slot.innerOperation : slot.operation
      taken.append((slot.id, operation))
      if looks, operation == .read || operation == .write { look(slot) }
    }
  }

  // MARK: Looking for what was not sent

  /// In a shared ring an answer may have been written over the request: the counts need not be the frontend's.
  private func look(_ slot: borrowing RequestSlot<Format>) {
    if slot.operation == .indirect {
      let count = min(slot.indirectSegmentCount, 256)
      for page in 0..<min(Format.descriptorPages(for: count), Format.indirectPages) {
        withPage(slot.indirectReference(page)) { table in
          for place in 0..<min(Format.descriptorsPerPage, count - page * Format.descriptorsPerPage) {
            let offset = (place + 1) * Format.descriptorSize - 8
            look(Segment(bits: table.load(UInt64.self, at: offset)))
          }
        }
      }
    } else if slot.operation == .segmentRun,
      let entries = RingLayout(region: ring.region, geometry: ring.geometry).segmentRing
    {
      for index in 0..<UInt32(min(slot.runCount, 256)) {
        look(entries.load(at: (slot.runStart &+ index) % entries.count))
      }
    } else {
      for index in 0..<min(slot.directSegmentCount, Format.directSegments) { look(slot.directSegment(index)) }
    }
  }

  private func look(_ segment: Segment) {
    withPage(segment.reference) { page in
      demand(
        !page.holds(Self.canary), "a backend that is not trusted sees nothing but what it was sent")
    }
  }

  private func withPage(_ reference: GrantReference, _ body: (SharedRegion) -> Void) {
    var results: InlineArray<1, GrantMapping> = [GrantMapping(status: .generalError)]
    var span = results.mutableSpan
    let list: InlineArray<1, GrantReference> = [reference]
    machine.control.map(list.span, of: PlainMachine.guestID, writable: false, into: &span)
    // The answer to a request that is looked at late may have been there before it: its grants have ended.
    guard results[0].status == .okay else { return }
    // SAFETY: the page is mapped until it is unmapped below.
    if let base = unsafe UnsafeMutableRawPointer(bitPattern: results[0].address) {
      unsafe body(SharedRegion(unsafeBase: base, byteCount: 4096))
    }
    let handles: InlineArray<1, GrantHandle> = [results[0].handle]
    machine.control.unmap(handles.span)
  }

  // MARK: Afterwards

  /// Makes everything as it was; what is not compared here, the harness compares with a new world now and then.
  private func putBack(isThorough: Bool) {
    release { _ in true }
    if !abilities.isPersistent { endGrants() }
    front.reset(abilities, used: accepted)
    FrontRing.initialise(ringPages.region, ring.geometry)
    front.ring = FrontRing(attachingTo: ringPages.region, ring.geometry)
    machine.guest.setClock(PlainPlatform.start)
    consumed = 0
    produced = 0
    accepted = 0
    taken.removeAll(keepingCapacity: true)
    isEnded.removeAll(keepingCapacity: true)
    if isThorough { demand(machine.ledger == ledgerBefore, "everything is let go: \(machine.ledger)") }
  }

  /// Ends what the requests that nobody answered have granted.
  private func endGrants() {
    let each = front.shadows.referencesPerSlot
    for id in 0..<front.shadows.count where unsafe front.shadows.shadows[id].state == .waiting {
      for index in 0..<each {
        demand(
          machine.guest.endAccess(unsafe front.shadows.references[id * each + index]), "a grant can be ended")
      }
    }
  }
}

extension FrontQueue {
  /// What a connection begins with, but for the ring; as the free lists go, no more than the first few I/Os and slots have been
  /// used.
  fileprivate mutating func reset(_ abilities: FrontAbilities, used: Int) {
    self.abilities = abilities
    isBroken = false
    canIssueMore = false
    coalescer = KickCoalescer()
    now = 0
    let slots = shadows.count
    for id in 0..<min(slots, Int(ring.privateRequestProducer.rawValue)) {
      let next = id + 1 < slots ? Int32(id + 1) : -1
      unsafe shadows.shadows[id] = Shadow(io: -1, nextFree: next, segmentCount: 0, operation: .read, state: .free)
    }
    shadows.firstFree = 0
    shadows.used = 0
    if runs.entries > 0 { runs = SegmentRuns(entries: UInt32(runs.entries), slots: slots) }
    // Bounce pages come and go from the top of their stack; a request takes no more than it has segments.
    let bounceLow = max(0, FrontArena.bouncePages - Int(ring.privateRequestProducer.rawValue) * shadows.segments)
    for page in bounceLow..<FrontArena.bouncePages {
      unsafe arena.bounceStack[page] = Int32(arena.zeroPage - 1 - page)
    }
    arena.bounceFree = FrontArena.bouncePages
    for io in 0..<min(table.capacity, used) {
      unsafe table.ios[io].nextFree = io + 1 < table.capacity ? Int32(io + 1) : -1
    }
    table.firstFree = 0
    table.issueHead = 0
    table.finishedHead = 0
  }
}
