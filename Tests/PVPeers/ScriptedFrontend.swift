// SPDX-License-Identifier: MIT

public import BlockBack
public import BlockIO
import GuestMemory
public import PVTestSupport
public import SharedRing
public import XenHypervisor
public import XenWire

/// A frontend that keeps to no rules, before a real ``BackQueue`` over a disk in memory.
///
/// It writes any bytes into slots, descriptor pages, grant entries and indices, lets the backend run, and reads the
/// answers as raw bytes.
public final class ScriptedFrontend<ABI: RingFormat> {
  /// What the backend is made with.
  public struct Setup {
    /// What was agreed; everything is offered unless changed.
    public var abilities = BackAbilities(
      isPersistent: false, maxIndirectSegments: 256, canFlush: true, canBarrier: true, canDiscard: true,
      canDiscardSecurely: true, isReadOnly: false)
    /// The disk; 2048 sectors of 512 bytes unless changed.
    public var geometry = BlockGeometry(
      sectorCount: 2048, discard: DiscardAbility(isSecureSupported: true, leavesZeros: true))
    /// The backend's settings.
    public var knobs = BackendKnobs()
    /// Pages in the ring.
    public var ringPages = 1
    /// The form of the rings; nil: a shared ring of the format.
    public var plan: RingPlan?
    /// When the backend notifies.
    public var policy = NotificationPolicy.holdOff
    /// Where the ring's indices begin.
    public var start: UInt32 = 0
    /// How foreign pages are mapped.
    public var mapping = MappingStrategy.remap
    /// Bugs of the backend.
    public var faults = RingFaults()
    /// Whether the backend notes what it has taken, so that ``ScriptedFrontend/restartBackend()`` works.
    public var isRestartable = false
    /// Pages that the backend's domain can give up for foreign ones to stand in.
    public var bufferPages = Int.max

    /// The defaults.
    public init() {}
  }

  /// The backend under test.
  public typealias Back = BackQueue<PeerPlatform, GatedDiskQueue>

  /// Both domains.
  public let machine: PeerMachine
  /// What everybody held before the ring was made.
  public let ledgerBefore: ResourceLedger
  /// The disk under the backend.
  public let disk: GatedDisk
  /// The ring.
  public let ring: RawRing<ABI>
  /// The backend's counters.
  public let counters: CounterTable
  /// The backend; nil lets it go.
  public var back: Back?
  /// The index of the next slot to fill.
  public var produced: UInt32
  /// The index of the next response to read.
  public var consumed: UInt32
  private let setup: Setup
  private let plan: RingPlan
  private let remotePort: EventPort
  private let notes: MappedMemory
  private let ringPages: GuestPages
  private let ringReferences: [GrantReference]
  private var pages: [GrantedPage] = []

  /// Makes both ends.
  public init(_ setup: Setup = Setup()) throws {
    machine = try PeerMachine(mapping: setup.mapping, bufferPages: setup.bufferPages)
    ledgerBefore = machine.ledger
    disk = GatedDisk(try MemoryDisk(geometry: setup.geometry))
    let plan = setup.plan ?? ABI.plan(ringPages: setup.ringPages)
    precondition(ABI.isOf(plan), "a plan of another format")
    let geometry = RingGeometry(plan)
    ringPages = try machine.guest.allocatePages(geometry.pageCount)
    ring = RawRing(ringPages.region, geometry)
    produced = setup.start
    consumed = setup.start
    FrontRing.initialise(ringPages.region, geometry, start: RingIndex(rawValue: setup.start))
    ringReferences = try machine.guest.allocateReferences(geometry.pageCount)
    for (index, reference) in ringReferences.enumerated() {
      let frame = FrameNumber(rawValue: ringPages.firstFrame.rawValue + UInt64(index))
      machine.guest.grantAccess(reference, to: .control, frame: frame, isReadOnly: false)
    }
    remotePort = try machine.guest.allocateUnbound(remote: .control)
    counters = try CounterTable(count: QueueCounter.allCases.count)
    self.setup = setup
    self.plan = plan
    let slots = Int(RingGeometry(plan).depth)
    let stride = RingLayout(region: ringPages.region, geometry: geometry).requestStride
    notes = try MappedMemory(anonymousByteCount: TakenRequests.byteCount(slots: slots, stride: stride))
    try startBackend()
  }

  private func startBackend() throws {
    let port = try machine.control.bindInterdomain(remote: PeerMachine.guestID, port: remotePort)
    let mapping = try machine.control.mapContiguously(ringReferences, of: PeerMachine.guestID)
    var connection = BackConnection(
      platform: machine.control, peer: PeerMachine.guestID, port: port, ringPages: mapping, plan: plan,
      abilities: setup.abilities, policy: setup.policy)
    connection.maxBufferPages = setup.knobs.maxBufferPages
    connection.bufferSqueezeMilliseconds = setup.knobs.bufferSqueezeMilliseconds
    if setup.isRestartable { connection.taken = (notes.region, 1) }
    let attached = try BackRing(attachingTo: mapping.region, RingGeometry(plan))
    let cache = try PersistentGrantCache(knobs: setup.knobs)
    let image = try disk.makeQueue(0, buffers: BufferDemand(count: Int(ring.slotCount), byteCount: 0))
    back = Back(
      connection: connection, ring: attached, cache: cache, image: image, geometry: setup.geometry,
      counters: counters.writer)
    back?.plant(setup.faults)
  }

  /// Lets the backend die with all that it has in hand, and starts another one on the same ring.
  /// - Returns: how many requests the new one took up from the old one's notes.
  @discardableResult
  public func restartBackend() throws -> Int {
    back = nil
    try startBackend()
    return back?.takeUp() ?? 0
  }

