// SPDX-License-Identifier: MIT

public import BlockFront
public import BlockIO
public import GuestMemory
public import PVTestSupport
public import SharedRing
import XenHypervisor
public import XenWire

/// A request as a backend finds it in the ring, with the segments from wherever they stand.
public struct TakenRequest: Sendable, CustomStringConvertible {
  /// The opcode in the slot.
  public let operation: BlockOperation
  /// The opcode that the response must name.
  public let meant: BlockOperation
  /// The id.
  public let id: UInt64
  /// The first sector.
  public let sector: UInt64
  /// The device handle.
  public let handle: UInt16
  /// The segments.
  public let segments: [Segment]
  /// A discard's length in sectors.
  public let discardCount: UInt64
  /// A discard's flag byte.
  public let discardFlag: UInt8
  /// Descriptor pages.
  public let descriptorPages: [GrantReference]
  /// The sector number of each descriptor, where descriptors carry them.
  public let entrySectors: [UInt64]

  /// Sectors that the segments cover.
  public var sectorCount: UInt64 { segments.reduce(0) { $0 + UInt64($1.sectorCount) } }
  /// Opcode, id, place and length.
  public var description: String { "op \(operation.rawValue)/\(meant.rawValue) id \(id) \(sector)+\(sectorCount)" }
}

/// A backend that keeps to no rules, behind a real ``FrontQueue``.
///
/// It reads requests from the ring's memory, moves data through real grant mappings if it is told to, and answers with
/// whatever the test wants.
public final class HostileBackend<ABI: RingFormat> {
  /// What the frontend is made with.
  public struct Setup {
    /// What was agreed; all is offered unless changed.
    public var abilities = FrontAbilities(
      isPersistent: true, maxSegments: 32, canFlush: true, canBarrier: true, canDiscard: true, canDiscardSecurely: true,
      isBackendTrusted: true)
    /// The user's buffers: four of 1 MiB unless changed.
    public var buffers = BufferDemand(count: 4, byteCount: 1 << 20)
    /// Pages in the ring.
    public var ringPages = 1
    /// Bugs of the frontend.
    public var faults = RingFaults()
    /// The form of the rings; nil: a shared ring of the format.
    public var plan: RingPlan?

    /// The defaults.
    public init() {}
  }

  /// The frontend under test.
  public typealias Front = FrontQueue<PeerPlatform>

  /// Both domains.
  public let machine: PeerMachine
  /// The ring.
  public let ring: RawRing<ABI>
  /// The frontend's counters.
  public let counters: CounterTable
  /// The disk's bytes, for an honest answer.
  public let storage: MappedMemoryOwner
  /// The frontend; nil lets it go.
  public var front: Front?
  /// The index of the next request to read.
  public var consumed: UInt32 = 0
  /// The index of the next response to write.
  public var produced: UInt32 = 0
  private let abilities: FrontAbilities
  private var named: [ExtentArray] = []

  /// Makes both ends.
  public init(_ setup: Setup = Setup()) throws {
    machine = try PeerMachine()
    abilities = setup.abilities
    let plan = setup.plan ?? ABI.plan(ringPages: setup.ringPages)
    precondition(ABI.isOf(plan), "a plan of another format")
    let geometry = RingGeometry(plan)
    let pages = try machine.guest.allocatePages(geometry.pageCount)
    ring = RawRing(pages.region, geometry)
    storage = try MappedMemoryOwner(byteCount: 16 << 20)
    FrontRing.initialise(pages.region, geometry)
    let remote = try machine.guest.allocateUnbound(remote: .control)
    _ = try machine.control.bindInterdomain(remote: PeerMachine.guestID, port: remote)
    counters = try CounterTable(count: FrontCounter.allCases.count)
    let connection = FrontConnection(
      platform: machine.guest, peer: .control, port: remote, ring: pages, plan: plan, handle: 0xCA00,
      abilities: setup.abilities)
    let descriptors = Front.descriptorPages(connection)
    let pageCount = FrontArena.pageCount(demand: setup.buffers, descriptorPages: descriptors)
    let count = Front.referenceCount(connection, arenaPages: pageCount)
    front = Front(
      connection: connection,
      arena: FrontArena(pages: try machine.guest.allocatePages(pageCount), demand: setup.buffers),
      references: try machine.guest.allocateReferences(count), counters: counters.writer, faults: setup.faults)
  }

  /// The frontend goes before the counters that it writes to.
  deinit { front = nil }

  /// One of the frontend's counters.
  public subscript(counter: FrontCounter) -> UInt64 { counters[counter.rawValue] }

  // MARK: Requests

  /// Reads the requests that the frontend has published since the last call.
  public func take() -> [TakenRequest] {
    var taken: [TakenRequest] = []
    let end = ring.requestProducer
    while consumed != end {
      taken.append(read(consumed))
      consumed &+= 1
    }
    return taken
  }

