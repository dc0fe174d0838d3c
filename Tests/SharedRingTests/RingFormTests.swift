// SPDX-License-Identifier: MIT

import GuestMemory
import PVTestSupport
import SharedRing
import Testing
import XenWire

/// A form of the rings, with the number of requests that it can have out.
struct RingForm: CustomTestStringConvertible, Sendable {
  var testDescription: String
  var plan: RingPlan
  var depth: UInt32

  init(_ name: String, _ depth: UInt32, _ change: (inout RingPlan) -> Void) {
    testDescription = name
    var plan = RingPlan()
    change(&plan)
    self.plan = plan
    self.depth = depth
  }

  /// Each modifier alone and together; 126, 63, 36 and 252 leave 4 when they divide 2^32.
  static let all: [RingForm] = [
    RingForm("slim32, whole page", 126) { ($0.variant, $0.usesWholePage) = (.slim32, true) },
    RingForm("slim64, whole page", 63) { ($0.variant, $0.usesWholePage) = (.slim64, true) },
    RingForm("classic, whole page", 36) { $0.usesWholePage = true },
    RingForm("classic of 32 bits, whole page", 37) { ($0.blockProtocol, $0.usesWholePage) = (.x86_32, true) },
    RingForm("slim32, split, words together, whole page: 252 responses", 126) {
      ($0.variant, $0.usesWholePage, $0.isSplit, $0.indexPlacement) = (.slim32, true, true, .together)
    },
    RingForm("slim32 of four pages, split, 252 responses for 510 requests", 252) {
      ($0.variant, $0.usesWholePage, $0.isSplit, $0.indexPlacement) = (.slim32, true, true, .together)
      ($0.ringPages, $0.responseRingPages) = (4, 1)
    },
    RingForm("slim32, split, whole page", 124) { ($0.variant, $0.usesWholePage, $0.isSplit) = (.slim32, true, true) },
    RingForm("classic, split", 32) { $0.isSplit = true },
    RingForm("classic of sixteen pages, split, one page of responses", 128) {
      ($0.isSplit, $0.ringPages, $0.responseRingPages) = (true, 16, 1)
    },
    RingForm("classic, align=64, whole page", 31) { ($0.alignment, $0.usesWholePage) = (64, true) },
    RingForm("classic, align=128", 16) { $0.alignment = 128 },
    RingForm("slim64, align=128, split, whole page", 30) {
      ($0.variant, $0.alignment, $0.isSplit, $0.usesWholePage) = (.slim64, 128, true, true)
    },
    RingForm("wide with 32 segments, whole page", 14) {
      ($0.variant, $0.segmentsPerRequest, $0.usesWholePage) = (.wide, 32, true)
    },
  ]
}

@Suite("Rings of every form")
struct RingFormTests {
  /// Both ends of a ring, begun at a start.
  struct Ends: ~Copyable {
    let memory: RingMemory
    let geometry: RingGeometry
    var front: FrontRing
    var back: BackRing

    init(_ form: RingForm, start: UInt32) throws {
      let geometry = RingGeometry(form.plan)
      let memory = try RingMemory(pages: geometry.pageCount)
      let index = RingIndex(rawValue: start)
      FrontRing.initialise(memory.region, geometry, start: index)
      let back = try BackRing(attachingTo: memory.region, geometry)
      self.geometry = geometry
      self.memory = memory
      front = FrontRing(attachingTo: memory.region, geometry, start: index)
      self.back = back
    }

    /// Puts a request with a segment that is made from its id.
    mutating func ask(_ id: UInt64, _ format: SlotFormat) {
      switch format {
      case .slim32: ask(id, Slim32Format.self)
      case .slim64: ask(id, Slim64Format<ABI64>.self)
      case .classic32: ask(id, ABI32.self)
      case .wide64: ask(id, WideFormat<ABI64>.self)
      default: ask(id, ABI64.self)
      }
    }

    private mutating func ask<Format: RingFormat>(_ id: UInt64, _ format: Format.Type) {
      var slot = RequestSlot<Format>()
      let count = slot.encodeDirect(.write, segmentCount: 1, handle: 7, id: id, sector: id &* 3)
      slot.setDirectSegment(
        Segment(reference: GrantReference(rawValue: UInt32(truncatingIfNeeded: id)), firstSector: 1, lastSector: 6),
        at: 0)
      front.enqueue(slot, byteCount: count)
    }

    /// Takes the next request; whether it is the one that `ask` put for an id.
    mutating func take(_ id: UInt64, _ format: SlotFormat) -> Bool {
      switch format {
      case .slim32: return take(id, Slim32Format.self)
      case .slim64: return take(id, Slim64Format<ABI64>.self)
      case .classic32: return take(id, ABI32.self)
      case .wide64: return take(id, WideFormat<ABI64>.self)
      default: return take(id, ABI64.self)
      }
    }

    private mutating func take<Format: RingFormat>(_ id: UInt64, _ format: Format.Type) -> Bool {
      var slot = RequestSlot<Format>()
      back.copyRequest(into: &slot)
      let segment = slot.directSegment(0)
      return slot.id == id && slot.sector == id &* 3 && slot.directSegmentCount == 1 && slot.operation == .write
        && segment.reference.rawValue == UInt32(truncatingIfNeeded: id) && segment.firstSector == 1
        && segment.lastSector == 6
    }

    mutating func answer(_ id: UInt64) { back.enqueue(BlockResponse(id: id, operation: .write, status: .okay)) }
  }

