// SPDX-License-Identifier: MIT

import BlockIO
import GuestMemory
import PVPeers
import PVTestSupport
import SharedRing
import Testing
import XenWire

@testable import BlockBack

/// A backend's process may die at any moment; the frontend waits for its answers on the same ring.
@Suite("A backend that died and came back")
struct RestartTests {
  func makeFrontend() throws -> ScriptedFrontend<ABI64> {
    var setup = ScriptedFrontend<ABI64>.Setup()
    setup.isRestartable = true
    setup.abilities.isPersistent = true
    let frontend = try ScriptedFrontend<ABI64>(setup)
    #expect(frontend.back?.takeUp() == 0)
    frontend.disk.isOpen = false
    return frontend
  }

  @Test("a request whose slot another's response has taken is served by the next backend")
  func overwrittenSlot() throws {
    let frontend = try makeFrontend()
    let pages = try frontend.grantPages(3)
    for (index, page) in pages.enumerated() {
      page.fill(UInt8(0x40 + index))
      frontend.direct(.write, id: UInt64(10 + index), sector: UInt64(8 * index), [page.segment()])
    }
    #expect(frontend.run().isEmpty)
    // The last is answered first: its response lies where the first request was.
    frontend.disk.release(2)
    #expect(frontend.runBackend().map(\.id) == [12])
    frontend.disk.forget()
    #expect(try frontend.restartBackend() == 2)
    frontend.disk.isOpen = true
    #expect(Set(frontend.runBackend().map(\.id)) == [10, 11])
    #expect(frontend.disk.log.map(\.description) == ["write 0+8", "write 8+8"], "oldest first, and the last not again")
    for index in 0..<3 {
      #expect(frontend.disk.disk.contents.load(UInt8.self, at: index * 4096) == UInt8(0x40 + index))
    }
    #expect(try frontend.restartBackend() == 0)
    #expect(frontend.runBackend().isEmpty)
    #expect(frontend.tearDown())
  }

  @Test("a request that is much older than the ring is long is not forgotten")
  func oldRequest() throws {
    let frontend = try makeFrontend()
    let page = try frontend.grantPage()
    page.fill(0x77)
    frontend.direct(.write, id: 99, sector: 2000, [page.segment()])
    #expect(frontend.run().isEmpty)
    for round in 0..<200 {
      frontend.direct(.read, id: UInt64(round % 31), sector: 0, [try frontend.grantPage().segment()])
      #expect(frontend.run().isEmpty)
      frontend.disk.release(1)
      #expect(frontend.runBackend().map(\.id) == [UInt64(round % 31)])
    }
    #expect(try frontend.restartBackend() == 1)
    frontend.disk.isOpen = true
    #expect(frontend.runBackend() == [BlockResponse(id: 99, operation: .write, status: .okay)])
    #expect(frontend.disk.disk.contents.load(UInt8.self, at: 2000 * 512) == 0x77)
  }

  @Test("a barrier and an indirect request are taken up with what came before them")
  func barrier() throws {
    let frontend = try makeFrontend()
    let data = try frontend.grantPages(12)
    for page in data { page.fill(0x5A) }
    let descriptors = try frontend.grantPage()
    frontend.describe(data.map { $0.segment() }, in: [descriptors])
    frontend.indirect(.write, id: 1, sector: 0, count: 12, [descriptors.reference])
    frontend.direct(.writeBarrier, id: 2, sector: 512, [data[0].segment()])
    frontend.direct(.read, id: 3, sector: 0, [data[1].segment()])
    #expect(frontend.run().isEmpty)
    #expect(try frontend.restartBackend() == 2, "what follows a barrier was not taken")
    frontend.disk.isOpen = true
    #expect(frontend.runBackend().map(\.id) == [1, 2, 3])
    #expect(frontend.disk.disk.contents.load(UInt8.self, at: 512 * 512) == 0x5A)
  }

  @Test("with deaths at random moments every request is answered exactly once", arguments: [UInt64(1), 2, 3, 4, 5])
  func randomDeaths(seed: UInt64) throws {
    let frontend = try makeFrontend()
    var random = SeededGenerator(seed: seed)
    let pages = try frontend.grantPages(32)
    var free = Array(0..<32)
    var waiting: Set<UInt64> = []
    var deaths = 0
    func take(_ responses: [BlockResponse]) {
      for response in responses {
        #expect(waiting.remove(response.id) != nil, "seed \(seed): \(response.id) was answered and had not been asked")
        #expect(response.status == .okay)
        free.append(Int(response.id))
      }
    }
    for _ in 0..<2000 {
      for _ in 0..<Int.random(in: 0...4, using: &random) where !free.isEmpty {
        let id = free.remove(at: Int.random(in: 0..<free.count, using: &random))
        let operation: BlockOperation = Bool.random(using: &random) ? .read : .write
        // One of several segments is refused at once, in the middle of a batch.
        frontend.direct(operation, id: UInt64(id), sector: UInt64(id * 8), [pages[id].segment()])
        waiting.insert(UInt64(id))
      }
      for _ in 0..<Int.random(in: 0...4, using: &random) {
        frontend.disk.release(Int.random(in: 0..<8, using: &random))
      }
      take(frontend.run())
      if Int.random(in: 0..<10, using: &random) == 0 {
        deaths += 1
        _ = try frontend.restartBackend()
      }
    }
    #expect(deaths > 100)
    frontend.disk.isOpen = true
    take(frontend.runBackend())
    #expect(waiting.isEmpty, "seed \(seed): these were never answered: \(waiting)")
  }

