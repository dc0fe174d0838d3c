// SPDX-License-Identifier: MIT

import BlockFront
import BlockIO
import GuestMemory
import PVPeers
import PVTestSupport
import Testing
import XenHypervisor
import XenWire

/// A response that no backend may give to the three reads 0, 1 and 2 that are under way.
struct BadResponse: CustomTestStringConvertible, Sendable {
  let testDescription: String
  let give: @Sendable (BlockResponse) -> [BlockResponse]

  init(_ name: String, _ give: @escaping @Sendable (BlockResponse) -> [BlockResponse]) {
    testDescription = name
    self.give = give
  }

  static func with(
    _ change: @escaping @Sendable (inout BlockResponse) -> Void
  ) -> @Sendable (BlockResponse) -> [BlockResponse] {
    { good in
      var bad = good
      change(&bad)
      return [bad]
    }
  }

  static let all: [BadResponse] = [
    BadResponse("an id beyond the ring", with { $0.id = 32 }),
    BadResponse("an id of 2^32", with { $0.id = 1 << 32 }),
    BadResponse("an id of all ones", with { $0.id = .max }),
    BadResponse("an id that was never issued", with { $0.id = 17 }),
    BadResponse("the same id twice") { [$0, $0] },
    BadResponse("another operation", with { $0.operation = .write }),
    BadResponse("the indirect opcode", with { $0.operation = .indirect }),
    BadResponse("an unknown operation", with { $0.operation = BlockOperation(rawValue: 200) }),
  ]
}

