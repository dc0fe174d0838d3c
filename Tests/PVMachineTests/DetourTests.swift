// SPDX-License-Identifier: MIT

import BlockBack
import BlockIO
import Glibc
import GuestMemory
import PVMachine
import PVTestSupport
import Protection
import Synchronization
import Testing
import XenBus
import XenHypervisor
import XenWire

/// A disk with two users and one ring, so that the I/O of queue 1 travels through queue 0.
///
/// Both are on the test's thread.
struct Crossing: ~Copyable {
  typealias Queue = AttachedDisk<GatedDisk>.Queue

  let image: GatedDisk
  let machine: Machine
  let disk: AttachedDisk<GatedDisk>
  var carrier: Queue? = nil
  var traveller: Queue? = nil
  /// The traveller's completions, by tag.
  var codes: [UInt64: CInt] = [:]
  /// What requests name, for as long as the queues are there.
  private var named: [ScatteredMemory] = []

  static let sectorCount = 8192

  init(_ image: GatedDisk, _ machine: Machine, _ disk: AttachedDisk<GatedDisk>) {
    self.image = image
    self.machine = machine
    self.disk = disk
  }

  /// Attaches the disk and makes both queues.
  static func start(
    _ mapping: MappingStrategy, grantFrames: Int = 64, _ change: (inout DiskConfiguration) -> Void = { _ in }
  ) throws -> Crossing {
    var behaviour = MemoryDisk.Behaviour()
    behaviour.queueCount = 2
    let image = GatedDisk(
      try MemoryDisk(geometry: BlockGeometry(sectorCount: UInt64(sectorCount)), behaviour: behaviour))
    var machineConfiguration = MachineConfiguration()
    machineConfiguration.mapping = mapping
    machineConfiguration.guestLimits.grantFrames = grantFrames
    let machine = try Machine(machineConfiguration)
    var configuration = DiskConfiguration()
    configuration.queues = 2
    change(&configuration)
    let disk = try machine.attach(image, as: configuration)
    var crossing = Crossing(image, machine, disk)
    crossing.carrier = try disk.makeQueue(0, buffers: BufferDemand(count: 4, byteCount: 65536))
    crossing.traveller = try disk.makeQueue(1, buffers: BufferDemand(count: 4, byteCount: 65536))
    return crossing
  }

  /// Gives the disk a backend with so many queues.
  mutating func replaceBackend(queues: Int) {
    disk.replaceBackend(with: knobs(queues: queues))
    let isThere = turn { [disk] _ in disk.phase == .connected && disk.queueCount == queues }
    #expect(isThere, "no connection of \(queues) queues")
  }

  func knobs(queues: Int) -> BackendKnobs {
    var knobs = disk.backend.knobs
    knobs.maxQueues = queues
    return knobs
  }

  /// Drives both queues until something is so; false when it is not within ten seconds.
  mutating func turn(until isSo: (borrowing Crossing) -> Bool) -> Bool {
    let deadline = time(nil) + 10
    repeat {
      for _ in 0..<2 {
        carrier?.advance()
        while let completion = carrier?.nextCompletion() { Issue.record("a stray completion \(completion)") }
        traveller?.advance()
        while let completion = traveller?.nextCompletion() {
          #expect(codes[completion.tag] == nil, "I/O \(completion.tag) was answered twice")
          codes[completion.tag] = completion.errorCode
        }
        _ = carrier?.prepareToWait()
        _ = traveller?.prepareToWait()
      }
      if isSo(self) { return true }
      usleep(100)
    } while time(nil) < deadline
    return false
  }

  /// Hands the traveller an I/O of one sector for each tag.
  mutating func submit(_ operation: IOOperation, _ tags: Range<Int>, _ memory: [ScatteredMemory]) {
    named += memory
    for tag in tags {
      let outcome = traveller?.submit(.at(tag * 512, 512, operation, memory[tag], tag: UInt64(tag)))
      guard case .accepted? = outcome else {
        Issue.record("I/O \(tag) was not accepted")
        return
      }
    }
  }

  /// I/Os in the carrier's hands.
  var carried: Int {
    switch carrier {
    case .some(let queue): queue.inFlight
    case .none: 0
    }
  }

