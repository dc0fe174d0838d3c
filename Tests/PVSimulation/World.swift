// SPDX-License-Identifier: MIT

import BlockBack
import BlockFront
import BlockIO
import GuestMemory
import PVTestSupport
import SharedRing
import XenBus
import XenHypervisor
import XenStore
import XenWire

/// A whole machine on one thread: hypervisor, store, both ends, and an image; what happens next is up to one seed.
///
/// Both ends are the real ones, over platforms, a store and a disk on which luck has its hand. An end runs only when it has a
/// reason to: a user's request, an event, a disk's interrupt; so a wake-up that is lost stops it.
final class World {
  typealias Front = FrontQueue<SimulatedPlatform>
  typealias Back = BackQueue<SimulatedPlatform, SimulatedDiskQueue>

  /// Something that must never happen has happened.
  struct Violation: Error {
    let sentence: String
  }

  /// The two ends of a connection, as far as it has come.
  struct Link {
    let frontend: FrontendDevice<SimulatedPlatform>
    let backend: BackendDevice<SimulatedPlatform>
    var negotiation: Negotiation<SimulatedPlatform>?
  }

  let chance: Chance
  let plan: WorldPlan
  let hypervisor: Hypervisor
  let store: StoreServer
  let toolstack: StoreConnection
  let control: SimulatedPlatform
  var guest: SimulatedPlatform
  let post = EventPost()
  let disk: SimulatedDisk
  let definition: DiskDefinition
  var baseline = ResourceLedger()

  var link: Link?
  var front: Front?
  var back: Back?
  var frontCounters: CounterTable
  var backCounters: CounterTable
  var frontIsAwake = false
  var backIsAwake = false
  var ring: SharedRegion?
  var geometry = RingGeometry(RingPlan())
  /// Pages of earlier connections that were mapped and never counted as unmapped, because their end unmapped them.
  var mappedBefore: UInt64 = 0

  var oracle: SectorOracle
  var ios: [SimulatedIO] = []
  let foreign: MappedMemory
  var stamp: UInt64 = 0
  var inFlight = 0
  var report = WorldReport()

  static var guestID: DomainID { DomainID(rawValue: 1) }

  init(plan: WorldPlan, chance: Chance) throws {
    self.plan = plan
    self.chance = chance
    hypervisor = try Hypervisor(mapping: plan.mapping)
    let first = try hypervisor.createDomain(.control, memoryByteCount: 1 << 20, virtualCPUCount: 1)
    control = SimulatedPlatform(hypervisor: hypervisor, domain: first, chance: chance, post: post)
    guest = try Self.boot(hypervisor, chance, post)
    store = StoreServer(
      clock: { 1_000_000_000 },
      interruption: { chance.strikes(.storeCall) ? (chance.oneIn(2) ? .noSpace : .again) : nil })
    toolstack = store.connect(as: .control)
    disk = SimulatedDisk(sectorCount: WorldPlan.sectorCount, chance: chance)
    oracle = SectorOracle(sectorCount: WorldPlan.sectorCount)
    var definition = DiskDefinition(
      frontend: Self.guestID, device: plan.device, params: "simulated", type: "file")
    definition.isBackendTrusted = plan.isBackendTrusted
    self.definition = definition
    foreign = try MappedMemory(anonymousByteCount: WorldPlan.foreignBuffers * WorldPlan.bufferByteCount)
    frontCounters = try CounterTable(count: FrontCounter.allCases.count)
    backCounters = try CounterTable(count: QueueCounter.allCases.count)
    try introduceGuest()
    baseline = hypervisor.ledger
    for slot in 0..<(WorldPlan.ownBuffers + WorldPlan.foreignBuffers) { ios.append(SimulatedIO(slot: slot)) }
  }

  /// The ends go before what they count into.
  deinit {
    back = nil
    front = nil
  }

  static func boot(_ hypervisor: Hypervisor, _ chance: Chance, _ post: EventPost) throws -> SimulatedPlatform {
    let domain = try hypervisor.createDomain(guestID, memoryByteCount: 64 << 20, virtualCPUCount: 1)
    return SimulatedPlatform(hypervisor: hypervisor, domain: domain, chance: chance, post: post)
  }

  func introduceGuest() throws {
    let home = StorePath.home(of: Self.guestID)
    try toolstack.makeDirectory(home)
    try toolstack.setPermissions(
      home, StorePermissions(owner: .control, others: [], [StorePermission(.read, Self.guestID)]))
    try store.introduce(Self.guestID)
  }

  // MARK: Coming together

  /// Attaches the disk, again and again until luck lets it; the third try is spared.
  func connect() throws {
    var tries = 0
    while front == nil {
      tries += 1
      let wasCalm = chance.isCalm
      if tries > 2 { chance.isCalm = true }
      do {
        try attach()
      } catch is Violation {
        chance.isCalm = wasCalm
        throw Violation(sentence: "attaching broke a rule")
      } catch {
        report.failedAttaches += 1
        chance.note(0xFA11)
        try detach()
      }
      chance.isCalm = wasCalm
      if tries > 10 { throw Violation(sentence: "the ends do not come together, whatever luck does") }
    }
    report.attaches += 1
  }

