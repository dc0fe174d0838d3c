// SPDX-License-Identifier: MIT

import BlockBack
import BlockFront
import BlockIO
import GuestMemory
import XenBus
import XenHypervisor
import XenStore
import XenWire

extension World {
  /// Lives until enough requests have been made, comes to rest, and checks that nothing is left.
  func live() throws -> WorldReport {
    for (misfortune, rate) in plan.rates { chance.setRate(misfortune, perMille: rate) }
    chance.isCalm = false
    try connect()
    var steps = 0
    while Int(frontCounters[FrontCounter.requests.rawValue]) < plan.requestCount {
      try step()
      try checkStep()
      steps += 1
      if steps & 127 == 0 { try checkMappings() }
      if steps > plan.requestCount * 400 { throw Violation(sentence: "nothing moves any more") }
    }
    chance.isCalm = true
    try drain()
    try verifyAll()
    try checkExpiry()
    try detach()
    report.requests = frontCounters[FrontCounter.requests.rawValue]
    report.misfortunes = chance.misfortunes.reduce(0) { $0 + UInt64($1) }
    report.digest = chance.digest
    return report
  }

  private func step() throws {
    switch chance.below(1000) {
    case 0..<420: try submit()
    case 420..<600: try runFront()
    case 600..<780: runBack()
    case 780..<930: disk.finishOne()
    case 930..<950: while !disk.pending.isEmpty { disk.finishOne() }
    case 950..<980: deliverOne()
    case 980..<990: passTime()
    case 990..<996: spuriousEvents()
    default: if chance.oneIn(4) { try fate() }
    }
  }

  // MARK: The ends

  func runFront() throws {
    let cpu = guest.inner.domain.virtualCPUs[0]
    if cpu.hasPendingUpcall {
      cpu.takePendingPorts { _ in }
      frontIsAwake = true
    }
    guard frontIsAwake, front != nil else { return }
    front?.issue()
    front?.collect()
    while let completion = front?.nextCompletion() { try complete(completion) }
    frontIsAwake = front?.prepareToWait() == .workPending
  }

  func runBack() {
    let cpu = control.inner.domain.virtualCPUs[0]
    if cpu.hasPendingUpcall {
      cpu.takePendingPorts { _ in }
      backIsAwake = true
    }
    guard backIsAwake || disk.hasNews, back != nil else { return }
    back?.advance()
    if chance.oneIn(16) { back?.housekeep() }
    backIsAwake = back?.prepareToWait() == .workPending
  }

  private func deliverOne() {
    guard !post.letters.isEmpty else { return }
    let letter = post.letters.remove(at: chance.below(post.letters.count))
    letter.channels.notify(letter.port)
  }

  private func spuriousEvents() {
    guard chance.strikes(.spuriousEvent) else { return }
    if let port = back?.port { control.inner.notify(port) }
    if let port = front?.port { guest.inner.notify(port) }
  }

  private func passTime() {
    let amount = UInt64(1 + chance.below(chance.oneIn(4) ? 90_000 : 100)) * 1_000_000
    control.now += amount
    guest.now += amount
    back?.housekeep()
  }

  // MARK: The user

  private func submit() throws {
    let io = ios[chance.below(ios.count)]
    guard !io.isBusy, front != nil else { return }
    let kinds: [IOOperation] = [.write, .read, .write, .read, .write, .read, .flush, .discard, .writeZeroes, .write]
    let kind = chance.below(kinds.count)
    io.operation = kinds[kind]
    io.isForced = kind == kinds.count - 1
    io.sectors = 0..<0
    if io.operation != .flush {
      let count = 1 + chance.below(chance.oneIn(6) ? WorldPlan.bufferByteCount / 512 : 12)
      let start = chance.below(oracle.sectorCount - count + 1)
      io.sectors = start..<start + count
      guard oracle.isFree(io.sectors, forWriting: io.isWriting) else { return }
    }
    prepare(io)
    let request = IORequest(
      tag: UInt64(io.slot), operation: io.operation,
      sectors: SectorRange(start: UInt64(io.sectors.lowerBound), count: UInt64(io.sectors.count)), memory: io.memory,
      forceUnitAccess: io.isForced)
    guard case .accepted? = front?.submit(request) else { return }
    io.isBusy = true
    io.askedAt = oracle.tick()
    inFlight += 1
    oracle.begin(io.sectors, isWriting: io.isWriting)
    frontIsAwake = true
    if chance.oneIn(2) { front?.issue() }
  }

