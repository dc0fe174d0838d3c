// SPDX-License-Identifier: MIT

import BlockBack
import BlockFront
import BlockIO
import Glibc
import GuestMemory
import PVMachine
import PVTestSupport
import Testing

@Suite("Queues whose requests name each other's buffers")
struct NeighbourTests {
  private static let bufferBytes = 65536

  private struct Pair: ~Copyable {
    var first: QueueDriver<AttachedDisk<MemoryDisk>.Queue>
    var second: QueueDriver<AttachedDisk<MemoryDisk>.Queue>

    init(_ disk: AttachedDisk<MemoryDisk>, areNeighbours: Bool = true) throws {
      func demand(_ other: Int) -> BufferDemand {
        BufferDemand(count: 4, byteCount: bufferBytes, neighbour: areNeighbours ? other : nil)
      }
      let queue = try disk.makeQueue(0, buffers: demand(1))
      let other = try disk.makeQueue(1, buffers: demand(0))
      first = QueueDriver(queue)
      second = QueueDriver(other)
      // The first hears of the second by a letter.
      first.queue.advance()
    }

    /// Each queue writes from the other's buffer and reads back into the other's; the number of wrong results.
    mutating func exchange(seed: UInt64) -> Int {
      var generator = SeededGenerator(seed: seed)
      let places = (first.queue.buffer(2), second.queue.buffer(3))
      return NeighbourTests.roundTrip(&first, through: places.1, at: 0, generator.bytes(bufferBytes))
        + NeighbourTests.roundTrip(&second, through: places.0, at: bufferBytes, generator.bytes(bufferBytes))
    }

    consuming func dropFirst() -> QueueDriver<AttachedDisk<MemoryDisk>.Queue> { second }
  }

  private static func roundTrip(
    _ driver: inout QueueDriver<AttachedDisk<MemoryDisk>.Queue>, through place: MemoryExtent, at offset: Int,
    _ bytes: [UInt8]
  ) -> Int {
    guard let region = place.region else { return 1 }
    func run(_ operation: IOOperation) -> CInt {
      let extents = [place]
      // SAFETY: the array outlives the request, which `run` waits for.
      return unsafe extents.withUnsafeBufferPointer { list in
        guard let start = list.baseAddress else { return EINVAL }
        return driver.run(
          IORequest(
            tag: 1, operation: operation,
            sectors: SectorRange(start: UInt64(offset / 512), count: UInt64(place.byteCount / 512)),
            memory: unsafe MemoryExtentList(unsafeStart: start, count: 1)))
      }
    }
    unsafe region.copyIn(bytes.span.bytes, at: 0)
    guard run(.write) == 0 else { return 1 }
    region.fill(0xEE)
    guard run(.read) == 0 else { return 1 }
    // SAFETY: the bytes are copied.
    let found = unsafe region.withUnsafeBytes { unsafe Array($0) }
    return found == bytes ? 0 : 1
  }

  private static func bounced(_ disk: AttachedDisk<MemoryDisk>) -> UInt64 {
    disk.counters.reduce(0) { $0 + $1.front[FrontCounter.bounced_segments.rawValue] }
  }

  private static func configuration(_ placement: Placement, isPersistent: Bool) -> DiskConfiguration {
    var configuration = LifeTests.configuration(placement)
    configuration.queues = 2
    configuration.frontPersistent = isPersistent
    return configuration
  }

  @Test("data in a neighbour's buffer is not copied", arguments: Placement.allCases, [true, false])
  func named(_ placement: Placement, _ isPersistent: Bool) throws {
    let machine = try Machine()
    let before = machine.ledger
    let disk = try machine.attach(
      lateDisk(byteCount: 1 << 20, seed: 4), as: Self.configuration(placement, isPersistent: isPersistent))
    do {
      var pair = try Pair(disk)
      for seed in 1...5 as ClosedRange<UInt64> { #expect(pair.exchange(seed: seed) == 0) }
      #expect(Self.bounced(disk) == 0)
    }
    #expect(disk.detach() == 0)
    #expect(machine.ledger == before)
  }

  @Test("a queue that was not told of the other copies its data")
  func strangers() throws {
    let machine = try Machine()
    let disk = try machine.attach(
      lateDisk(byteCount: 1 << 20, seed: 4), as: Self.configuration(.inline, isPersistent: true))
    do {
      var pair = try Pair(disk, areNeighbours: false)
      #expect(pair.exchange(seed: 1) == 0)
      #expect(Self.bounced(disk) == 64)
    }
    #expect(disk.detach() == 0)
  }

  @Test("buffers stay until the last queue that may name them has gone", arguments: [true, false])
  func outlives(_ isPersistent: Bool) throws {
    let machine = try Machine()
    let before = machine.ledger
    let disk = try machine.attach(
      lateDisk(byteCount: 1 << 20, seed: 4), as: Self.configuration(.inline, isPersistent: isPersistent))
    do {
      var pair = try Pair(disk)
      #expect(pair.exchange(seed: 1) == 0)
      let place = pair.first.queue.buffer(2)
      var rest = pair.dropFirst()
      var generator = SeededGenerator(seed: 9)
      #expect(Self.roundTrip(&rest, through: place, at: 4096, generator.bytes(Self.bufferBytes)) == 0)
      #expect(Self.bounced(disk) == 0)
    }
    #expect(disk.detach() == 0)
    #expect(machine.ledger == before)
  }

  @Test("another backend is let at a neighbour's buffers too", arguments: [true, false])
  func reconnected(_ isPersistent: Bool) throws {
    let machine = try Machine()
    let before = machine.ledger
    let disk = try machine.attach(
      lateDisk(byteCount: 1 << 20, seed: 4), as: Self.configuration(.inline, isPersistent: isPersistent))
    do {
      var pair = try Pair(disk)
      for round in 0..<3 {
        // From kept grants to grants for each request, and back.
        var knobs = BackendKnobs()
        knobs.featurePersistent = round % 2 == 1
        disk.replaceBackend(with: knobs)
        let deadline = time(nil) + 60
        while !(disk.phase == .connected && disk.backend.knobs == knobs), time(nil) < deadline {
          pair.first.queue.advance()
          pair.second.queue.advance()
          usleep(200)
        }
        pair.first.queue.advance()
        pair.second.queue.advance()
        #expect(pair.exchange(seed: UInt64(round)) == 0)
      }
      #expect(Self.bounced(disk) == 0)
    }
    #expect(disk.detach() == 0)
    #expect(machine.ledger == before)
  }
}
