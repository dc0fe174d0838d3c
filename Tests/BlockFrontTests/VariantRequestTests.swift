// SPDX-License-Identifier: MIT

import BlockFront
import BlockIO
import GuestMemory
import PVPeers
import PVTestSupport
import Testing
import XenWire

extension HostileBackend.Setup {
  /// A frontend that agreed on a variant, with the largest requests that it has.
  init(_ variant: RingVariant, _ change: (inout RingPlan) -> Void = { _ in }) {
    self.init()
    var plan = RingPlan()
    plan.variant = variant
    change(&plan)
    self.plan = plan
    abilities.maxSegments = plan.segmentLimit(offered: 256)
  }
}

/// What a frontend of each variant puts into its ring, and what it makes of answers that no backend may give.
@Suite("Requests of a frontend in every variant")
struct VariantRequestTests {
  /// Writes and reads back a MiB; answers the requests that the write became.
  func transfer<Format: RingFormat>(
    _ setup: HostileBackend<Format>.Setup, byteCount: Int = 1 << 20
  ) throws -> [TakenRequest] {
    let peer = try HostileBackend<Format>(setup)
    let sectors = UInt64(byteCount / 512)
    let memory = peer.memory(byteCount)
    for index in 0..<byteCount / 8 { peer.front?.buffer(0).region?.store(UInt64(index) &* 77 &+ 1, at: index * 8) }
    #expect(peer.submit(.write, sector: 48, count: sectors, memory))
    var requests: [TakenRequest] = []
    var finished: [IOCompletion] = []
    for _ in 0..<1000 where finished.isEmpty {
      for request in peer.take() {
        requests.append(request)
        peer.respond(to: request, peer.move(request) ? .okay : .error)
      }
      finished += peer.completions()
    }
    #expect(finished.map(\.errorCode) == [0])
    for index in 0..<byteCount / 8
    where peer.storage.region.load(UInt64.self, at: 48 * 512 + index * 8) != UInt64(index) &* 77 &+ 1 {
      Issue.record("word \(index) is wrong")
      break
    }
    #expect(requests.reduce(0) { $0 + $1.sectorCount } == sectors)
    for request in requests where !request.entrySectors.isEmpty {
      var next = request.sector
      for (sector, segment) in zip(request.entrySectors, request.segments) {
        #expect(sector == next)
        next += UInt64(segment.sectorCount)
      }
    }
    return requests
  }

  @Test("1 MiB is 24 direct requests of the classic ring, and one of each variant")
  func oneMiB() throws {
    var setup = HostileBackend<ABI64>.Setup()
    setup.abilities.maxSegments = 11
    #expect(try transfer(setup).count == 24)
    let wide = try transfer(
      HostileBackend<WideFormat<ABI64>>.Setup(.wide) { ($0.segmentsPerRequest, $0.ringPages) = (256, 4) })
    #expect(wide.map(\.operation) == [.write] && wide[0].segments.count == 256)
    let run = try transfer(HostileBackend<SegmentRingFormat<ABI64>>.Setup(.segmentRing))
    #expect(run.map(\.operation) == [.segmentRun] && run[0].meant == .write && run[0].segments.count == 256)
    let packed = try transfer(
      HostileBackend<SegmentRingFormat<ABI32>>.Setup(.segmentRing) {
        ($0.segmentEntrySize, $0.blockProtocol) = (6, .x86_32)
      })
    #expect(packed.count == 1 && packed[0].handle == 0xCA00)
    let slim64 = try transfer(HostileBackend<Slim64Format<ABI64>>.Setup(.slim64))
    #expect(slim64.map(\.operation) == [.indirect] && slim64[0].descriptorPages.count == 1)
    let slim32 = try transfer(HostileBackend<Slim32Format>.Setup(.slim32))
    #expect(slim32.map(\.operation) == [.indirect] && slim32[0].descriptorPages.count == 1)
    #expect(slim32[0].handle == 0xCA00 && slim32[0].sector == 48)
  }

