// SPDX-License-Identifier: MIT

import GuestMemory
import PVTestSupport
import SharedRing
import Testing
import XenRecords
import XenWire

@Suite("Requests and responses through a ring")
struct RingTrafficTests {
  @Test("full rings of every size keep every byte of every slot, over the wrap of the index", arguments: ringStarts)
  func laps(start: UInt32) throws {
    for pages in ringPages {
      try laps(ABI64.self, pages: pages, start: start)
      try laps(ABI32.self, pages: pages, start: start)
      try laps(ABIArm.self, pages: pages, start: start)
    }
  }

  /// Three laps: the ring full of requests, then full of responses in another order, then empty.
  func laps<ABI: RingFormat>(_ abi: ABI.Type, pages: Int, start: UInt32) throws {
    let memory = try RingMemory(pages: pages)
    let index = RingIndex(rawValue: start)
    FrontRing.initialise(memory.region, ABI.self, start: index)
    var front = FrontRing(attachingTo: memory.region, ABI.self, start: index)
    var back = try BackRing(attachingTo: memory.region, ABI.self)
    var slot = RequestSlot<ABI>()
    var generator = SeededGenerator(seed: UInt64(start) + UInt64(pages))
    let count = Int(front.layout.slotCount)
    for lap in 0..<3 {
      #expect(try back.unconsumedRequests() == 0 && front.freeSlots == UInt32(count))
      let ids = (0..<count).map { UInt64(lap * count + $0) }
      for id in ids { front.enqueueMarked(id, ABI.self) }
      #expect(front.isFull == true)
      #expect(try back.unconsumedRequests() == 0, "unpublished requests are not there")
      _ = front.publishRequests()
      #expect(try back.unconsumedRequests() == UInt32(count))
      for id in ids {
        back.copyRequest(into: &slot)
        if !slot.isMarked(id) { Issue.record("\(ABI.name), \(pages) pages, slot \(id) from \(start)") }
      }
      #expect(try back.unconsumedRequests() == 0)
      let order = ids.shuffled(using: &generator)
      for id in order { back.enqueue(BlockResponse(id: id, operation: .write, status: .okay)) }
      #expect(try front.unconsumedResponses() == 0, "unpublished responses are not there")
      _ = back.publishResponses()
      #expect(try front.unconsumedResponses() == UInt32(count))
      #expect(order.allSatisfy { front.takeResponse().id == $0 })
      #expect(front.hasOutstandingRequests == false)
    }
    #expect(memory.requestProducer == start &+ UInt32(3 * count))
    #expect(memory.responseProducer == start &+ UInt32(3 * count))
  }

  @Test("a slot lies at 64 + index * size, and one that crosses a page lies in both")
  func placement() throws {
    try placement(ABI64.self, pages: 4, crossing: [72, 109])
    try placement(ABI32.self, pages: 4, crossing: [37, 75, 113])
  }

  func placement<ABI: RingFormat>(_ abi: ABI.Type, pages: Int, crossing: [Int]) throws {
    let memory = try RingMemory(pages: pages)
    FrontRing.initialise(memory.region, ABI.self)
    var front = FrontRing(attachingTo: memory.region, ABI.self)
    while !front.isFull { front.enqueueMarked(UInt64(front.privateRequestProducer.rawValue), ABI.self) }
    for index in 0..<Int(front.layout.slotCount) {
      let offset = 64 + index * ABI.slotSize
      #expect(memory.region.load(UInt64.self, at: offset + ABI.idOffset) == UInt64(index))
      let last = memory.region.load(UInt32.self, at: offset + ABI.segmentsOffset + 80)
      #expect(last == UInt32(index) &* 16 &+ 10, "the last segment of slot \(index)")
    }
    for index in crossing {
      let offset = 64 + index * ABI.slotSize
      #expect(offset / 4096 != (offset + ABI.slotSize - 1) / 4096)
    }
  }

  @Test("a response is the C image in the slot's first bytes, padding zero, and the rest of the slot stays")
  func responseImages() throws {
    let golden = try GoldenVectors.load()
    try responseImages(ABI64.self, "x86_64", golden)
    try responseImages(ABI32.self, "x86_32", golden)
    try responseImages(ABIArm.self, "x86_64", golden)
  }