  /// Lets everything go and looks whether anything is left behind.
  consuming func end(_ before: ResourceLedger) {
    let (disk, machine) = (disk, machine)
    carrier = nil
    traveller = nil
    #expect(disk.detach() == 0)
    #expect(machine.ledger == before)
  }
}

@Suite("I/O that travels through another queue")
struct DetourTests {
  static func sectors(_ count: Int, seed: UInt64) throws -> [ScatteredMemory] {
    var random = SeededGenerator(seed: seed)
    return try (0..<count).map { _ in
      let memory = try ScatteredMemory(byteCount: 512)
      memory.bytes = random.bytes(512)
      return memory
    }
  }

  @Test(
    "comes back when that queue ends in the middle, and what was done is not done again",
    arguments: MappingStrategy.allCases)
  func carrierEnds(mapping: MappingStrategy) throws {
    let memory = try Self.sectors(40, seed: 1)
    var crossing = try Crossing.start(mapping)
    crossing.replaceBackend(queues: 1)
    crossing.image.isOpen = false
    crossing.submit(.write, 0..<40, memory)
    let image = crossing.image
    try #require(crossing.turn { _ in image.log.count == 32 }, "a whole ring is under way, the others wait outside")
    for _ in 0..<5 { image.release() }
    crossing.carrier = nil
    image.isOpen = true
    try #require(crossing.turn { $0.codes.count == 40 }, "\(crossing.codes.count) of 40 came back")
    #expect(crossing.codes.values.allSatisfy { $0 == 0 })
    let asked = Dictionary(grouping: image.log, by: \.sectors.start).mapValues(\.count)
    for sector in UInt64(0)..<5 {
      #expect(asked[sector] == 1, "sector \(sector) was written \(asked[sector] ?? 0) times")
    }
    for tag in 0..<40 {
      let isThere = Array(image.disk.bytes[tag * 512..<(tag + 1) * 512]) == memory[tag].bytes
      #expect(isThere, "sector \(tag)")
    }
  }

  @Test(
    "that waited before a door is not forgotten when its owner has a ring again and that queue ends",
    arguments: MappingStrategy.allCases)
  func doorlessCarrierEnds(mapping: MappingStrategy) throws {
    let memory = try Self.sectors(50, seed: 2)
    var crossing = try Crossing.start(mapping)
    crossing.replaceBackend(queues: 1)
    crossing.image.isOpen = false
    crossing.submit(.write, 0..<50, memory)
    let image = crossing.image
    try #require(crossing.turn { _ in image.log.count == 32 })
    crossing.replaceBackend(queues: 2)
    crossing.carrier = nil
    image.isOpen = true
    try #require(crossing.turn { $0.codes.count == 50 }, "\(crossing.codes.count) of 50 came back")
    #expect(crossing.codes.values.allSatisfy { $0 == 0 })
  }

  @Test(
    "of a queue that ends touches none of its memory any more", arguments: MappingStrategy.allCases)
  func travellerEnds(mapping: MappingStrategy) throws {
    var crossing = try Crossing.start(mapping)
    let (machine, image) = (crossing.machine, crossing.image)
    crossing.replaceBackend(queues: 1)
    image.isOpen = false
    var buffers: [ExtentArray] = []
    for index in 0..<4 {
      buffers.append(ExtentArray([crossing.traveller?.buffer(index) ?? MemoryExtent(address: 0, byteCount: 0)]))
    }
    for tag in 0..<4 {
      let range = SectorRange(start: UInt64(tag) * 128, count: 128)
      let outcome = crossing.traveller?.submit(
        IORequest(tag: UInt64(tag), operation: .read, sectors: range, memory: buffers[tag].list))
      guard case .accepted? = outcome else { throw BlockError.unsupported("not accepted") }
    }
    try #require(crossing.turn { _ in image.log.count == 4 })
    crossing.traveller = nil
    // Whoever gets the pages next has them for itself.
    let pages = try machine.guest.memory.allocate(600)
    pages.region.fill(0xAA)
    image.isOpen = true
    let isIdle = crossing.turn { crossing in crossing.carried == 0 }
    #expect(isIdle)
    let isUntouched = pages.region.withUnsafeBytesCopied(count: pages.region.byteCount).allSatisfy { $0 == 0xAA }
    #expect(isUntouched, "somebody wrote into pages that were given back")
    machine.guest.memory.free(pages)
    #expect(crossing.codes.isEmpty)
    withExtendedLifetime(buffers) {}
  }