@Suite("A frontend behind a backend that breaks the rules")
struct HostileBackendTests {
  func peerWithThreeReads(
    _ setup: HostileBackend<ABI64>.Setup = .init()
  ) throws -> (HostileBackend<ABI64>, [TakenRequest]) {
    let peer = try HostileBackend<ABI64>(setup)
    for tag: UInt64 in 0..<3 { #expect(peer.submit(.read, count: 8, peer.memory(4096, buffer: Int(tag)), tag: tag)) }
    return (peer, peer.take())
  }

  /// Every I/O in hand and every later one ends with `EIO`, once, and nothing more is asked.
  func checkBroken(_ peer: HostileBackend<ABI64>, finished: [IOCompletion]) {
    let failed = finished.filter { $0.errorCode == 5 }
    #expect(finished.map(\.tag).sorted() == [0, 1, 2], "each I/O ends once")
    #expect(failed.count >= 2)
    #expect(peer.front?.isBroken == true && peer[.bad_responses] == 1)
    #expect(peer.submit(.write, count: 8, peer.memory(4096), tag: 9))
    #expect(peer.submit(.flush, tag: 10))
    #expect(peer.completions() == [IOCompletion(tag: 9, errorCode: 5), IOCompletion(tag: 10, errorCode: 5)])
    #expect(peer.take().isEmpty, "a broken frontend asks nothing")
    #expect(peer.front?.inFlight == 0)
  }

  @Test("a response that cannot be ours disables the disk, and every I/O ends with EIO", arguments: BadResponse.all)
  func badResponses(bad: BadResponse) throws {
    let (peer, requests) = try peerWithThreeReads()
    let good = BlockResponse(id: requests[1].id, operation: .read, status: .okay)
    for response in bad.give(good) { peer.respond(response) }
    checkBroken(peer, finished: peer.completions())
  }

  @Test("an answer to a request that was answered before, and whose id is free, is refused")
  func lateDuplicate() throws {
    let (peer, requests) = try peerWithThreeReads()
    peer.respond(to: requests[0])
    var finished = peer.completions()
    #expect(finished == [IOCompletion(tag: 0)])
    peer.respond(to: requests[0])
    finished += peer.completions()
    checkBroken(peer, finished: finished)
  }

  @Test("an indirect request must be answered with its inner operation", arguments: [false, true])
  func indirectOperation(isRight: Bool) throws {
    let peer = try HostileBackend<ABI64>()
    #expect(peer.submit(.write, count: 256, peer.memory(128 << 10)))
    let request = try #require(peer.take().first)
    #expect(request.operation == .indirect)
    peer.respond(BlockResponse(id: request.id, operation: isRight ? .write : .indirect, status: .okay))
    #expect(peer.completions() == [IOCompletion(tag: 1, errorCode: isRight ? 0 : 5)])
    #expect(peer.front?.isBroken == !isRight)
  }

  @Test(
    "a producer ahead of what was asked disables the disk", arguments: [UInt32(4), 32, 33, 1000, 0x8000_0000, .max])
  func producerJump(producer: UInt32) throws {
    let (peer, _) = try peerWithThreeReads()
    peer.ring.responseProducer = producer
    checkBroken(peer, finished: peer.completions())
  }

  @Test("a producer that jumps while the frontend is about to sleep disables the disk too")
  func jumpBeforeSleep() throws {
    let (peer, _) = try peerWithThreeReads()
    peer.front?.collect()
    peer.ring.responseProducer = 77
    #expect(peer.front?.prepareToWait() == .workPending)
    checkBroken(peer, finished: peer.completions())
    #expect(peer.front?.prepareToWait() == .maySleep)
  }

  @Test("good answers before the bad one count, answers after it do not")
  func order() throws {
    let (peer, requests) = try peerWithThreeReads()
    peer.respond(to: requests[0])
    peer.respond(BlockResponse(id: 30, operation: .read, status: .okay))
    peer.respond(to: requests[2])
    let finished = peer.completions()
    #expect(finished.first { $0.tag == 0 }?.errorCode == 0)
    #expect(finished.first { $0.tag == 2 }?.errorCode == 5)
    checkBroken(peer, finished: finished)
  }

  @Test("requests that wait for a slot end with EIO as well")
  func waiting() throws {
    let peer = try HostileBackend<ABI64>()
    for tag: UInt64 in 0..<50 { #expect(peer.submit(.read, count: 1, peer.memory(512), tag: tag)) }
    peer.respond(BlockResponse(id: 99, operation: .read, status: .okay))
    let finished = peer.completions()
    #expect(finished.map(\.tag).sorted() == (0..<50).map { UInt64($0) })
    #expect(finished.allSatisfy { $0.errorCode == 5 })
  }

  @Test("an error of one part is the I/O's error, and it ends when all parts have")
  func partialError() throws {
    let peer = try HostileBackend<ABI64>()
    #expect(peer.submit(.read, count: 1024, peer.memory(512 << 10)))
    let requests = peer.take()
    #expect(requests.count == 4)
    peer.respond(to: requests[2], .error)
    #expect(peer.completions().isEmpty)
    for place in [0, 1, 3] { peer.respond(to: requests[place]) }
    #expect(peer.completions() == [IOCompletion(tag: 1, errorCode: 5)])
    #expect(peer.front?.isBroken == false)
    for status: Int16 in [-1, -3, 1, 100, .min, .max] {
      #expect(peer.submit(.read, count: 8, peer.memory(4096)))
      let request = try #require(peer.take().first)
      peer.respond(to: request, BlockStatus(rawValue: status))
      #expect(peer.completions() == [IOCompletion(tag: 1, errorCode: 5)], "status \(status)")
    }
  }

  @Test("a page that the backend keeps without being allowed to disables the disk and is never used again (XSA-396)")
  func stuckPage() throws {
    var setup = HostileBackend<ABI64>.Setup()
    setup.abilities.isPersistent = false
    let (peer, requests) = try peerWithThreeReads(setup)
    let pagesBefore = peer.machine.ledger.allocatedPages
    let held = try #require(peer.hold(requests[1].segments[0].reference))
    peer.respond(to: requests[1])
    checkBroken(peer, finished: peer.completions())
    peer.front = nil
    #expect(peer[.stuck_pages] == 1)
    #expect(peer.machine.ledger.allocatedPages == pagesBefore, "no page of the arena is given back")
    #expect(peer.machine.ledger.allocatedReferences == 1, "nor is the reference")
    peer.letGo(held.handle)
  }

  @Test("without persistent grants a page is granted for its request alone, and no more than it needs")
  func grantsOfOneRequest() throws {
    var setup = HostileBackend<ABI64>.Setup()
    setup.abilities.isPersistent = false
    let peer = try HostileBackend<ABI64>(setup)
    #expect(peer.submit(.write, count: 8, peer.memory(4096)))
    #expect(peer.submit(.read, count: 8, peer.memory(4096, buffer: 1), tag: 2))
    let requests = peer.take()
    #expect(peer.hold(requests[0].segments[0].reference, writable: true) == nil, "a write is granted for reading")
    #expect(peer.withPage(requests[0].segments[0].reference, writable: false) { _ in })
    #expect(peer.withPage(requests[1].segments[0].reference, writable: true) { _ in })
    for request in requests { peer.respond(to: request) }
    #expect(peer.completions().count == 2)
    for request in requests {
      #expect(peer.hold(request.segments[0].reference, writable: false) == nil, "the grant has ended")
    }
    #expect(peer.machine.guest.calls.grants == peer.machine.guest.calls.ended)
  }

  @Test("a backend that is not trusted sees bounce pages, zeroed before a read, and writes nothing that fails")
  func bounce() throws {
    var setup = HostileBackend<ABI64>.Setup()
    setup.abilities.isBackendTrusted = false
    let peer = try HostileBackend<ABI64>(setup)
    let buffer = try #require(peer.front?.buffer(0).region)
    buffer.fill(0xC3)
    #expect(peer.submit(.write, count: 1, peer.memory(512)))
    let write = try #require(peer.take().first)
    peer.withPage(write.segments[0].reference, writable: false) { page in
      #expect((0..<512).allSatisfy { page.load(UInt8.self, at: $0) == 0xC3 })
      #expect((512..<4096).allSatisfy { page.load(UInt8.self, at: $0) == 0 }, "the rest of the page is not the guest's")
    }
    peer.respond(to: write)
    #expect(peer.submit(.read, count: 8, peer.memory(4096), tag: 2))
    #expect(peer.completions() == [IOCompletion(tag: 1)])
    let read = try #require(peer.take().first)
    peer.withPage(read.segments[0].reference, writable: true) { page in
      #expect((0..<4096).allSatisfy { page.load(UInt8.self, at: $0) == 0 }, "nothing of the write is left")
      page.fill(0x3C)
    }
    peer.respond(to: read, .error)
    #expect(peer.completions() == [IOCompletion(tag: 2, errorCode: 5)])
    #expect(buffer.load(UInt8.self, at: 0) == 0xC3, "a failed read copies nothing")
    #expect(peer[.bounced_segments] == 2)
  }
}