  /// The backend goes before the counters that it writes to.
  deinit { back = nil }

  // MARK: Memory

  /// Takes a page and grants it to the backend.
  public func grantPage(isReadOnly: Bool = false, to domain: DomainID = .control) throws -> GrantedPage {
    try grantPages(1, isReadOnly: isReadOnly, to: domain)[0]
  }

  /// Takes adjacent pages and grants each.
  public func grantPages(_ count: Int, isReadOnly: Bool = false, to domain: DomainID = .control) throws -> [GrantedPage]
  {
    let memory = try machine.guest.allocatePages(count)
    let references = try machine.guest.allocateReferences(count)
    let granted = references.enumerated().map { index, reference in
      let frame = FrameNumber(rawValue: memory.firstFrame.rawValue + UInt64(index))
      machine.guest.grantAccess(reference, to: domain, frame: frame, isReadOnly: isReadOnly)
      return GrantedPage(
        reference: reference, frame: frame, region: memory.region.slice(at: index * 4096, byteCount: 4096))
    }
    pages += granted
    return granted
  }

  /// Writes segments into descriptor pages, 512 in each, with padding that no backend may look at.
  public func describe(_ segments: [Segment], in pages: [GrantedPage]) {
    for (index, segment) in segments.enumerated() {
      pages[index / 512].region.store(segment.bits | 0xBEEF << 48, at: (index % 512) * 8)
    }
  }

  /// Writes entries that say where on the disk they go, 256 in each page, padding as no backend may look at.
  public func describe(_ entries: [(sector: UInt64, segment: Segment)], in pages: [GrantedPage]) {
    for (index, entry) in entries.enumerated() {
      let page = pages[index / 256].region
      page.store(entry.sector, at: (index % 256) * 16)
      page.store(entry.segment.bits | 0xBEEF << 48, at: (index % 256) * 16 + 8)
    }
  }

  // MARK: Requests

  /// Puts a request into the next slot: filled with garbage first, so that what is not written is not zero.
  public func put(_ build: (inout RequestSlot<ABI>) -> Void) {
    var slot = RequestSlot<ABI>()
    build(&slot)
    ring.write(slot, to: produced)
    produced &+= 1
  }

  /// Puts a direct request; `count` can lie about the number of segments.
  public func direct(
    _ operation: BlockOperation, id: UInt64 = 7, sector: UInt64 = 0, _ segments: [Segment] = [], count: Int? = nil
  ) {
    put { slot in
      slot.encodeDirect(
        operation, segmentCount: count ?? segments.count, handle: 0xCA00, id: id, sector: sector)
      for (index, segment) in segments.prefix(ABI.directSegments).enumerated() {
        slot.setDirectSegment(segment, at: index)
      }
    }
  }

  /// Puts an indirect request; `count` can lie about the number of segments.
  public func indirect(
    _ inner: BlockOperation, id: UInt64 = 7, sector: UInt64 = 0, count: Int, _ references: [GrantReference]
  ) {
    put { slot in
      slot.encodeIndirect(inner, segmentCount: count, handle: 0xCA00, id: id, sector: sector)
      for (index, reference) in references.prefix(ABI.indirectPages).enumerated() {
        slot.setIndirectReference(reference, at: index)
      }
    }
  }

  /// Puts a discard.
  public func discard(id: UInt64 = 7, sector: UInt64, count: UInt64, isSecure: Bool = false) {
    put { $0.encodeDiscard(isSecure: isSecure, handle: 0xCA00, id: id, sector: sector, count: count) }
  }

  /// Puts a request for a run of the segment ring, after its entries; `count` can lie.
  public func run(
    _ inner: BlockOperation, id: UInt64 = 7, sector: UInt64 = 0, start: UInt32, count: Int? = nil, _ segments: [Segment]
  ) {
    if let entries = RingLayout(region: ring.region, geometry: ring.geometry).segmentRing {
      for (index, segment) in segments.enumerated() {
        entries.store(segment, at: (start &+ UInt32(index)) % entries.count)
      }
    }
    put { slot in
      slot.encodeRun(
        inner, start: start, count: count ?? segments.count, handle: 0xCA00, id: id, sector: sector)
    }
  }

  /// Publishes what was put, and lets the backend run until it has nothing more to do.
  /// - Returns: the answers.
  public func run() -> [BlockResponse] {
    ring.requestProducer = produced
    return runBackend()
  }

  /// Lets the backend run until it would sleep.
  public func runBackend() -> [BlockResponse] {
    for _ in 0..<10_000 {
      back?.advance()
      if back?.prepareToWait() != .workPending { break }
    }
    return takeResponses()
  }

  /// Reads the answers that are there.
  public func takeResponses() -> [BlockResponse] {
    var responses: [BlockResponse] = []
    let end = ring.responseProducer
    while consumed != end {
      responses.append(ring.response(consumed))
      consumed &+= 1
    }
    return responses
  }

  // MARK: What happened

  /// One of the backend's counters.
  public subscript(counter: QueueCounter) -> UInt64 { counters[counter.rawValue] }

  /// Pages of the guest that the backend holds mapped, without the ring's.
  public var mappedPages: Int { machine.ledger.mappings - ringReferences.count }

  /// Lets the backend go, ends every grant and gives everything back.
  /// - Returns: whether each grant could be ended and nothing is left.
  public func tearDown() -> Bool {
    back = nil
    var isClean = true
    for reference in ringReferences + pages.map(\.reference) where !machine.guest.endAccess(reference) {
      isClean = false
    }
    let now = machine.ledger
    return isClean && now.mappings == 0 && now.pinnedGrants == 0 && now.mappedBytes == 0
  }
}