  @Test("fails when that queue gets no ring, instead of waiting for ever")
  func carrierFails() throws {
    let memory = try Self.sectors(4, seed: 3)
    var crossing = try Crossing.start(.remap, grantFrames: 8)
    let (disk, machine) = (crossing.disk, crossing.machine)
    let isSuspended = Atomic(false)
    let taken = Mutex<[GrantReference]>([])
    disk.suspend {
      // Nothing is left for the queues but what the rings themselves need.
      while let more = try? machine.guest.grantTable.allocateReferences(256) { taken.withLock { $0 += more } }
      isSuspended.store(true, ordering: .releasing)
    }
    try #require(crossing.turn { _ in isSuspended.load(ordering: .acquiring) })
    crossing.submit(.write, 0..<4, memory)
    disk.resume(with: crossing.knobs(queues: 1))
    try #require(crossing.turn { $0.codes.count == 4 }, "\(crossing.codes.count) of 4 came back")
    #expect(crossing.codes.values.allSatisfy { $0 == EIO })
    #expect(disk.phase == .connected, "\(String(describing: disk.failure))")
    machine.guest.grantTable.freeReferences(taken.withLock { $0 })
  }

  @Test("is carried again when the disk was gone and has come back")
  func comesBack() throws {
    let memory = try Self.sectors(4, seed: 5)
    var crossing = try Crossing.start(.remap)
    crossing.replaceBackend(queues: 1)
    crossing.disk.closeFrontend()
    let disk = crossing.disk
    let isGone = crossing.turn { _ in disk.phase == .gone }
    try #require(isGone)
    crossing.submit(.write, 0..<2, memory)
    try #require(crossing.turn { $0.codes.count == 2 }, "\(crossing.codes.count) of 2 came back")
    #expect(crossing.codes.values.allSatisfy { $0 == EIO })
    disk.reopen()
    let isBack = crossing.turn { _ in disk.phase == .connected }
    try #require(isBack)
    crossing.submit(.write, 2..<4, memory)
    try #require(crossing.turn { $0.codes.count == 4 }, "\(crossing.codes.count) of 4 came back")
    #expect(crossing.codes[2] == 0 && crossing.codes[3] == 0)
  }

  @Test("takes its caller's protection tuples along, both ways")
  func tuples() throws {
    var crossing = try Crossing.start(.remap) { $0.rings.protection = .sector }
    crossing.replaceBackend(queues: 1)
    var random = SeededGenerator(seed: 4)
    let data = try ScatteredMemory(pieces: [512, 1536])
    data.bytes = random.bytes(2048)
    let tuples = try ScatteredMemory(byteCount: 32)
    var cursor = TupleCursor(tuples.list)
    ProtectionScanner(form: ProtectionForm()).generate(data.list, sector: 64, into: &cursor)
    func run(_ operation: IOOperation, _ data: ScatteredMemory, _ tuples: ScatteredMemory, tag: UInt64) -> CInt? {
      let outcome = crossing.traveller?.submit(
        .at(64 * 512, 2048, operation, data, tag: tag), tuples: tuples.list[0])
      guard case .accepted? = outcome, crossing.turn(until: { $0.codes[tag] != nil }) else { return nil }
      return crossing.codes[tag]
    }
    #expect(run(.write, data, tuples, tag: 1) == 0)
    let back = try ScatteredMemory(byteCount: 2048)
    let backTuples = try ScatteredMemory(byteCount: 32)
    #expect(run(.read, back, backTuples, tag: 2) == 0)
    #expect(back.bytes == data.bytes && backTuples.bytes == tuples.bytes)
    tuples.bytes[17] ^= 1
    #expect(run(.write, data, tuples, tag: 3) == ProtectionViolation.errorCode, "the third sector's guard is wrong")
    #expect(crossing.disk.findings.back.violations.map(\.sector) == [66])
    #expect(crossing.disk.visits == 3)
  }
}
