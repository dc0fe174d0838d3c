// SPDX-License-Identifier: MIT

public import BlockIO
public import GuestMemory
import Protection
import XenHypervisor
public import XenWire

/// What a frontend needs to vouch for its data: tables, a list of memory, and where its pages of tuples are.
@safe @usableFromInline
struct FrontGuardian: ~Copyable {
  // SAFETY: `extents` addresses `capacity`, `sectors` and `sent` `slots` initialised elements (one of each at least) until deinit; a
  // request has no more pieces, and slot ids come from the shadow table, which has as many.
  @usableFromInline let extents: UnsafeMutablePointer<MemoryExtent>
  /// Each slot's first sector.
  @usableFromInline let sectors: UnsafeMutablePointer<UInt64>
  /// The tuple that each slot was sent with.
  private let sent: UnsafeMutablePointer<UInt64>
  let capacity: Int
  let slots: Int
  let scanner: ProtectionScanner
  /// The first slot's first page of tuples in the arena.
  let firstPage: Int
  let pagesPerSlot: Int
  /// The tuple of the response that is being judged.
  @usableFromInline var arrived: UInt64 = 0

  init(slots: Int, segments: Int, firstPage: Int, pagesPerSlot: Int, profile: RingProtectionProfile = .standard) {
    self.slots = slots
    unsafe sent = .allocate(capacity: max(slots, 1))
    unsafe sent.initialize(repeating: 0, count: max(slots, 1))
    unsafe sectors = .allocate(capacity: max(slots, 1))
    unsafe sectors.initialize(repeating: 0, count: max(slots, 1))
    capacity = max(segments, 1)
    scanner = ProtectionScanner(form: ProtectionForm(profile))
    self.firstPage = firstPage
    self.pagesPerSlot = pagesPerSlot
    unsafe extents = .allocate(capacity: capacity)
    unsafe extents.initialize(repeating: MemoryExtent(address: 0, byteCount: 0), count: capacity)
  }

  @usableFromInline
  deinit {
    unsafe extents.deallocate()
    unsafe sectors.deallocate()
    unsafe sent.deallocate()
  }

  func noteSent(_ tuple: UInt64, of slot: Int) {
    precondition(slot < slots, "no such slot")
    unsafe sent[slot] = tuple
  }

  func sentTuple(of slot: Int) -> ProtectionTuple {
    precondition(slot < slots, "no such slot")
    return unsafe ProtectionTuple(memory: sent[slot])
  }

  @usableFromInline
  func note(_ sector: UInt64, of slot: Int) {
    precondition(slot < slots, "no such slot")
    unsafe sectors[slot] = sector
  }

  func sector(of slot: Int) -> UInt64 {
    precondition(slot < slots, "no such slot")
    return unsafe sectors[slot]
  }
}

extension FrontQueue {
  /// Vouches for data from now on as a connection's ends agreed; to be called for every new connection.
  mutating func adoptProtection(_ connection: FrontConnection<Platform>) {
    protection = connection.plan.protection
    settlesEach = protection != .off || !abilities.isPersistent
    guardian = FrontGuardian(
      slots: protection == .off ? 0 : shadows.count, segments: protection == .off ? 0 : abilities.maxSegments,
      firstPage: arena.descriptorPage + shadows.count * descriptorPagesPerSlot,
      pagesPerSlot: Self.tuplePages(of: connection.plan, segments: abilities.maxSegments),
      profile: connection.plan.protectionProfile)
  }

  /// The memory of a request's data, as this end sees it.
  private func data(of id: Int, segmentCount: Int) -> MemoryExtentList {
    precondition(segmentCount <= guardian.capacity, "more pieces than a request can have")
    var count = 0
    for index in 0..<segmentCount {
      let piece = unsafe shadows.pieces[id * shadows.segments + index]
      if piece.firstSector & RingProtection.segmentMark != 0 { continue }
      let first = Int(piece.firstSector)
      unsafe guardian.extents[count] = MemoryExtent(
        address: arena.address(Int(piece.page)) + UInt(first << PageGeometry.sectorShift),
        byteCount: (Int(piece.lastSector) - first + 1) << PageGeometry.sectorShift)
      count += 1
    }
    return unsafe MemoryExtentList(unsafeStart: guardian.extents, count: count)
  }