  private func read(_ index: UInt32) -> TakenRequest {
    let slot = ring.request(index)
    let isIndirect = slot.operation == .indirect
    let isDiscard = slot.operation == .discard
    var segments: [Segment] = []
    var tables: [GrantReference] = []
    var sectors: [UInt64] = []
    if isIndirect {
      let count = slot.indirectSegmentCount
      tables = (0..<ABI.descriptorPages(for: count)).map { slot.indirectReference($0) }
      for (page, table) in tables.enumerated() {
        withPage(table, writable: false) { region in
          for place in 0..<min(ABI.descriptorsPerPage, count - page * ABI.descriptorsPerPage) {
            let offset = place * ABI.descriptorSize
            if ABI.descriptorsCarrySectors { sectors.append(region.load(UInt64.self, at: offset)) }
            segments.append(Segment(bits: region.load(UInt64.self, at: offset + ABI.descriptorSize - 8)))
          }
        }
      }
    } else if slot.operation == .segmentRun,
      let entries = RingLayout(region: ring.region, geometry: ring.geometry).segmentRing
    {
      segments = (0..<UInt32(slot.runCount)).map { entries.load(at: (slot.runStart + $0) % entries.count) }
    } else if !isDiscard {
      segments = (0..<slot.directSegmentCount).map { slot.directSegment($0) }
    }
    return TakenRequest(
      operation: slot.operation,
      meant: isIndirect || slot.operation == .segmentRun ? slot.innerOperation : slot.operation, id: slot.id,
      sector: sectors.first ?? slot.sector, handle: isIndirect ? slot.indirectHandle : slot.directHandle,
      segments: segments,
      discardCount: isDiscard ? slot.discardCount : 0, discardFlag: isDiscard ? slot.discardFlag : 0,
      descriptorPages: tables, entrySectors: sectors)
  }

  /// Maps one page for as long as the body runs; false when the frontend does not let it.
  @discardableResult
  public func withPage(_ reference: GrantReference, writable: Bool, _ body: (SharedRegion) -> Void) -> Bool {
    guard let mapping = hold(reference, writable: writable) else { return false }
    // SAFETY: the page is mapped until `letGo`.
    if let base = unsafe UnsafeMutableRawPointer(bitPattern: mapping.address) {
      unsafe body(SharedRegion(unsafeBase: base, byteCount: 4096))
    }
    letGo(mapping.handle)
    return true
  }

  /// Maps one page and keeps it.
  public func hold(_ reference: GrantReference, writable: Bool = true) -> (handle: GrantHandle, address: UInt)? {
    var results = [GrantMapping(status: .generalError)]
    var span = results.mutableSpan
    machine.control.map([reference].span, of: PeerMachine.guestID, writable: writable, into: &span)
    return results[0].status == .okay ? (results[0].handle, results[0].address) : nil
  }

  /// Unmaps a page that was kept.
  public func letGo(_ handle: GrantHandle) { machine.control.unmap([handle].span) }

  /// Moves a request's data between its pages and the storage, as an honest backend would.
  /// - Returns: whether every page could be mapped.
  public func move(_ request: TakenRequest) -> Bool {
    var offset = Int(request.sector) * 512
    var isComplete = true
    for segment in request.segments {
      let count = segment.sectorCount * 512
      let place = Int(segment.firstSector) * 512
      let isMapped = withPage(segment.reference, writable: request.meant == .read) { page in
        let disk = storage.region.slice(at: offset, byteCount: count)
        let memory = page.slice(at: place, byteCount: count)
        if request.meant == .read { disk.copy(to: memory) } else { memory.copy(to: disk) }
      }
      isComplete = isComplete && isMapped
      offset += count
    }
    return isComplete
  }

  // MARK: Responses

  /// Writes a response into the next slot and publishes it.
  public func respond(_ response: BlockResponse) {
    ring.write(response, to: produced)
    produced &+= 1
    ring.responseProducer = produced
  }

  /// Answers a request.
  public func respond(to request: TakenRequest, _ status: BlockStatus = .okay) {
    respond(BlockResponse(id: request.id, operation: request.meant, status: status))
  }

  // MARK: The frontend's user

  /// Submits, issues, and keeps what the request names alive.
  public func submit(
    _ operation: IOOperation, sector: UInt64 = 0, count: UInt64 = 0, _ memory: ExtentArray? = nil,
    forceUnitAccess: Bool = false, tag: UInt64 = 1
  ) -> Bool {
    let request = IORequest(
      tag: tag, operation: operation, sectors: SectorRange(start: sector, count: count), memory: memory?.list,
      forceUnitAccess: forceUnitAccess)
    if let memory { named.append(memory) }
    guard case .accepted? = front?.submit(request) else { return false }
    front?.issue()
    return true
  }

  /// A part of a user's buffer.
  public func memory(_ byteCount: Int, at offset: Int = 0, buffer: Int = 0) -> ExtentArray {
    let whole = front?.buffer(buffer).address ?? 0
    return ExtentArray([MemoryExtent(address: whole + UInt(offset), byteCount: byteCount)])
  }

  /// Lets the frontend take answers, issue what it held back, and hands over what finished.
  public func completions() -> [IOCompletion] {
    var finished: [IOCompletion] = []
    for _ in 0..<4 {
      front?.collect()
      front?.issue()
      while let completion = front?.nextCompletion() { finished.append(completion) }
    }
    return finished
  }

  /// Serves honestly until the frontend asks for nothing more.
  public func serveAll() -> [IOCompletion] {
    var finished = completions()
    for _ in 0..<1000 {
      let requests = take()
      if requests.isEmpty { break }
      for request in requests { respond(to: request, move(request) ? .okay : .error) }
      finished += completions()
    }
    return finished
  }
}

/// Memory that stays as long as its owner.
public final class MappedMemoryOwner: Sendable {
  private let memory: MappedMemory
  /// Maps zeroed memory.
  public init(byteCount: Int) throws { memory = try MappedMemory(anonymousByteCount: byteCount) }
  /// The bytes.
  public var region: SharedRegion { memory.region }
}

extension SharedRegion {
  /// Copies the whole window into another of the same length.
  func copy(to other: SharedRegion) {
    unsafe withUnsafeBytes { source in
      unsafe other.withUnsafeBytes { target in
        // SAFETY: both are checked windows.
        unsafe target.copyMemory(from: UnsafeRawBufferPointer(source))
      }
    }
  }
}
