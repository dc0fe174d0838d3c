// SPDX-License-Identifier: MIT

import BlockIO
import GuestMemory
import PVPeers
import PVTestSupport
import XenHypervisor
import XenWire

@testable import BlockBack
@testable import SharedRing

/// A backend's queue on a machine that stays up, and the pages of a guest that plays against it.
///
/// ```
/// guest's memory:   fence | page 0 ... page 4 | page 5, granted for reading only | fence      fences are granted to nobody
/// ```
final class BackWorld<Format: RingFormat>: RingPlayer {
  private static var pageCount: Int { 6 }
  private static var fenceByte: UInt8 { 0x99 }
  private static var sealedByte: UInt8 { 0x77 }

  /// First here, so that it goes before the counters that it writes to.
  private var back: BackQueue<PlainPlatform, GatedQueue>
  private let machine: PlainMachine
  private let disk: MemoryDisk
  private let gate = Gate()
  private let ringPages: GuestPages
  private let ring: RawRing<Format>
  private let plan: RingPlan
  private let memory: GuestPages
  private let references: [GrantReference]
  private let counters: CounterTable
  private let poolLimit: Int
  private let ledgerBefore: ResourceLedger
  /// The index of the next slot to fill, and of the next response to read.
  private var produced: UInt32 = 0
  private var consumed: UInt32 = 0
  /// A producer that has nothing to do with what was filled.
  private var isProducerWild = false
  private var isPageWritten = false

  init(_ form: RingForm) throws {
    machine = try PlainMachine(guestPages: 64)
    let geometry = BlockGeometry(
      sectorCount: 64, logicalSectorSize: form.choices & 4 != 0 ? 4096 : 512,
      discard: DiscardAbility(isSecureSupported: true, leavesZeros: true))
    var behaviour = MemoryDisk.Behaviour()
    behaviour.capacity = 256
    disk = try MemoryDisk(geometry: geometry, behaviour: behaviour)
    plan = form.plan
    let shape = RingGeometry(plan)
    ringPages = try machine.guest.allocatePages(shape.pageCount)
    ring = RawRing(ringPages.region, shape)
    FrontRing.initialise(ringPages.region, shape)
    let ringReferences = try machine.guest.allocateReferences(shape.pageCount)
    memory = try machine.guest.allocatePages(Self.pageCount + 2)
    references = try machine.guest.allocateReferences(Self.pageCount)
    counters = try CounterTable(count: QueueCounter.allCases.count)
    for (index, reference) in ringReferences.enumerated() {
      let frame = FrameNumber(rawValue: ringPages.firstFrame.rawValue + UInt64(index))
      machine.guest.grantAccess(reference, to: .control, frame: frame, isReadOnly: false)
    }
    let remotePort = try machine.guest.allocateUnbound(remote: .control)
    let port = try machine.control.bindInterdomain(remote: PlainMachine.guestID, port: remotePort)
    let mapping = try machine.control.mapContiguously(ringReferences, of: PlainMachine.guestID)
    var knobs = BackendKnobs()
    knobs.maxPersistentGrants = 4
    let abilities = BackAbilities(
      isPersistent: form.choices & 1 != 0, maxIndirectSegments: 64, canFlush: true, canBarrier: true, canDiscard: true,
      canDiscardSecurely: true, isReadOnly: form.choices & 2 != 0)
    let connection = BackConnection(
      platform: machine.control, peer: PlainMachine.guestID, port: port, ringPages: mapping, plan: plan,
      abilities: abilities)
    poolLimit = connection.maxBufferPages
    back = BackQueue(
      connection: connection, ring: try BackRing(attachingTo: mapping.region, shape),
      cache: try PersistentGrantCache(knobs: knobs, referenceLimit: 4096),
      image: GatedQueue(try disk.makeQueue(0, buffers: BufferDemand(count: 0, byteCount: 0)), gate),
      geometry: geometry, counters: counters.writer)
    ledgerBefore = machine.ledger
    memory.region.wipe(Self.fenceByte)
    memory.region.wipe(0, at: 4096, byteCount: (Self.pageCount - 1) << 12)
    page(Self.pageCount - 1).wipe(Self.sealedByte)
    grantPages()
  }

  private func page(_ index: Int) -> SharedRegion { memory.region.slice(at: (index + 1) << 12, byteCount: 4096) }

  private func grantPages() {
    for (index, reference) in references.enumerated() {
      let frame = FrameNumber(rawValue: memory.firstFrame.rawValue + UInt64(index + 1))
      machine.guest.grantAccess(
        reference, to: .control, frame: frame, isReadOnly: index == Self.pageCount - 1)
    }
  }

  // MARK: One input