  /// The pages of a slot's tuples.
  private func tuplePages(of id: Int) -> SharedRegion {
    arena.pages.region.slice(
      at: (guardian.firstPage + id * guardian.pagesPerSlot) << PageGeometry.pageShift,
      byteCount: guardian.pagesPerSlot << PageGeometry.pageShift)
  }

  /// The tuple over all of a write's data; nothing for other requests.
  @usableFromInline
  func wholeTuple(_ id: Int) -> UInt64 {
    let shadow = unsafe shadows.shadows[id]
    guard shadow.operation == .write, shadow.segmentCount > 0 else { return 0 }
    let list = data(of: id, segmentCount: Int(shadow.segmentCount))
    let tuple = guardian.scanner.tuple(over: list, sector: guardian.sector(of: id)).memory
    guardian.noteSent(tuple, of: id)
    return tuple
  }

  /// Adds pages of tuples to a request's pieces, filled for a write, and writes it.
  ///
  /// Tuples that the caller made travel as they are: the backend judges them.
  @usableFromInline
  mutating func placeProtected<Format: RingFormat>(
    _ id: Int, io: Int, _ operation: BlockOperation, sector: UInt64, segmentCount: Int, _ format: Format.Type
  ) {
    let list = data(of: id, segmentCount: segmentCount)
    let sectors = UInt64(list.byteCount >> PageGeometry.sectorShift)
    let pages = RingProtection.pages(for: sectors)
    precondition(pages <= guardian.pagesPerSlot, "more tuples than a slot has pages for")
    if operation == .write {
      if let given = givenTuples(io, sector: sector, count: sectors) {
        let pages = tuplePages(of: id)
        copyBytes(from: given, to: MemoryExtent(address: pages.address, byteCount: pages.byteCount))
      } else {
        var cursor = TupleCursor(tuplePages(of: id))
        guardian.scanner.generate(list, sector: sector, start: UInt32(truncatingIfNeeded: sector), into: &cursor)
      }
    }
    var left = Int(sectors) * ProtectionTuple.byteCount
    for page in 0..<pages {
      let used = (min(left, PageGeometry.pageSize) + PageGeometry.sectorSize - 1) >> PageGeometry.sectorShift
      left -= PageGeometry.pageSize
      unsafe shadows.pieces[id * shadows.segments + segmentCount + page] = Piece(
        page: Int32(guardian.firstPage + id * guardian.pagesPerSlot + page),
        firstSector: RingProtection.segmentMark, lastSector: RingProtection.segmentMark + UInt8(used - 1), target: 0)
    }
    placePieces(id, io: io, operation, sector: sector, segmentCount: segmentCount + pages, format)
  }

  /// What the tuples of a request say of its data as it is now; nil when they vouch for it.
  private func violation(_ id: Int, _ shadow: Shadow) -> ProtectionViolation? {
    let list = data(of: id, segmentCount: Int(shadow.segmentCount))
    let sector = guardian.sector(of: id)
    if protection == .slot {
      let told = shadow.operation == .read ? ProtectionTuple(memory: guardian.arrived) : guardian.sentTuple(of: id)
      return guardian.scanner.verify(list, sector: sector, againstWhole: told)
    }
    var cursor = TupleCursor(tuplePages(of: id))
    return guardian.scanner.verify(list, sector: sector, start: cursor.startOfType2(), against: &cursor)
  }

  /// Holds a read against what came with it, and looks what was wrong with a write that was refused: the I/O then ends
  /// with `EILSEQ`, and the sector is named.
  @usableFromInline
  mutating func checkProtection(_ id: Int, _ shadow: Shadow, isOkay: Bool) {
    guard isOkay ? shadow.operation == .read : shadow.operation == .write else { return }
    let io = Int(shadow.io)
    guard let violation = violation(id, shadow) else {
      if isOkay { handOverTuples(id, shadow, io) }
      return
    }
    condemn(io, violation)
  }

  private mutating func condemn(_ io: Int, _ violation: ProtectionViolation) {
    counters.add(1, to: FrontCounter.protection_errors.rawValue)
    if unsafe table.ios[io].errorCode == 0 { unsafe table.ios[io].errorCode = ProtectionViolation.errorCode }
    findings?.note(violation)
  }
}