  @Test("what fits in the slot goes in the slot: 4 pages of slim64, 2 of slim32")
  func direct() throws {
    #expect(
      try transfer(HostileBackend<Slim64Format<ABI64>>.Setup(.slim64), byteCount: 16384).map(\.operation) == [.write])
    #expect(
      try transfer(HostileBackend<Slim64Format<ABI64>>.Setup(.slim64), byteCount: 20480).map(\.operation) == [.indirect]
    )
    #expect(try transfer(HostileBackend<Slim32Format>.Setup(.slim32), byteCount: 8192).map(\.operation) == [.write])
    #expect(try transfer(HostileBackend<Slim32Format>.Setup(.slim32), byteCount: 12288).map(\.operation) == [.indirect])
  }

  @Test("slim32 without indirect requests still moves everything, two pages at a time")
  func slim32Alone() throws {
    var setup = HostileBackend<Slim32Format>.Setup(.slim32)
    setup.abilities.maxSegments = 2
    #expect(try transfer(setup).count == 128)
  }

  @Test("a segment ring that is full is no reason to wait: what has no room goes in requests of the old form")
  func segmentRingFull() throws {
    let peer = try HostileBackend<SegmentRingFormat<ABI64>>(.init(.segmentRing))
    // 512 entries: two requests of 256 take them all; what comes then has eleven segments at most.
    for tag: UInt64 in 0..<3 {
      #expect(peer.submit(.write, sector: tag * 2048, count: 2048, peer.memory(1 << 20, buffer: Int(tag)), tag: tag))
    }
    let first = peer.take()
    #expect(first.prefix(2).map(\.segments.count) == [256, 256])
    #expect(first.dropFirst(2).allSatisfy { $0.operation == .write && $0.segments.count <= 11 } && first.count == 26)
    // The younger run comes back first: its entries are not free before the older one's.
    peer.respond(to: first[1], peer.move(first[1]) ? .okay : .error)
    #expect(peer.completions().map(\.tag) == [1])
    #expect(peer.submit(.write, sector: 8192, count: 2048, peer.memory(1 << 20, buffer: 3), tag: 3))
    #expect(peer.take().allSatisfy { $0.operation == .write })
    peer.respond(to: first[0], peer.move(first[0]) ? .okay : .error)
    #expect(peer.completions().map(\.tag) == [0])
    for request in first.dropFirst(2) { peer.respond(to: request, peer.move(request) ? .okay : .error) }
    #expect(peer.front?.isBroken == false)
  }

  @Test("what comes back with a wrong tuple ends with EILSEQ; the queue goes on")
  func protection() throws {
    let slot = try HostileBackend<Slim64Format<ABI64>>(.init(.slim64) { $0.protection = .slot })
    #expect(slot.submit(.read, count: 8, slot.memory(4096)))
    let request = try #require(slot.take().first)
    #expect(slot.move(request))
    slot.ring.responseSlot(0).store(UInt64(1), at: 56)
    slot.respond(to: request)
    #expect(slot.completions().map(\.errorCode) == [84])
    #expect(slot.front?.isBroken == false && slot[.protection_errors] == 1)
    #expect(slot.submit(.read, sector: 0, count: 8, slot.memory(4096)))
    let second = try #require(slot.take().first)
    // 4096 zeros have a CRC of 0, and sector 0 the reference tag 0.
    slot.ring.responseSlot(1).store(UInt64(0), at: 56)
    slot.respond(to: second)
    #expect(slot.completions().map(\.errorCode) == [0])

    let sector = try HostileBackend<ABI64>(.init(.classic) { $0.protection = .sector })
    #expect(sector.submit(.read, sector: 8, count: 16, sector.memory(8192)))
    let read = try #require(sector.take().first)
    #expect(read.segments.count == 3 && read.segments[2].isProtection && read.segments[2].isValidProtection)
    sector.respond(to: read)
    #expect(sector.completions().map(\.errorCode) == [84], "nobody has written the tuples")
    #expect(sector.front?.isBroken == false && sector[.protection_errors] == 1)
  }

  /// Answers that disable a queue, whatever the form of its rings.
  func hostile<Format: RingFormat>(_ setup: HostileBackend<Format>.Setup) throws {
    let slots = RingGeometry(try #require(setup.plan)).depth
    let bad: [(String, (BlockResponse) -> BlockResponse)] = [
      ("an id beyond the ring", { BlockResponse(id: UInt64(slots), operation: $0.operation, status: .okay) }),
      ("an id of all ones", { BlockResponse(id: .max, operation: $0.operation, status: .okay) }),
      ("an id that is free", { BlockResponse(id: UInt64(slots) - 1, operation: $0.operation, status: .okay) }),
      ("another operation", { BlockResponse(id: $0.id, operation: .write, status: .okay) }),
      ("the outer opcode", { BlockResponse(id: $0.id, operation: .indirect, status: .okay) }),
      ("the opcode of runs", { BlockResponse(id: $0.id, operation: .segmentRun, status: .okay) }),
    ]
    for (name, change) in bad {
      let peer = try HostileBackend<Format>(setup)
      #expect(peer.submit(.read, count: 256, peer.memory(1 << 17)))
      let request = try #require(peer.take().first)
      peer.respond(change(BlockResponse(id: request.id, operation: request.meant, status: .okay)))
      #expect(peer.completions().map(\.errorCode) == [5], "\(name)")
      #expect(peer.front?.isBroken == true, "\(name)")
    }
    for jump: UInt32 in [2, slots, slots + 1, 0x8000_0000, .max] {
      let peer = try HostileBackend<Format>(setup)
      #expect(peer.submit(.read, count: 256, peer.memory(1 << 17)))
      let asked = UInt32(peer.take().count)
      guard jump > asked else { continue }
      peer.ring.responseProducer = jump
      #expect(peer.completions().map(\.errorCode) == [5], "a producer \(jump) ahead")
      #expect(peer.front?.isBroken == true)
    }
  }

  @Test("answers that cannot be disable the queue in every variant, as in the classic ring")
  func hostileAnswers() throws {
    try hostile(HostileBackend<WideFormat<ABI64>>.Setup(.wide) { $0.segmentsPerRequest = 64 })
    try hostile(HostileBackend<SegmentRingFormat<ABI64>>.Setup(.segmentRing) { $0.segmentEntrySize = 6 })
    try hostile(
      HostileBackend<Slim64Format<ABI32>>.Setup(.slim64) { ($0.blockProtocol, $0.usesWholePage) = (.x86_32, true) })
    try hostile(HostileBackend<Slim32Format>.Setup(.slim32) { ($0.isSplit, $0.usesWholePage) = (true, true) })
    try hostile(HostileBackend<ABI64>.Setup(.classic) { $0.isSplit = true })
  }
}