  func play(_ input: inout FuzzInput, isThorough: Bool) -> UInt64 {
    var outcome = Outcome()
    var steps = 0
    while !input.isAtEnd, steps < 16 {
      steps += 1
      step(&input, &outcome)
    }
    gate.isOpen = true
    if !isProducerWild { ring.requestProducer = produced }
    serve(&outcome)
    demand(disk.requestCounts.violations == 0, "the disk is asked for what it can do")
    demand(memory.region.isFilled(Self.fenceByte, at: 0), "a page that was never granted stays as it was")
    demand(
      memory.region.isFilled(Self.fenceByte, at: (Self.pageCount + 1) << 12),
      "a page that was never granted stays as it was")
    demand(page(Self.pageCount - 1).isFilled(Self.sealedByte, at: 0), "a page for reading stays as it was")
    for index in 0..<Self.pageCount - 1 { outcome.note(page(index).load(UInt64.self, at: 0)) }
    outcome.note(back.isBroken)
    putBack(isThorough: isThorough)
    return outcome.value
  }

  private func serve(_ outcome: inout Outcome) {
    for _ in 0..<1000 {
      back.advance()
      if back.prepareToWait() != .workPending { break }
    }
    let end = ring.responseProducer
    var count = 0
    while consumed != end, count < 1024 {
      let answer = ring.response(consumed)
      outcome.note(answer.id)
      outcome.note(UInt64(answer.operation.rawValue) << 16 | UInt64(UInt16(bitPattern: answer.status.rawValue)))
      consumed &+= 1
      count += 1
    }
    if ring.geometry.responseConsumerOffset != nil, !isProducerWild { ring.responseConsumer = consumed }
  }

  private func step(_ input: inout FuzzInput, _ outcome: inout Outcome) {
    switch input.byte() % 10 {
    case 0:
      let place = ring.slot(produced)
      for index in 0..<min(place.byteCount, 112) { place.store(input.byte(), at: index) }
      produced &+= 1
    case 1, 2: putDirect(&input)
    case 3, 4: putLong(&input)
    case 5:
      isPageWritten = true
      page(Int(input.byte()) % (Self.pageCount - 1)).store(
        input.number(UInt64.self), at: Int(input.byte() & 127) * 8)
    case 6:
      ring.requestProducer = produced &+ UInt32(truncatingIfNeeded: Int(Int8(bitPattern: input.byte())))
      isProducerWild = true
    case 7:
      if !isProducerWild { ring.requestProducer = produced }
      serve(&outcome)
    case 8:
      if input.byte() & 1 == 0 {
        outcome.note(machine.guest.endAccess(references[Int(input.byte()) % references.count]))
      } else {
        gate.isOpen.toggle()
      }
    default:
      machine.control.advanceClock(milliseconds: UInt64(input.byte()) * 500)
      back.housekeep()
    }
  }

  private func segment(_ input: inout FuzzInput) -> Segment {
    let choice = Int(input.byte())
    // The ring's own pages are granted, too, and some references not at all.
    let reference =
      choice < 240 ? references[choice % references.count] : GrantReference(rawValue: UInt32(choice - 232))
    let sectors = input.byte()
    return Segment(reference: reference, firstSector: sectors & 15, lastSector: sectors >> 4)
  }

  private func putDirect(_ input: inout FuzzInput) {
    let operation = BlockOperation(rawValue: input.byte() & 15)
    let shape = input.byte()
    let count = min(Int(shape & 15), Format.directSegments)
    let sector = shape & 16 == 0 ? UInt64(input.byte()) : input.number(UInt64.self)
    var slot = RequestSlot<Format>()
    if operation == .discard {
      slot.encodeDiscard(
        isSecure: shape & 32 != 0, handle: 0xCA00, id: UInt64(produced), sector: sector, count: UInt64(input.byte()))
    } else {
      slot.encodeDirect(
        operation, segmentCount: shape & 64 == 0 ? count : Int(input.byte()), handle: 0xCA00, id: UInt64(produced),
        sector: sector)
      for index in 0..<count { slot.setDirectSegment(segment(&input), at: index) }
    }
    ring.write(slot, to: produced)
    produced &+= 1
  }

