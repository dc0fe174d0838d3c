// SPDX-License-Identifier: MIT

import GuestMemory
import PVTestSupport
import SharedRing
import Testing
import XenWire

@Suite("Hold-off and overflow of a ring")
struct HoldOffTests {
  /// A ring with both ends, begun at a start.
  struct Ends: ~Copyable {
    let memory: RingMemory
    var front: FrontRing
    var back: BackRing
    var slot = RequestSlot<ABI64>()

    init(start: UInt32) throws {
      let memory = try RingMemory()
      let index = RingIndex(rawValue: start)
      FrontRing.initialise(memory.region, ABI64.self, start: index)
      let back = try BackRing(attachingTo: memory.region, ABI64.self)
      self.memory = memory
      front = FrontRing(attachingTo: memory.region, ABI64.self, start: index)
      self.back = back
    }

    mutating func ask(_ count: Int = 1) -> NotificationNeed {
      for _ in 0..<count { front.enqueueMarked(7) }
      return front.publishRequests()
    }

    mutating func serve(_ count: Int = 1) -> NotificationNeed {
      for _ in 0..<count {
        back.copyRequest(into: &slot)
        back.enqueue(BlockResponse(id: 7, operation: .write, status: .okay))
      }
      return back.publishResponses()
    }
  }

  @Test("published first and armed later: the consumer sees it and does not sleep", arguments: ringStarts)
  func publishThenArm(start: UInt32) throws {
    var ends = try Ends(start: start)
    #expect(ends.ask() == .notify, "a fresh ring asks for the first request")
    #expect(try ends.back.armAndRecheck() == true)
    #expect(ends.ask() == .none, "nobody asked for the second one")
    #expect(try ends.back.armAndRecheck() == true)
    #expect(ends.serve(2) == .notify)
    #expect(try ends.front.armAndRecheck() == true)
    for _ in 0..<2 { _ = ends.front.takeResponse() }
    #expect(try ends.front.armAndRecheck() == false)
  }

  @Test("armed first and published later: the producer notifies", arguments: ringStarts)
  func armThenPublish(start: UInt32) throws {
    var ends = try Ends(start: start)
    for _ in 0..<40 {
      #expect(try ends.back.armAndRecheck() == false)
      #expect(ends.ask() == .notify)
      #expect(try ends.front.armAndRecheck() == false)
      #expect(ends.serve() == .notify)
      _ = ends.front.takeResponse()
    }
  }

  @Test("an event is passed once: later batches are quiet until the consumer arms again", arguments: ringStarts)
  func quietBatches(start: UInt32) throws {
    var ends = try Ends(start: start)
    #expect(try ends.back.armAndRecheck() == false)
    #expect(ends.ask(3) == .notify)
    for _ in 0..<5 { #expect(ends.ask(2) == .none) }
    #expect(ends.front.publishRequests() == .none, "publishing nothing never notifies")
    #expect(ends.serve(13) == .notify)
    #expect(ends.back.publishResponses() == .none)
    #expect(ends.ask() == .none)
    #expect(ends.serve() == .none, "the frontend has not armed again")
  }

  @Test("an event set further ahead notifies exactly when it is passed", arguments: ringStarts)
  func laterEvent(start: UInt32) throws {
    for ahead: UInt32 in 1...9 {
      var ends = try Ends(start: start)
      ends.memory.requestEvent = start &+ ahead
      for index: UInt32 in 1...9 { #expect(ends.ask() == (index == ahead ? .notify : .none)) }
    }
  }

  @Test("whatever the two ends do in turn, a sleeping end is woken", arguments: ringStarts)
  func randomTurns(start: UInt32) throws {
    var ends = try Ends(start: start)
    var generator = SeededGenerator(seed: UInt64(start) &+ 99)
    var isBackAsleep = false
    var isFrontAsleep = false
    var waiting = 0
    var answered = 0
    for _ in 0..<20_000 {
      switch Int.random(in: 0..<4, using: &generator) {
      case 0 where !isFrontAsleep:
        let room = Int(ends.front.freeSlots)
        guard room > 0 else { continue }
        let count = Int.random(in: 1...room, using: &generator)
        let need = ends.ask(count)
        waiting += count
        if isBackAsleep { #expect(need == .notify) }
        isBackAsleep = false
      case 1 where !isBackAsleep && waiting > 0:
        let count = Int.random(in: 1...waiting, using: &generator)
        let need = ends.serve(count)
        waiting -= count
        answered += count
        if isFrontAsleep { #expect(need == .notify) }
        isFrontAsleep = false
      case 2 where !isBackAsleep:
        let hasWork = try ends.back.armAndRecheck()
        #expect(hasWork == (waiting > 0))
        isBackAsleep = !hasWork
      case 3 where !isFrontAsleep:
        while answered > 0 {
          _ = ends.front.takeResponse()
          answered -= 1
        }
        if waiting > 0 { isFrontAsleep = try !ends.front.armAndRecheck() }
      default: break
      }
      if isBackAsleep && isFrontAsleep && waiting > 0 { Issue.record("both ends sleep with work to do") }
    }
  }

  @Test("a request producer more than a ring ahead, or behind, is an overflow everywhere", arguments: ringStarts)
  func requestOverflow(start: UInt32) throws {
    for jump: UInt32 in [33, 34, 1000, 0x7FFF_FFFF, 0x8000_0000, .max] {
      var ends = try Ends(start: start)
      _ = ends.ask(2)
      _ = ends.serve(2)
      ends.memory.requestProducer = ends.memory.responseProducer &+ jump
      let back = ends.back.responseState
      #expect(throws: RingViolation.requestProducerOverflow) { try ends.back.unconsumedRequests() }
      #expect(throws: RingViolation.requestProducerOverflow) { try ends.back.armAndRecheck() }
      #expect(throws: RingViolation.requestProducerOverflow) {
        _ = try BackRing(attachingTo: ends.memory.region, ABI64.self)
      }
      #expect(ends.back.responseState == back, "nothing moved")
    }
  }

  @Test("a producer exactly a ring ahead is a full ring and no overflow", arguments: ringStarts)
  func fullIsNotOverflow(start: UInt32) throws {
    var ends = try Ends(start: start)
    _ = ends.ask(32)
    #expect(try ends.back.unconsumedRequests() == 32)
    for _ in 0..<32 { ends.back.copyRequest(into: &ends.slot) }
    #expect(try ends.back.unconsumedRequests() == 0)
    #expect(try ends.back.armAndRecheck() == false)
  }

  @Test("a response producer ahead of what was asked is an overflow, even within the ring", arguments: ringStarts)
  func responseOverflow(start: UInt32) throws {
    for jump: UInt32 in [4, 5, 32, 33, 0x8000_0000, .max] {
      var ends = try Ends(start: start)
      _ = ends.ask(3)
      ends.memory.responseProducer = start &+ jump
      #expect(throws: RingViolation.responseProducerOverflow) { try ends.front.unconsumedResponses() }
      #expect(throws: RingViolation.responseProducerOverflow) { try ends.front.armAndRecheck() }
    }
  }

  @Test("requests that are enqueued and not published may not be answered", arguments: ringStarts)
  func answerToTheUnpublished(start: UInt32) throws {
    var ends = try Ends(start: start)
    ends.front.enqueueMarked(1)
    ends.memory.responseProducer = start &+ 1
    #expect(throws: RingViolation.responseProducerOverflow) { try ends.front.unconsumedResponses() }
  }
}

extension BackRing {
  /// Both private indices, for "nothing moved".
  var responseState: [UInt32] { [requestConsumer.rawValue, privateResponseProducer.rawValue] }
}
