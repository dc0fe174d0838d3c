// SPDX-License-Identifier: MIT

import BlockFront
import BlockIO
import PVPeers
import PVTestSupport
import SharedRing
import Testing
import XenWire

@Suite("A frontend that holds its notifications back")
struct FrontCoalescingTests {
  /// A frontend whose requests come at a steady rate, with so many of them at the backend, which has not armed its event.
  func busy(_ count: Int, every nanoseconds: UInt64 = 100) throws -> HostileBackend<ABI64> {
    let peer = try HostileBackend<ABI64>()
    peer.front?.policy = .adaptive
    peer.ring.requestEvent = 1000
    for tag in 0..<count { submit(peer, tag, after: nanoseconds) }
    #expect(peer[.notifications] == 0 && peer[.notifications_saved] == UInt64(count), "nobody asked for one")
    return peer
  }

  func submit(_ peer: HostileBackend<ABI64>, _ tag: Int, after nanoseconds: UInt64 = 100) {
    peer.machine.guest.advanceClock(nanoseconds: nanoseconds)
    #expect(peer.submit(.discard, sector: UInt64(tag) * 8, count: 8, tag: UInt64(tag)))
  }

  @Test("tells a backend at once that has nothing in hand")
  func idle() throws {
    let peer = try HostileBackend<ABI64>()
    peer.front?.policy = .adaptive
    submit(peer, 1)
    #expect(peer[.notifications] == 1 && peer[.notifications_deferred] == 0)
    for request in peer.take() { peer.respond(to: request) }
    peer.front?.collect()
    peer.ring.requestEvent = 2
    submit(peer, 2)
    #expect(peer[.notifications] == 2)
  }

  @Test("waits with what a busy backend asked for until a pass brings nothing more")
  func laterPass() throws {
    let peer = try busy(20)
    peer.ring.requestEvent = 21
    submit(peer, 20)
    #expect(peer[.notifications] == 0 && peer[.notifications_deferred] == 1)
    submit(peer, 21)
    #expect(peer[.notifications] == 0 && peer[.notifications_deferred] == 1, "one notification is owed, not two")
    peer.front?.issue()
    #expect(peer[.notifications] == 1, "no more has come")
    peer.front?.issue()
    #expect(peer[.notifications] == 1, "and once is enough")
  }

  @Test("sends what it owes before it sleeps")
  func sleeping() throws {
    let peer = try busy(20)
    peer.ring.requestEvent = 21
    submit(peer, 20)
    #expect(peer[.notifications] == 0)
    _ = peer.front?.prepareToWait()
    #expect(peer[.notifications] == 1)
  }

  @Test("sends it after a few requests, and after a while")
  func due() throws {
    let peer = try busy(14, every: 1000)
    peer.ring.requestEvent = 15
    var tag = 14
    while peer[.notifications] == 0, tag < 32 {
      submit(peer, tag, after: 1000)
      tag += 1
    }
    #expect(peer[.notifications] == 1 && tag > 16, "after \(tag - 14) requests")
    let late = try busy(20)
    late.ring.requestEvent = 21
    submit(late, 20)
    #expect(late[.notifications] == 0)
    late.machine.guest.advanceClock(nanoseconds: KickCoalescer.budget)
    submit(late, 21)
    #expect(late[.notifications] == 1, "20 us are the most")
  }

  @Test("owes a backend nothing that has gone")
  func suspension() throws {
    let peer = try busy(20)
    peer.ring.requestEvent = 21
    submit(peer, 20)
    let before = peer.machine.guest.calls.notifications
    peer.front?.suspend()
    _ = peer.front?.prepareToWait()
    #expect(peer.machine.guest.calls.notifications == before)
  }
}