  /// A request whose segments are elsewhere: in granted pages, or in the ring of segments.
  private func putLong(_ input: inout FuzzInput) {
    let shape = input.byte()
    let operation = BlockOperation(rawValue: shape & 7)
    let sector = shape & 8 == 0 ? UInt64(input.byte()) : input.number(UInt64.self)
    let count = shape & 16 == 0 ? Int(input.byte() & 15) : Int(input.number(UInt16.self))
    var slot = RequestSlot<Format>()
    if Format.indirectPages > 0 {
      slot.encodeIndirect(operation, segmentCount: count, handle: 0xCA00, id: UInt64(produced), sector: sector)
      for index in 0..<min(Format.indirectPages, 3) {
        slot.setIndirectReference(shape & 32 == 0 ? references[index] : segment(&input).reference, at: index)
      }
      if shape & 64 == 0 { describe(min(count, 12), sector, &input) }
    } else if let entries = RingLayout(region: ring.region, geometry: ring.geometry).segmentRing {
      let start = shape & 32 == 0 ? UInt32(input.byte()) : input.number(UInt32.self)
      for index in 0..<UInt32(min(count, 12)) where shape & 64 == 0 {
        entries.store(segment(&input), at: (start &+ index) % entries.count)
      }
      slot.encodeRun(operation, start: start, count: count, handle: 0xCA00, id: UInt64(produced), sector: sector)
    } else {
      return
    }
    ring.write(slot, to: produced)
    produced &+= 1
  }

  /// Writes segments into the first descriptor page, with padding that no backend may look at.
  private func describe(_ count: Int, _ sector: UInt64, _ input: inout FuzzInput) {
    isPageWritten = true
    for index in 0..<count {
      let offset = index * Format.descriptorSize
      if Format.descriptorsCarrySectors { page(0).store(sector &+ UInt64(input.byte()), at: offset) }
      page(0).store(segment(&input).bits | 0xBEEF << 48, at: offset + Format.descriptorSize - 8)
    }
  }

  // MARK: Afterwards

  /// Makes everything as it was; what is not compared here, the harness compares with a new world now and then.
  private func putBack(isThorough: Bool) {
    let platform = machine.control
    demand(back.pending.used == 0, "every request that was taken is answered")
    back.pending.reset(used: Int(back.requestsTaken))
    _ = back.cache.purge(now: .max >> 1) { BackQueue<PlainPlatform, GatedQueue>.unmapOne($0, platform) }
    // The next look for old pages is due as soon as it was at first.
    _ = back.cache.purge(now: 0) { BackQueue<PlainPlatform, GatedQueue>.unmapOne($0, platform) }
    demand(back.cache.count == 0, "no page is in use any more")
    back.pool.giveBackAll(to: platform)
    back.pool = FreePagePool(limit: poolLimit)
    if isThorough { demand(machine.ledger == ledgerBefore, "everything is let go: \(machine.ledger)") }
    for reference in references { demand(machine.guest.endAccess(reference), "a grant can be ended") }
    grantPages()
    if gate.hasRead || isPageWritten { memory.region.wipe(0, at: 4096, byteCount: (Self.pageCount - 1) << 12) }
    if gate.hasWritten { disk.contents.wipe(0) }
    gate.hasRead = false
    gate.hasWritten = false
    isPageWritten = false
    FrontRing.initialise(ringPages.region, ring.geometry)
    do throws(RingViolation) {
      back.ring = try BackRing(attachingTo: back.ringPages.region, ring.geometry)
    } catch {
      demand(false, "a ring that was made anew is one")
    }
    back.isBroken = false
    back.barrier = -1
    back.coalescer = KickCoalescer()
    machine.control.setClock(PlainPlatform.start)
    back.now = PlainPlatform.start
    produced = 0
    consumed = 0
    isProducerWild = false
  }
}

extension PendingRequests {
  /// Every object as it was made, and the free list in the order of their numbers; no more than the first few have been used.
  fileprivate mutating func reset(used: Int) {
    for index in 0..<min(count, used) {
      let next = index + 1 < count ? Int32(index + 1) : -1
      unsafe requests[index] = PendingRequest(id: 0, sector: 0, operation: .read, stage: .free, nextFree: next)
      unsafe extras[index] = RequestExtra()
    }
    firstFree = 0
  }
}

/// Whether requests that were taken may finish.
final class Gate {
  var isOpen = true
  /// Whether one came that changes pages, or the disk.
  var hasRead = false
  var hasWritten = false
}

/// A disk's queue behind a gate.
struct GatedQueue: BlockQueue, ~Copyable {
  private var queue: MemoryDiskQueue
  private let gate: Gate

  init(_ queue: consuming MemoryDiskQueue, _ gate: Gate) {
    self.queue = queue
    self.gate = gate
  }

  var inFlight: Int { queue.inFlight }
  var capacity: Int { queue.capacity }
  var waitDescriptor: CInt { -1 }
  func buffer(_ index: Int) -> MemoryExtent { queue.buffer(index) }
  mutating func submit(_ request: IORequest) -> SubmitOutcome {
    if request.operation == .read { gate.hasRead = true } else { gate.hasWritten = true }
    return queue.submit(request)
  }
  mutating func advance() { if gate.isOpen { queue.advance() } }
  mutating func nextCompletion() -> IOCompletion? { queue.nextCompletion() }
  mutating func prepareToWait() -> WaitReadiness { gate.isOpen ? queue.prepareToWait() : .maySleep }
}
