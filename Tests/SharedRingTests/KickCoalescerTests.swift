// SPDX-License-Identifier: MIT

import PVTestSupport
import SharedRing
import Testing

@Suite("Holding notifications back")
struct KickCoalescerTests {
  /// Teaches a coalescer a rate: one response in so many nanoseconds, with nobody asking.
  func coalescer(interval: UInt64, at now: inout UInt64) -> KickCoalescer {
    var coalescer = KickCoalescer()
    for _ in 0..<100 {
      now += interval
      #expect(coalescer.published(1, isAsked: false, inHand: true, now: now) == false)
    }
    return coalescer
  }

  @Test("the faster responses come, the more of them one notification announces, and the sooner its time is over")
  func adaptation() {
    var least: UInt64 = .max
    for interval: UInt64 in [100, 500, 2000, 10_000, 30_000, 500_000] {
      var now: UInt64 = 1_000_000
      let coalescer = coalescer(interval: interval, at: &now)
      #expect(coalescer.k <= least)
      least = coalescer.k
      #expect(coalescer.k >= 1 && coalescer.k <= KickCoalescer.mostResponses)
      #expect(coalescer.t <= KickCoalescer.budget)
    }
    #expect(least == 1, "slow responses are announced one by one")
  }

  @Test("what was asked for is due after k responses")
  func afterK() {
    var now: UInt64 = 1_000_000
    var coalescer = coalescer(interval: 1000, at: &now)
    var count: UInt64 = 0
    while count < 1000 {
      now += 1000
      count += 1
      if coalescer.published(1, isAsked: count == 1, inHand: true, now: now) { break }
    }
    #expect(count > 1 && count <= KickCoalescer.budget / 1000 + 1, "announced after \(count)")
    #expect(coalescer.isOwed == false)
    #expect(coalescer.published(1, isAsked: false, inHand: true, now: now + 1) == false, "nobody asked again")
  }

  @Test("or after its time, when responses stop coming as fast as they came")
  func afterT() {
    var now: UInt64 = 1_000_000
    var coalescer = coalescer(interval: 1000, at: &now)
    #expect(coalescer.published(1, isAsked: true, inHand: true, now: now + 1000) == false)
    #expect(coalescer.published(1, isAsked: false, inHand: true, now: now + 1000 + KickCoalescer.budget) == true)
  }

  @Test("or at once, when nothing more is in hand")
  func nothingInHand() {
    var now: UInt64 = 1_000_000
    var coalescer = coalescer(interval: 100, at: &now)
    #expect(coalescer.published(1, isAsked: true, inHand: false, now: now + 100) == true)
    #expect(coalescer.published(1, isAsked: true, inHand: true, now: now + 200) == false)
    #expect(coalescer.published(1, isAsked: false, inHand: false, now: now + 300) == true)
  }

  @Test("nobody waits on a notification that is owed: settling sends it, once")
  func settling() {
    var now: UInt64 = 1_000_000
    var coalescer = coalescer(interval: 100, at: &now)
    #expect(coalescer.settle() == false)
    #expect(coalescer.published(1, isAsked: true, inHand: true, now: now + 100) == false)
    #expect(coalescer.settle() == true)
    #expect(coalescer.settle() == false)
  }

  @Test("whatever happens in whatever order, what was asked for is sent before the owner waits")
  func randomOrder() {
    var generator = SeededGenerator(seed: 3)
    var coalescer = KickCoalescer()
    var now: UInt64 = 1
    var isAsked = false
    for _ in 0..<100_000 {
      now += UInt64.random(in: 0...50_000, using: &generator)
      if Int.random(in: 0..<4, using: &generator) == 0 {
        let isSent = coalescer.settle()
        #expect(isSent == isAsked)
        isAsked = false
      } else {
        let asks = !isAsked && Bool.random(using: &generator)
        let inHand = Bool.random(using: &generator)
        isAsked = isAsked || asks
        let isSent = coalescer.published(
          UInt64.random(in: 1...32, using: &generator), isAsked: asks, inHand: inHand, now: now)
        if isSent && !isAsked { Issue.record("a notification that nobody asked for") }
        if isAsked && !inHand && !isSent { Issue.record("held back with nothing in hand") }
        if isSent { isAsked = false }
      }
    }
  }
}
