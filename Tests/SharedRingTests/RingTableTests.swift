// SPDX-License-Identifier: MIT

import GuestMemory
import SharedRing
import Testing
import XenRecords
import XenWire

@Suite("A ring's numbers, against the C macros")
struct RingTableTests {
  let golden: GoldenVectors

  init() throws { golden = try GoldenVectors.load() }

  @Test("slots are the largest power of two that fits, for every slot size and number of pages")
  func entries() throws {
    for (size, table) in golden.ringEntries {
      let slotSize = try #require(Int(size))
      for (pages, counts) in table {
        let byteCount = try #require(Int(pages)) * 4096
        #expect(RingLayout.slotCount(byteCount: byteCount, slotSize: slotSize) == counts[1], "\(size) x \(pages)")
        #expect((byteCount - 64) / slotSize == counts[0])
      }
    }
    for pages in ringPages {
      let region = try RingMemory(pages: pages)
      let layout = RingLayout(region: region.region, geometry: ABI64.geometry(region.region))
      #expect(layout.slotCount == UInt32(32 * pages))
    }
  }

  @Test("a fresh ring's header is the C macro's, and the rest is zero")
  func header() throws {
    let image = try #require(golden.image("x86_64", "sring_header_init"))
    for pages in ringPages {
      let memory = try RingMemory(pages: pages)
      memory.region.fill(0x5A)
      FrontRing.initialise(memory.region, ABI64.self)
      #expect(memory.bytes(0..<64) == image)
      #expect(memory.bytes(64..<pages * 4096).allSatisfy { $0 == 0 })
    }
  }

  @Test("the slots that cross pages are those of the C layout")
  func crossings() throws {
    for (size, table) in golden.crossingSlots {
      let slotSize = try #require(Int(size))
      for (pages, crossing) in table {
        let byteCount = try #require(Int(pages)) * 4096
        let count = Int(RingLayout.slotCount(byteCount: byteCount, slotSize: slotSize))
        let found = (0..<count).filter {
          (64 + $0 * slotSize) / 4096 != (64 + ($0 + 1) * slotSize - 1) / 4096
        }
        #expect(found == crossing, "\(size) x \(pages)")
      }
    }
  }

  @Test("unconsumed requests and a producer too far ahead are judged as by the C macros, in every row")
  func unconsumedRequests() throws {
    #expect(golden.unconsumedRequests.count == 14)
    for row in golden.unconsumedRequests {
      let (size, producer, consumer, responses) = (row[0], row[1], row[2], row[3])
      let memory = try RingMemory()
      memory.responseProducer = responses
      memory.requestProducer = consumer
      var ring = try BackRing(attachingTo: memory.region, ABI64.self)
      #expect(ring.layout.slotCount == size)
      var slot = RequestSlot<ABI64>()
      while ring.requestConsumer.rawValue != consumer { ring.copyRequest(into: &slot) }
      memory.requestProducer = producer
      if row[5] == 1 {
        #expect(throws: RingViolation.requestProducerOverflow, "\(row)") { try ring.unconsumedRequests() }
      } else {
        #expect(try ring.unconsumedRequests() == row[4], "\(row)")
      }
    }
  }

  @Test("free slots are counted as by the C macros, in every row")
  func freeRequests() throws {
    for row in golden.freeRequests {
      let memory = try RingMemory()
      let start = RingIndex(rawValue: row[2])
      FrontRing.initialise(memory.region, ABI64.self, start: start)
      var ring = FrontRing(attachingTo: memory.region, ABI64.self, start: start)
      while ring.privateRequestProducer.rawValue != row[1] { ring.enqueueMarked(0) }
      #expect(ring.freeSlots == row[3], "\(row)")
      #expect(ring.isFull == (row[4] == 1), "\(row)")
    }
  }

  @Test("a response producer too far ahead is judged as by the C macros, in every row")
  func responseOverflow() throws {
    for row in golden.responseOverflow {
      let memory = try RingMemory()
      let start = RingIndex(rawValue: row[2])
      FrontRing.initialise(memory.region, ABI64.self, start: start)
      var ring = FrontRing(attachingTo: memory.region, ABI64.self, start: start)
      while !ring.isFull { ring.enqueueMarked(0) }
      _ = ring.publishRequests()
      memory.responseProducer = row[1]
      if row[3] == 1 {
        #expect(throws: RingViolation.responseProducerOverflow, "\(row)") { try ring.unconsumedResponses() }
      } else {
        #expect(try ring.unconsumedResponses() == row[1] &- row[2], "\(row)")
      }
    }
  }

  @Test("the final check writes the event and answers as the C macro does, in every row")
  func finalCheck() throws {
    for row in golden.finalCheck {
      let memory = try RingMemory()
      memory.responseProducer = row[2]
      memory.requestProducer = row[1]
      var ring = try BackRing(attachingTo: memory.region, ABI64.self)
      memory.requestProducer = row[0]
      memory.requestEvent = row[3]
      #expect(try ring.armAndRecheck() == (row[5] == 1), "\(row)")
      #expect(memory.requestEvent == row[4], "\(row)")
    }
  }
}