  private func attach() throws {
    try calmly { try definition.create(in: toolstack) }
    let folders = (
      DeviceFolder(store: store.connect(as: Self.guestID), path: definition.frontendPath),
      DeviceFolder(store: store.connect(as: .control), path: definition.backendPath)
    )
    let made = Link(
      frontend: FrontendDevice(
        platform: guest, folder: folders.0, knobs: plan.frontendKnobs, blockProtocol: plan.blockProtocol),
      backend: BackendDevice(platform: control, folder: folders.1, knobs: plan.backendKnobs))
    link = made
    try made.backend.probe()
    try made.frontend.probe()
    for round in 0..<200 where made.frontend.handshakeState != .connected || made.backend.handshakeState != .connected {
      if chance.oneIn(2) { try moveBackend() } else { try moveFrontend() }
      if round == 199 { throw HandshakeFailure("they wait for each other") }
    }
    try makeQueues(made)
  }

  private func moveBackend() throws {
    guard let made = link else { return }
    for event in made.backend.handleWatches() {
      switch event {
      case .frontendReady:
        let negotiation = try made.backend.connectRings()
        link?.negotiation = negotiation
        try made.backend.announce(disk.geometry)
      case .failed(let sentence): throw HandshakeFailure(sentence)
      default: throw HandshakeFailure("\(event)")
      }
    }
  }

  private func moveFrontend() throws {
    for event in link?.frontend.handleWatches() ?? [] {
      switch event {
      case .connected, .resized: break
      default: throw HandshakeFailure("\(event)")
      }
    }
  }

  private func makeQueues(_ made: Link) throws {
    guard let negotiation = link?.negotiation, let connection = made.frontend.connection(ofQueue: 0) else {
      throw HandshakeFailure("connected without rings")
    }
    let port = negotiation.links[0].port, mapped = negotiation.links[0].ring
    let cache = try PersistentGrantCache(knobs: plan.backendKnobs, referenceLimit: 1 << 15)
    let attached = try BackRing(attachingTo: mapped.region, RingGeometry(negotiation.plan))
    let image = try disk.makeQueue(0, buffers: BufferDemand(count: Int(attached.layout.slotCount), byteCount: 0))
    let abilities = made.backend.abilities(for: disk.geometry, isPersistent: negotiation.isPersistent)
    back = Back(
      connection: BackConnection(
        platform: control, peer: Self.guestID, port: port, ringPages: mapped, plan: negotiation.plan,
        abilities: abilities),
      ring: attached, cache: cache, image: image, geometry: disk.geometry, counters: backCounters.writer)
    back?.plant(plan.faults)
    mappedBefore =
      backCounters[QueueCounter.grants_mapped.rawValue] &- backCounters[QueueCounter.grants_unmapped.rawValue]
    link?.negotiation = nil
    try makeFront(connection)
    ring = connection.ring.region
    geometry = RingGeometry(connection.plan)
    frontIsAwake = true
    backIsAwake = true
  }

  private func makeFront(_ offered: FrontConnection<SimulatedPlatform>) throws {
    var connection = offered
    connection.abilities.discardLeavesZeros = true
    let demand = BufferDemand(count: WorldPlan.ownBuffers, byteCount: WorldPlan.bufferByteCount)
    let descriptors = Front.descriptorPages(connection)
    let pageCount = FrontArena.pageCount(demand: demand, descriptorPages: descriptors)
    let count = Front.referenceCount(connection, arenaPages: pageCount)
    let pages: GuestPages
    do { pages = try guest.allocatePages(pageCount) } catch {
      guest.close(connection.port)
      throw error
    }
    let references: [GrantReference]
    do { references = try guest.allocateReferences(count) } catch {
      guest.freePages(pages)
      guest.close(connection.port)
      throw error
    }
    front = Front(
      connection: connection, arena: FrontArena(pages: pages, demand: demand), references: references,
      counters: frontCounters.writer, faults: plan.faults)
  }

  /// Runs something that luck spares.
  func calmly<R>(_ body: () throws -> R) rethrows -> R {
    let wasCalm = chance.isCalm
    chance.isCalm = true
    defer { chance.isCalm = wasCalm }
    return try body()
  }

  // MARK: Going apart

  /// Takes the disk off, wherever the connection stands, and checks that nothing is left of it.
  func detach() throws {
    guard let made = link else { return }
    try calmly {
      try? definition.startDetach(in: toolstack)
      back = nil
      for link in link?.negotiation?.links ?? [] {
        control.close(link.port)
        control.unmap(link.ring)
      }
      front = nil
      let stuck = made.frontend.finishClosing()
      made.backend.finishClosing()
      link = nil
      ring = nil
      try definition.remove(from: toolstack)
      if stuck != 0 { throw Violation(sentence: "\(stuck) ring pages are still mapped") }
    }
    deliverAll()
    try checkLedger()
  }

  /// Everything that was taken was given back.
  func checkLedger() throws {
    let now = hypervisor.ledger
    if now != baseline { throw Violation(sentence: "left behind: \(now), at first \(baseline)") }
    let complaints = store.check()
    if !complaints.isEmpty { throw Violation(sentence: "the store's books: \(complaints)") }
    if frontCounters[FrontCounter.stuck_pages.rawValue] > 0 { throw Violation(sentence: "stuck pages") }
  }

  /// Delivers every late notification.
  func deliverAll() {
    for letter in post.letters { letter.channels.notify(letter.port) }
    post.letters = []
  }
}