  @Test("full and empty rings keep every request and response over the wrap of the index", arguments: RingForm.all)
  func laps(form: RingForm) throws {
    for start in ringStarts {
      var ends = try Ends(form, start: start)
      var generator = SeededGenerator(seed: UInt64(start) &+ 5)
      #expect(ends.front.layout.slotCount == form.depth)
      for lap in 0..<4 {
        #expect(try ends.back.unconsumedRequests() == 0 && ends.front.freeSlots == form.depth)
        let ids = (0..<UInt64(form.depth)).map { UInt64(lap) << 32 | $0 }
        for id in ids { ends.ask(id, form.plan.format) }
        #expect(ends.front.isFull == true)
        _ = ends.front.publishRequests()
        #expect(try ends.back.unconsumedRequests() == form.depth)
        for id in ids where !ends.take(id, form.plan.format) { Issue.record("request \(id) from \(start)") }
        let order = ids.shuffled(using: &generator)
        for id in order { ends.answer(id) }
        _ = ends.back.publishResponses()
        #expect(try ends.front.unconsumedResponses() == form.depth)
        for id in order where ends.front.takeResponse().id != id { Issue.record("response \(id) from \(start)") }
        #expect(ends.front.hasOutstandingRequests == false)
      }
    }
  }

  @Test("random turns, many times round the ring and over the wrap, lose and tear nothing", arguments: RingForm.all)
  func turns(form: RingForm) throws {
    for start in ringStarts {
      var ends = try Ends(form, start: start)
      var generator = SeededGenerator(seed: UInt64(start) &+ UInt64(form.depth))
      var asked: UInt64 = 0
      var taken: UInt64 = 0
      var answered: UInt64 = 0
      var read: UInt64 = 0
      while read < UInt64(form.depth) * 12 {
        switch Int.random(in: 0..<3, using: &generator) {
        case 0:
          for _ in 0..<Int.random(in: 0...Int(ends.front.freeSlots), using: &generator) {
            ends.ask(asked, form.plan.format)
            asked += 1
          }
          _ = ends.front.publishRequests()
        case 1:
          let waiting = try ends.back.unconsumedRequests()
          #expect(UInt64(waiting) == asked - taken)
          for _ in 0..<waiting {
            if !ends.take(taken, form.plan.format) { Issue.record("request \(taken) from \(start)") }
            taken += 1
          }
          for _ in 0..<UInt64.random(in: 0...(taken - answered), using: &generator) {
            ends.answer(answered)
            answered += 1
          }
          _ = ends.back.publishResponses()
        default:
          // Not all of them, so that the response ring stays partly full.
          let waiting = try ends.front.unconsumedResponses()
          for _ in 0..<UInt32.random(in: 0...waiting, using: &generator) {
            if ends.front.takeResponse().id != read { Issue.record("response \(read) from \(start)") }
            read += 1
          }
        }
      }
    }
  }

  @Test("events ask and notify over the wrap as in a classic ring", arguments: RingForm.all)
  func events(form: RingForm) throws {
    for start in ringStarts {
      var ends = try Ends(form, start: start)
      for id in 0..<UInt64(3 * form.depth) {
        #expect(try ends.back.armAndRecheck() == false)
        ends.ask(id, form.plan.format)
        #expect(ends.front.publishRequests() == .notify)
        #expect(try ends.front.armAndRecheck() == false)
        #expect(ends.take(id, form.plan.format) == true)
        ends.answer(id)
        #expect(ends.back.publishResponses() == .notify)
        _ = ends.front.takeResponse()
      }
    }
  }
}

@Suite("Room for responses in split rings")
struct ResponseRoomTests {
  static let split = RingForm.all.filter(\.plan.isSplit)

  @Test("while responses are not read the front may ask for no more than there is room for", arguments: split)
  func frontStops(form: RingForm) throws {
    for start in ringStarts {
      var ends = try RingFormTests.Ends(form, start: start)
      for id in 0..<UInt64(form.depth) { ends.ask(id, form.plan.format) }
      _ = ends.front.publishRequests()
      for id in 0..<UInt64(form.depth) {
        #expect(ends.take(id, form.plan.format) == true)
        ends.answer(id)
      }
      _ = ends.back.publishResponses()
      #expect(ends.front.isFull == true, "all requests are consumed and answered, and no response was read")
      #expect(try ends.back.unconsumedRequests() == 0)
      for id in 0..<UInt64(form.depth) { #expect(ends.front.takeResponse().id == id) }
      #expect(ends.front.freeSlots == form.depth)
    }
  }

  @Test("a front that asks for more than it has read responses for breaks the rules", arguments: split)
  func overcommitted(form: RingForm) throws {
    for start in ringStarts {
      var ends = try RingFormTests.Ends(form, start: start)
      for id in 0..<UInt64(form.depth) { ends.ask(id, form.plan.format) }
      _ = ends.front.publishRequests()
      for id in 0..<UInt64(form.depth) {
        #expect(ends.take(id, form.plan.format) == true)
        ends.answer(id)
      }
      _ = ends.back.publishResponses()
      // It says that it has read none, and asks for one more.
      ends.memory.region.store(start &+ form.depth &+ 1, at: ends.geometry.requestProducerOffset)
      #expect(throws: RingViolation.responseSpaceExceeded) { try ends.back.unconsumedRequests() }
      // It says that it has read one: there is room again.
      let consumer = try #require(ends.geometry.responseConsumerOffset)
      ends.memory.region.store(start &+ 1, at: consumer)
      #expect(try ends.back.unconsumedRequests() == 1)
      // It says that it has read responses that were never sent.
      ends.memory.region.store(start &+ form.depth &+ 1, at: consumer)
      #expect(throws: RingViolation.responseSpaceExceeded) { try ends.back.unconsumedRequests() }
    }
  }
}
