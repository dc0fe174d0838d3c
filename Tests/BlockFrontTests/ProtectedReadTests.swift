// SPDX-License-Identifier: MIT

import BlockFront
import BlockIO
import GuestMemory
import PVPeers
import PVTestSupport
import Protection
import Testing
import XenWire

@Suite("A frontend whose requests carry protection information")
struct ProtectedReadTests {
  let scanner = ProtectionScanner(form: ProtectionForm())

  func makePeer() throws -> HostileBackend<ABI64> {
    var setup = HostileBackend<ABI64>.Setup()
    var plan = RingPlan()
    plan.protection = .sector
    setup.plan = plan
    return try HostileBackend<ABI64>(setup)
  }

  /// Runs `body` with a request's page of data and its page of tuples.
  func withPages(
    _ peer: HostileBackend<ABI64>, _ request: TakenRequest, _ body: (ExtentArray, SharedRegion) -> Void
  ) {
    peer.withPage(request.segments[0].reference, writable: true) { data in
      peer.withPage(request.segments[1].reference, writable: true) { tuples in
        body(ExtentArray([MemoryExtent(address: data.address, byteCount: 4096)]), tuples)
      }
    }
  }

  @Test("a write carries the tuples of its data behind it")
  func write() throws {
    let peer = try makePeer()
    let memory = peer.memory(4096)
    memory.list[0].region?.fill(0x5A)
    #expect(peer.submit(.write, sector: 88, count: 8, memory))
    let request = try #require(peer.take().first)
    #expect(request.segments.map(\.sectorCount) == [8, 1])
    withPages(peer, request) { data, tuples in
      var cursor = TupleCursor(tuples)
      #expect(scanner.verify(data.list, sector: 88, against: &cursor) == nil)
      #expect(ProtectionTuple(memory: tuples.load(UInt64.self, at: 56)).referenceTag == 95)
    }
    peer.respond(to: request)
    #expect(peer.completions() == [IOCompletion(tag: 1)])
  }

  /// Answers a read of sectors 88...95 with data and tuples, after `spoil` has had both.
  func read(_ spoil: (ExtentArray, SharedRegion) -> Void) throws -> (HostileBackend<ABI64>, [IOCompletion]) {
    let peer = try makePeer()
    #expect(peer.submit(.read, sector: 88, count: 8, peer.memory(4096)))
    let request = try #require(peer.take().first)
    withPages(peer, request) { data, tuples in
      data.list[0].region?.fill(0x77)
      var cursor = TupleCursor(tuples)
      scanner.generate(data.list, sector: 88, into: &cursor)
      spoil(data, tuples)
    }
    peer.respond(to: request)
    return (peer, peer.completions())
  }

  @Test("a read is done when its tuples vouch for it")
  func soundRead() throws {
    let (peer, done) = try read { _, _ in }
    #expect(done == [IOCompletion(tag: 1)] && peer.findings.count == 0)
  }

  @Test("a bit that flips on the way back is EILSEQ, and the sector is named")
  func flippedBit() throws {
    let (peer, done) = try read { data, _ in
      guard let page = data.list[0].region else { return }
      page.store(page.load(UInt8.self, at: 1030) ^ 0x80, at: 1030)
    }
    #expect(done == [IOCompletion(tag: 1, errorCode: ProtectionViolation.errorCode)])
    #expect(peer.findings.violations.map(\.sector) == [90])
    #expect(peer[.protection_errors] == 1)
    #expect(peer.front?.isBroken == false)
  }

  @Test("another sector's data is EILSEQ, tuples and all")
  func otherSector() throws {
    let (peer, done) = try read { data, tuples in
      var cursor = TupleCursor(tuples)
      scanner.generate(data.list, sector: 8, into: &cursor)
    }
    #expect(done == [IOCompletion(tag: 1, errorCode: ProtectionViolation.errorCode)])
    #expect(
      peer.findings.violations == [ProtectionViolation(sector: 88, verdict: .wrongReference(stored: 8, expected: 88))])
  }

  @Test("a read whose tuples never came is not believed")
  func missingTuples() throws {
    let (_, done) = try read { _, tuples in tuples.fill(0) }
    #expect(done == [IOCompletion(tag: 1, errorCode: ProtectionViolation.errorCode)])
  }
}
