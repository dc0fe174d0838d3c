// SPDX-License-Identifier: MIT

import BlockFront
import BlockIO
import GuestMemory
import PVPeers
import PVTestSupport
import Testing
import XenHypervisor
import XenWire

@Suite("How a frontend asks")
struct SplitTests {
  /// The requests follow one another on the disk and cover the I/O, and no segment is senseless.
  func checkCover(_ requests: [TakenRequest], from start: UInt64, count: UInt64) {
    var next = start
    for request in requests {
      #expect(request.sector == next)
      #expect(request.segments.allSatisfy { $0.isValid && $0.reference.rawValue >= 8 })
      #expect(request.handle == 0xCA00)
      next += request.sectorCount
    }
    #expect(next == start + count)
  }

  @Test("1 MiB without indirect requests is 24 requests of at most 11 segments")
  func direct() throws {
    var setup = HostileBackend<ABI64>.Setup()
    setup.abilities.maxSegments = 11
    let peer = try HostileBackend<ABI64>(setup)
    #expect(peer.submit(.write, sector: 8, count: 2048, peer.memory(1 << 20)))
    let requests = peer.take()
    #expect(requests.map(\.segments.count) == Array(repeating: 11, count: 23) + [3])
    #expect(requests.allSatisfy { $0.operation == .write })
    #expect(requests.map(\.id) == (0..<24).map { UInt64($0) })
    checkCover(requests, from: 8, count: 2048)
    for request in requests.dropLast().reversed() { peer.respond(to: request) }
    #expect(peer.completions().isEmpty, "one part is missing")
    peer.respond(to: requests[23])
    #expect(peer.completions() == [IOCompletion(tag: 1)])
    #expect(peer[.requests] == 24 && peer[.indirect_requests] == 0 && peer[.ios] == 1)
  }

  @Test("1 MiB with 32, 64 and 256 segments is 8, 4 and 1 indirect requests, with one descriptor page each")
  func indirect() throws {
    for (segments, count) in [(32, 8), (64, 4), (256, 1)] {
      var setup = HostileBackend<ABI32>.Setup()
      setup.abilities.maxSegments = segments
      let peer = try HostileBackend<ABI32>(setup)
      #expect(peer.submit(.read, sector: 0, count: 2048, peer.memory(1 << 20)))
      let requests = peer.take()
      #expect(requests.count == count)
      #expect(requests.allSatisfy { $0.operation == .indirect && $0.meant == .read && $0.descriptorPages.count == 1 })
      #expect(Set(requests.flatMap(\.descriptorPages)).count == count)
      checkCover(requests, from: 0, count: 2048)
    }
  }

  @Test("up to 11 segments are a direct request, 12 an indirect one")
  func threshold() throws {
    for (pages, operation): (Int, BlockOperation) in [(1, .write), (11, .write), (12, .indirect), (32, .indirect)] {
      let peer = try HostileBackend<ABI64>()
      #expect(peer.submit(.write, count: UInt64(pages * 8), peer.memory(pages * 4096)))
      #expect(peer.take().map(\.operation) == [operation])
    }
  }

  @Test("more than 512 segments stand in several descriptor pages")
  func manyDescriptorPages() throws {
    var setup = HostileBackend<ABI64>.Setup()
    setup.abilities.maxSegments = 1100
    setup.buffers = BufferDemand(count: 1, byteCount: 4096 * 1100)
    let peer = try HostileBackend<ABI64>(setup)
    #expect(peer.submit(.write, count: 8800, peer.memory(4096 * 1100)))
    let requests = peer.take()
    #expect(requests.map(\.segments.count) == [1100] && requests[0].descriptorPages.count == 3)
    #expect(Set(requests[0].segments.map(\.reference)).count == 1100)
    checkCover(requests, from: 0, count: 8800)
  }

  @Test("parts of pages are named by their sectors, and a piece never leaves its page")
  func partsOfPages() throws {
    let peer = try HostileBackend<ABI64>()
    #expect(peer.submit(.write, sector: 100, count: 19, peer.memory(512 * 19, at: 512 * 5)))
    let requests = peer.take()
    #expect(requests.count == 1)
    #expect(requests[0].segments.map { [$0.firstSector, $0.lastSector] } == [[5, 7], [0, 7], [0, 7]])
    checkCover(requests, from: 100, count: 19)
    #expect(peer[.bounced_segments] == 0)
  }

  @Test("data arrives where it belongs, both ways, in every shape of memory")
  func data() throws {
    for isPersistent in [true, false] {
      for isTrusted in [true, false] {
        for segments in [11, 32] {
          var setup = HostileBackend<ABI64>.Setup()
          setup.abilities.isPersistent = isPersistent
          setup.abilities.isBackendTrusted = isTrusted
          setup.abilities.maxSegments = segments
          try data(try HostileBackend<ABI64>(setup))
        }
      }
    }
  }