  @Test("a queue that drains answers what it took and takes nothing more")
  func draining() throws {
    let frontend = try makeFrontend()
    let page = try frontend.grantPage()
    frontend.direct(.write, id: 1, sector: 0, [page.segment()])
    #expect(frontend.run().isEmpty)
    frontend.back?.drain()
    frontend.direct(.write, id: 2, sector: 8, [page.segment()])
    frontend.disk.isOpen = true
    #expect(frontend.run().map(\.id) == [1])
    #expect(frontend.back?.inFlight == 0)
    #expect(try frontend.restartBackend() == 0)
    #expect(frontend.runBackend().map(\.id) == [2])
  }
}

/// The notes themselves, with a death between any two stores.
@Suite("What a backend has taken, noted")
struct TakenRequestsTests {
  /// Two requests taken; then the first is answered, step by step.
  enum Step: Int, CaseIterable {
    case taken, answered, written, published, cleared
  }

  @Test(
    "at every step, requests consumed are responses published and entries that are not over", arguments: Step.allCases)
  func everyStep(step: Step) throws {
    let ringMemory = try MappedMemory(anonymousByteCount: 4096)
    let memory = try MappedMemory(anonymousByteCount: TakenRequests.byteCount(slots: 32, stride: 112))
    for start: UInt32 in [0, UInt32.max - 1] {
      FrontRing.initialise(ringMemory.region, RingGeometry(RingPlan()), start: RingIndex(rawValue: start))
      var ring = try BackRing(attachingTo: ringMemory.region, RingGeometry(RingPlan()))
      var notes = TakenRequests(memory: memory.region, identity: UInt64(start), slots: 32, stride: 112)
      #expect(notes.recover(published: RingIndex(rawValue: start), waiting: 0).isEmpty)
      ringMemory.region.store(start &+ 2, at: 0)
      var slot = RequestSlot<ABI64>()
      for request in 0..<2 {
        ring.copyRequest(into: &slot)
        slot.encodeDirect(.write, segmentCount: 0, handle: 0, id: UInt64(100 + request), sector: 0)
        notes.take(request, index: ring.requestConsumer, slot)
      }
      if step.rawValue >= Step.answered.rawValue { notes.answer(1, as: ring.privateResponseProducer) }
      if step.rawValue >= Step.written.rawValue {
        ring.enqueue(BlockResponse(id: 101, operation: .write, status: .okay))
      }
      if step.rawValue >= Step.published.rawValue { _ = ring.publishResponses() }
      if step.rawValue >= Step.cleared.rawValue { notes.publish() }

      var next = TakenRequests(memory: memory.region, identity: UInt64(start), slots: 32, stride: 112)
      var ringAfter = try BackRing(attachingTo: ringMemory.region, RingGeometry(RingPlan()))
      let published = ringAfter.privateResponseProducer
      let alive = next.recover(published: published, waiting: try ringAfter.unconsumedRequests())
      try ringAfter.passOver(UInt32(alive.count))
      #expect(ringAfter.requestConsumer.rawValue == start &+ 2, "\(step) from \(start)")
      let ids = alive.map { entry in
        next.restore(entry, as: 0, into: &slot)
        return slot.id
      }
      #expect(ids == (step.rawValue >= Step.published.rawValue ? [100] : [100, 101]))
    }
  }

  @Test("notes of another connection, of another form, or of more requests than the ring has, are nothing")
  func strangers() throws {
    let memory = try MappedMemory(anonymousByteCount: TakenRequests.byteCount(slots: 32, stride: 112))
    let slot = RequestSlot<ABI64>()
    func note() {
      var notes = TakenRequests(memory: memory.region, identity: 1, slots: 32, stride: 112)
      _ = notes.recover(published: RingIndex(rawValue: 0), waiting: 0)
      notes.take(0, index: RingIndex(rawValue: 1), slot)
    }
    func found(identity: UInt64, slots: Int = 32, waiting: UInt32 = 1) -> Int {
      var notes = TakenRequests(memory: memory.region, identity: identity, slots: slots, stride: 112)
      return notes.recover(published: RingIndex(rawValue: 0), waiting: waiting).count
    }
    note()
    #expect(found(identity: 1) == 1)
    #expect(found(identity: 1, waiting: 0) == 0)
    note()
    #expect(found(identity: 2) == 0)
    note()
    #expect(found(identity: 1, slots: 16) == 0)
  }
}