  private func prepare(_ io: SimulatedIO) {
    guard io.operation == .read || io.operation == .write else { return }
    let buffer =
      io.slot < WorldPlan.ownBuffers
      ? front?.buffer(io.slot)
      : MemoryExtent(
        address: foreign.region.address + UInt((io.slot - WorldPlan.ownBuffers) * WorldPlan.bufferByteCount),
        byteCount: WorldPlan.bufferByteCount)
    guard let buffer else { return }
    io.layOut(in: buffer, chance: chance)
    io.firstStamp = stamp + 1
    let isWrite = io.operation == .write
    io.forEachSector { _, memory in
      if isWrite { stamp += 1 }
      SimulatedDisk.fill(memory, with: isWrite ? stamp : .max)
    }
  }

  private func complete(_ completion: IOCompletion) throws {
    let io = ios[Int(completion.tag)]
    guard io.isBusy else { throw Violation(sentence: "an I/O ended twice: \(completion)") }
    chance.note(completion.tag << 8 | UInt64(UInt8(truncatingIfNeeded: completion.errorCode)))
    _ = oracle.tick()
    io.isBusy = false
    inFlight -= 1
    report.ios += 1
    oracle.end(io.sectors, wasWriting: io.isWriting)
    guard completion.errorCode == 0 else { return try fail(io, completion.errorCode) }
    switch io.operation {
    case .read: try checkRead(io)
    case .flush:
      oracle.flushed(askedAt: io.askedAt)
      report.flushes += 1
    default:
      settle(io, isCertain: true)
      if io.isForced { oracle.forced(io.sectors) }
    }
  }

  private func fail(_ io: SimulatedIO, _ errorCode: CInt) throws {
    report.failedIOs += 1
    let hadMisfortune = chance.misfortunes.contains { $0 > 0 }
    if !hadMisfortune { throw Violation(sentence: "\(io.operation) failed with \(errorCode) and nothing went wrong") }
    settle(io, isCertain: false)
  }

  /// Notes what a write leaves, or may leave.
  private func settle(_ io: SimulatedIO, isCertain: Bool) {
    guard io.isWriting else { return }
    for (index, sector) in io.sectors.enumerated() {
      let left = io.operation == .write ? io.firstStamp + UInt64(index) : 0
      oracle.wrote(left, to: sector, isCertain: isCertain)
    }
  }

  private func checkRead(_ io: SimulatedIO) throws {
    try io.forEachSector { sector, memory in
      guard let found = SimulatedDisk.stamp(of: memory) else {
        throw Violation(sentence: "sector \(sector) was read in two halves")
      }
      if let expected = oracle.read(found, from: sector) {
        throw Violation(sentence: "sector \(sector) read as \(found), not one of \(expected)")
      }
    }
  }

  // MARK: Fate

  private func fate() throws {
    switch chance.below(5) {
    case 0:
      try calmly { try drain() }
      try detach()
    case 1: try kill { back = nil }
    case 2: try crashGuest()
    case 3: try kill {}
    default:
      try kill {}
      report.powerCuts += 1
      disk.cutPower()
      try verifySurvivors()
    }
    try connect()
  }

  /// Something dies; what was in flight may have happened or not.
  private func kill(_ body: () -> Void) throws {
    report.deaths += 1
    chance.note(0xDEAD)
    body()
    for _ in 0..<chance.below(4) { try runFront() }
    try detach()
    loseInFlight()
  }

  func loseInFlight() {
    _ = oracle.tick()
    for io in ios where io.isBusy {
      io.isBusy = false
      oracle.end(io.sectors, wasWriting: io.isWriting)
      settle(io, isCertain: false)
    }
    inFlight = 0
  }

  /// The guest is destroyed while its disk is in use; the backend goes on until somebody tells it.
  private func crashGuest() throws {
    report.deaths += 1
    chance.note(0xC4A5)
    hypervisor.destroyDomain(Self.guestID)
    for _ in 0..<chance.below(6) {
      runBack()
      disk.finishOne()
    }
    try calmly {
      back = nil
      front = nil
      _ = link?.frontend.finishClosing()
      link = nil
      ring = nil
      try? definition.remove(from: toolstack)
      try store.release(Self.guestID)
      guest = try Self.boot(hypervisor, chance, post)
      try introduceGuest()
    }
    post.letters = []
    loseInFlight()
    try checkLedger()
  }
}