/// Protection information that the caller makes and judges itself (DIX).
extension FrontQueue {
  /// Accepts a read or a write with its caller's own protection tuples, eight bytes for each 512-byte sector.
  ///
  /// A write's tuples go to the backend as they are where the rings carry one for each sector; else they are held against
  /// the data here. A read's come from the backend, or are made here once the data has been found sound. They are of the
  /// connection's profile, type 1 with a CRC where it has none.
  /// - Parameter tuples: 8 bytes a sector, kept by the caller until completion; `EINVAL` when there are more or fewer.
  public mutating func submit(_ request: IORequest, tuples: MemoryExtent?) -> SubmitOutcome {
    guard let io = accept(request) else { return .full }
    guard let tuples else { return .accepted }
    let isTransfer = request.operation == .read || request.operation == .write
    if isTransfer, tuples.address != 0,
      UInt64(tuples.byteCount) == request.sectors.count * UInt64(ProtectionTuple.byteCount)
    {
      unsafe table.ios[io].tuples = tuples.address
    } else if unsafe table.ios[io].errorCode == 0 {
      unsafe table.ios[io].errorCode = FrontQueueErrno.invalid
    }
    return .accepted
  }

  /// The caller's tuples of a whole I/O.
  func tuples(of io: Int) -> MemoryExtent? {
    let count = unsafe table.ios[io].request.sectors.count
    return givenTuples(io, sector: unsafe table.ios[io].request.sectors.start, count: count)
  }

  /// The caller's tuples of a part of an I/O.
  private func givenTuples(_ io: Int, sector: UInt64, count: UInt64) -> MemoryExtent? {
    let address = unsafe table.ios[io].tuples
    guard address != 0 else { return nil }
    let before = sector - (unsafe table.ios[io].request.sectors.start)
    return MemoryExtent(
      address: address + UInt(before) * UInt(ProtectionTuple.byteCount),
      byteCount: Int(count) * ProtectionTuple.byteCount)
  }

  /// Whether a transfer with its caller's tuples may go on; a write whose tuples cannot travel is judged before it begins.
  @usableFromInline
  mutating func mayIssueWithTuples(_ io: Int) -> Bool {
    let wire = unsafe table.ios[io]
    guard wire.request.operation == .write, wire.issued == 0, protection != .sector,
      let memory = wire.request.memory, let region = tuples(of: io)?.region
    else { return true }
    var cursor = TupleCursor(region)
    let violation = guardian.scanner.verify(
      memory, sector: wire.request.sectors.start, start: cursor.startOfType2(), against: &cursor)
    guard let violation else { return true }
    unsafe table.ios[io].isIssued = true
    condemn(io, violation)
    return false
  }

  /// Gives the caller of a read the tuples that the backend sent.
  private func handOverTuples(_ id: Int, _ shadow: Shadow, _ io: Int) {
    guard protection == .sector, shadow.operation == .read else { return }
    let count = UInt64(data(of: id, segmentCount: Int(shadow.segmentCount)).byteCount >> PageGeometry.sectorShift)
    guard let target = givenTuples(io, sector: guardian.sector(of: id), count: count) else { return }
    copyBytes(
      from: MemoryExtent(address: tuplePages(of: id).address, byteCount: target.byteCount), to: target)
  }

  /// Makes the tuples of a read that came without.
  @usableFromInline
  mutating func settleTuples(_ io: Int) {
    let wire = unsafe table.ios[io]
    guard wire.errorCode == 0, wire.request.operation == .read, protection != .sector,
      let memory = wire.request.memory, let region = tuples(of: io)?.region
    else { return }
    var cursor = TupleCursor(region)
    let sector = wire.request.sectors.start
    guardian.scanner.generate(memory, sector: sector, start: UInt32(truncatingIfNeeded: sector), into: &cursor)
  }
}

extension ProtectionForm {
  /// The form of the tuples on the rings: one for each 512-byte sector.
  init(_ profile: RingProtectionProfile) {
    self.init(
      type: ProtectionType(rawValue: profile.type) ?? .type1,
      guardKind: profile.usesInternetChecksum ? .internetChecksum : .crc)
  }
}