  func responseImages<ABI: RingFormat>(_ abi: ABI.Type, _ name: String, _ golden: GoldenVectors) throws {
    let samples: [(String, BlockResponse)] = [
      ("response_ok", BlockResponse(id: 0x1122_3344_5566_7788, operation: .read, status: .okay)),
      ("response_error", BlockResponse(id: 9, operation: .write, status: .error)),
      ("response_eopnotsupp", BlockResponse(id: 5, operation: .flushDiskCache, status: .unsupported)),
    ]
    let memory = try RingMemory()
    FrontRing.initialise(memory.region, ABI.self)
    var front = FrontRing(attachingTo: memory.region, ABI.self)
    for _ in samples { front.enqueueMarked(1, ABI.self) }
    _ = front.publishRequests()
    var back = try BackRing(attachingTo: memory.region, ABI.self)
    var slot = RequestSlot<ABI>()
    for _ in samples { back.copyRequest(into: &slot) }
    memory.region.fill(0xEE, at: 64, byteCount: 4096 - 64)
    for (_, response) in samples { back.enqueue(response) }
    _ = back.publishResponses()
    for (index, sample) in samples.enumerated() {
      let start = 64 + index * ABI.slotSize
      let image = try #require(golden.image(name, sample.0))
      #expect(image.count == ABI.responseSize)
      #expect(memory.bytes(start..<start + image.count) == image, "\(sample.0) of \(ABI.name)")
      #expect(memory.bytes(start + image.count..<start + ABI.slotSize).allSatisfy { $0 == 0xEE })
      #expect(front.takeResponse() == sample.1)
    }
  }

  @Test("the backend's end goes on where the last response was published")
  func attaching() throws {
    for start in ringStarts {
      let memory = try RingMemory()
      let index = RingIndex(rawValue: start)
      FrontRing.initialise(memory.region, ABI64.self, start: index)
      var front = FrontRing(attachingTo: memory.region, ABI64.self, start: index)
      for id in 0..<10 { front.enqueueMarked(UInt64(id)) }
      _ = front.publishRequests()
      var first = try BackRing(attachingTo: memory.region, ABI64.self)
      var slot = RequestSlot<ABI64>()
      for _ in 0..<7 { first.copyRequest(into: &slot) }
      for id in 0..<4 { first.enqueue(BlockResponse(id: UInt64(id), operation: .write, status: .okay)) }
      _ = first.publishResponses()
      var second = try BackRing(attachingTo: memory.region, ABI64.self)
      #expect(try second.unconsumedRequests() == 6, "what the first took and did not answer is there again")
      second.copyRequest(into: &slot)
      #expect(slot.isMarked(4) == true)
    }
  }

  @Test("a ring page of a real blkfront is read, and a real blkback's answers are understood")
  func capturedRings() throws {
    let memory = try RingMemory()
    memory.set(try CapturedRing.write128kPending.bytes())
    var back = try BackRing(attachingTo: memory.region, ABI64.self)
    var slot = RequestSlot<ABI64>()
    #expect(try back.unconsumedRequests() == 1)
    back.copyRequest(into: &slot)
    #expect(slot.operation == .indirect && slot.innerOperation == .write && slot.indirectSegmentCount == 32)
    #expect(slot.sector == 256 && slot.indirectHandle == 0xCA00 && slot.indirectReference(0).rawValue == 19)
    let words = try CapturedRing.write128kDescriptors()
    for index in 0..<32 {
      let bits = words[8 * index..<8 * index + 8].reversed().reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
      #expect(Segment(bits: bits).isValid && Segment(bits: bits).sectorCount == 8)
    }
    memory.set(try CapturedRing.discardPending.bytes())
    back = try BackRing(attachingTo: memory.region, ABI64.self)
    #expect(try back.unconsumedRequests() == 1)
    back.copyRequest(into: &slot)
    #expect(slot.operation == .discard && slot.discardCount == 128 && slot.sector == 16384)
    try answers(.write1mAnswered, 6..<14, .write)
    try answers(.flushAnswered, 25..<26, .flushDiskCache)
  }

  /// Reads captured answers as the frontend that had asked for them.
  func answers(_ capture: CapturedRing, _ slots: Range<UInt32>, _ operation: BlockOperation) throws {
    let memory = try RingMemory()
    let start = RingIndex(rawValue: slots.lowerBound)
    var front = FrontRing(attachingTo: memory.region, ABI64.self, start: start)
    for id in slots { front.enqueueMarked(UInt64(id)) }
    _ = front.publishRequests()
    memory.set(try capture.bytes())
    #expect(memory.responseProducer >= slots.upperBound)
    memory.responseProducer = slots.upperBound
    #expect(try front.unconsumedResponses() == UInt32(slots.count))
    var ids: Set<UInt64> = []
    for _ in slots {
      let response = front.takeResponse()
      #expect(response.operation == operation && response.status == .okay)
      ids.insert(response.id)
    }
    #expect(ids == Set((0..<slots.count).map { UInt64($0) }), "blkfront's ids are its slots, taken from 0")
  }
}
