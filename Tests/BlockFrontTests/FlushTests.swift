// SPDX-License-Identifier: MIT

import BlockFront
import BlockIO
import PVPeers
import Testing
import XenWire

@Suite("Flush, forced writes and discard of a frontend")
struct FlushTests {
  func make(
    flush: Bool = true, barrier: Bool = true, discard: Bool = true, secure: Bool = true
  ) throws -> HostileBackend<ABI64> {
    var setup = HostileBackend<ABI64>.Setup()
    setup.abilities.canFlush = flush
    setup.abilities.canBarrier = barrier
    setup.abilities.canDiscard = discard
    setup.abilities.canDiscardSecurely = secure
    return try HostileBackend<ABI64>(setup)
  }

  @Test("flush is preferred to barrier; with neither a flush is done at once")
  func operations() throws {
    for (flush, barrier, expected): (Bool, Bool, [BlockOperation]) in [
      (true, true, [.flushDiskCache]), (true, false, [.flushDiskCache]), (false, true, [.writeBarrier]),
      (false, false, []),
    ] {
      let peer = try make(flush: flush, barrier: barrier)
      #expect(peer.submit(.flush))
      let requests = peer.take()
      #expect(requests.map(\.operation) == expected)
      #expect(requests.allSatisfy { $0.segments.isEmpty })
      for request in requests { peer.respond(to: request) }
      #expect(peer.completions() == [IOCompletion(tag: 1)])
    }
  }

  @Test("a flush that the backend refuses counts as done, and is not asked for again")
  func refusedFlush() throws {
    let peer = try make()
    for expected: BlockOperation in [.flushDiskCache, .writeBarrier] {
      #expect(peer.submit(.flush))
      let request = try #require(peer.take().first)
      #expect(request.operation == expected)
      peer.respond(to: request, .unsupported)
      #expect(peer.completions() == [IOCompletion(tag: 1)])
    }
    #expect(peer.submit(.flush))
    #expect(peer.take().isEmpty)
    #expect(peer.completions() == [IOCompletion(tag: 1)])
    #expect(peer.front?.isBroken == false)
  }

  @Test("a flush that fails is an error, and is asked for again")
  func failedFlush() throws {
    let peer = try make()
    for _ in 0..<2 {
      #expect(peer.submit(.flush))
      peer.respond(to: try #require(peer.take().first), .error)
      #expect(peer.completions() == [IOCompletion(tag: 1, errorCode: 5)])
    }
  }

  @Test("a forced write is followed by a flush once all of its parts are done, and ends with it")
  func forcedWrite() throws {
    let peer = try make()
    #expect(peer.submit(.write, count: 512, peer.memory(256 << 10), forceUnitAccess: true))
    let writes = peer.take()
    #expect(writes.map(\.meant) == [.write, .write])
    peer.respond(to: writes[1])
    #expect(peer.completions().isEmpty && peer.take().isEmpty, "the flush waits for the other part")
    peer.respond(to: writes[0])
    #expect(peer.completions().isEmpty)
    let flush = try #require(peer.take().first)
    #expect(flush.operation == .flushDiskCache && flush.segments.isEmpty)
    peer.respond(to: flush)
    #expect(peer.completions() == [IOCompletion(tag: 1)])
    #expect(peer.take().isEmpty)
  }

  @Test("a forced write that fails owes no flush; one whose flush fails has failed")
  func failedForcedWrite() throws {
    let peer = try make()
    #expect(peer.submit(.write, count: 8, peer.memory(4096), forceUnitAccess: true))
    peer.respond(to: try #require(peer.take().first), .error)
    #expect(peer.completions() == [IOCompletion(tag: 1, errorCode: 5)])
    #expect(peer.take().isEmpty)
    #expect(peer.submit(.write, count: 8, peer.memory(4096), forceUnitAccess: true))
    peer.respond(to: try #require(peer.take().first))
    #expect(peer.completions().isEmpty)
    peer.respond(to: try #require(peer.take().first), .error)
    #expect(peer.completions() == [IOCompletion(tag: 1, errorCode: 5)])
  }

  @Test("without a volatile cache a forced write is a write")
  func forcedWithoutCache() throws {
    let peer = try make(flush: false, barrier: false)
    #expect(peer.submit(.write, count: 8, peer.memory(4096), forceUnitAccess: true))
    peer.respond(to: try #require(peer.take().first))
    #expect(peer.completions() == [IOCompletion(tag: 1)])
    #expect(peer.take().isEmpty)
  }

  @Test("a discard names its range and whether it is secure")
  func discard() throws {
    let peer = try make()
    #expect(peer.submit(.discard, sector: 8, count: 1 << 33))
    #expect(peer.submit(.secureDiscard, sector: 16, count: 24, tag: 2))
    let requests = peer.take()
    #expect(requests.map(\.operation) == [.discard, .discard])
    #expect(requests.map(\.sector) == [8, 16] && requests.map(\.discardCount) == [1 << 33, 24])
    #expect(requests.map(\.discardFlag) == [0, 1] && requests.allSatisfy { $0.handle == 0xCA00 })
    for request in requests { peer.respond(to: request) }
    #expect(peer.completions().map(\.errorCode) == [0, 0])
  }

  @Test("a discard that the backend refuses is not asked for again, and says EOPNOTSUPP from then on")
  func refusedDiscard() throws {
    let peer = try make()
    #expect(peer.submit(.discard, sector: 8, count: 8))
    peer.respond(to: try #require(peer.take().first), .unsupported)
    #expect(peer.completions() == [IOCompletion(tag: 1, errorCode: 95)])
    #expect(peer.submit(.discard, sector: 8, count: 8))
    #expect(peer.completions() == [IOCompletion(tag: 1, errorCode: 95)])
    #expect(peer.take().isEmpty)
    #expect(peer.front?.isBroken == false)
  }

  @Test("a secure discard that was not offered is never sent as a plain one")
  func secureDiscardNotOffered() throws {
    let peer = try make(secure: false)
    #expect(peer.submit(.secureDiscard, sector: 8, count: 8))
    #expect(peer.completions() == [IOCompletion(tag: 1, errorCode: 95)])
    #expect(peer.take().isEmpty)
    let other = try make(discard: false)
    #expect(other.submit(.discard, sector: 8, count: 8))
    #expect(other.completions() == [IOCompletion(tag: 1, errorCode: 95)])
  }
}