  func data(_ peer: HostileBackend<ABI64>) throws {
    var generator = SeededGenerator(seed: 3)
    let bytes = generator.bytes(256 << 10)
    let own = peer.memory(256 << 10)
    let foreign = try ScatteredMemory(pieces: [512, 4096, 8192 + 512, 3072, 262_144 - 16_384])
    foreign.bytes = bytes
    #expect(peer.submit(.write, sector: 64, count: 512, ExtentArray((0..<foreign.list.count).map { foreign.list[$0] })))
    #expect(peer.serveAll() == [IOCompletion(tag: 1)])
    #expect(peer.submit(.read, sector: 64, count: 512, own, tag: 2))
    #expect(peer.serveAll() == [IOCompletion(tag: 2)])
    let region = try #require(peer.front?.buffer(0).region)
    #expect((0..<bytes.count).allSatisfy { region.load(UInt8.self, at: $0) == bytes[$0] })
    foreign.bytes = Array(repeating: 0, count: bytes.count)
    let pieces = ExtentArray((0..<foreign.list.count).map { foreign.list[$0] })
    #expect(peer.submit(.read, sector: 64, count: 512, pieces, tag: 3))
    #expect(peer.serveAll() == [IOCompletion(tag: 3)])
    #expect(foreign.bytes == bytes)
    withExtendedLifetime((own, foreign)) {}
    peer.front = nil
    #expect(peer.machine.ledger.allocatedReferences == 0 && peer.machine.ledger.mappings == 0)
    #expect(peer[.stuck_pages] == 0)
  }

  @Test("writing zeros is writing pages of zeros, and a discard where that leaves zeros")
  func zeroes() throws {
    let peer = try HostileBackend<ABI64>()
    peer.storage.region.fill(0xAB)
    #expect(peer.submit(.writeZeroes, sector: 8, count: 1000))
    #expect(peer.serveAll() == [IOCompletion(tag: 1)])
    let region = peer.storage.region
    #expect(region.load(UInt8.self, at: 8 * 512 - 1) == 0xAB && region.load(UInt8.self, at: 1008 * 512) == 0xAB)
    #expect((8 * 512..<1008 * 512).allSatisfy { region.load(UInt8.self, at: $0) == 0 })
    var setup = HostileBackend<ABI64>.Setup()
    setup.abilities.discardLeavesZeros = true
    let other = try HostileBackend<ABI64>(setup)
    #expect(other.submit(.writeZeroes, sector: 8, count: 1000))
    #expect(other.take().map(\.operation) == [.discard])
  }

  @Test("more I/Os than slots wait their turn, and each finishes once")
  func fullRing() throws {
    let peer = try HostileBackend<ABI64>()
    for tag in 0..<60 { #expect(peer.submit(.read, sector: UInt64(tag), count: 1, peer.memory(512), tag: UInt64(tag))) }
    #expect(peer.ring.requestProducer == 32 && peer[.ring_full] > 0)
    let finished = peer.serveAll()
    #expect(finished.map(\.tag).sorted() == (0..<60).map { UInt64($0) })
    #expect(finished.allSatisfy { $0.errorCode == 0 })
    #expect(peer.front?.inFlight == 0)
  }

  @Test("the ids of answered requests are used again, the last one first")
  func ids() throws {
    let peer = try HostileBackend<ABI64>()
    for tag in 0..<3 { #expect(peer.submit(.read, count: 1, peer.memory(512), tag: UInt64(tag))) }
    let requests = peer.take()
    #expect(requests.map(\.id) == [0, 1, 2])
    for place in [2, 0, 1] { peer.respond(to: requests[place]) }
    #expect(peer.completions().count == 3)
    for tag in 0..<4 { #expect(peer.submit(.read, count: 1, peer.memory(512), tag: UInt64(tag))) }
    #expect(peer.take().map(\.id) == [1, 0, 2, 3])
  }

  @Test("memory that is not whole sectors, or not as long as the sectors, is refused and asks nothing")
  func malformed() throws {
    let peer = try HostileBackend<ABI64>()
    #expect(peer.submit(.read, count: 2, peer.memory(512)))
    #expect(peer.submit(.write, count: 1, peer.memory(100), tag: 2))
    #expect(peer.submit(.write, count: 1, nil, tag: 3))
    #expect(peer.completions().map(\.errorCode) == [22, 22, 22])
    #expect(peer.take().isEmpty)
  }
}
