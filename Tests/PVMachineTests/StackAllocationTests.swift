// SPDX-License-Identifier: MIT

import BlockBack
import BlockFront
import BlockIO
import CAllocationCounter
import DiskImages
import GuestMemory
import PVMachine
import PVTestSupport
import Testing
import XenWire

@Suite("Allocations of the whole stack", .enabled(if: pv_allocations_are_counted(), "a sanitizer has taken malloc"))
struct StackAllocationTests {
  @Test("10 000 requests through both ends over a null image allocate nothing", arguments: [4096, 65536])
  func nullImage(byteCount: Int) throws {
    try check(try Machine().attach(NullImage(sectorCount: 8192)), byteCount: byteCount)
  }

  @Test("10 000 requests through both ends over a raw image allocate nothing", arguments: [4096, 65536])
  func rawImage(byteCount: Int) throws {
    let file = try TemporaryImage(byteCount: 4 << 20)
    let image = try RawImage.open(path: file.path, options: ImageOptions(access: .readWrite))
    try check(try Machine().attach(image), byteCount: byteCount)
    try image.close()
  }

  @Test("in pages that are bounced, and in direct requests alone, neither")
  func otherWays() throws {
    for change: (inout DiskConfiguration) -> Void in [{ $0.isBackendTrusted = false }, { $0.indirectSegments = 0 }] {
      var configuration = DiskConfiguration()
      change(&configuration)
      try check(
        try Machine().attach(NullImage(sectorCount: 8192), as: configuration), byteCount: 65536, requests: 1000)
    }
  }

  @Test(
    "in every form of the rings, with persistent grants and without",
    arguments: Way.variants, [(true, true), (false, true), (true, false)])
  func variants(way: Way, isPersistent: (front: Bool, back: Bool)) throws {
    var configuration = way.configuration
    configuration.frontPersistent = isPersistent.front
    configuration.backPersistent = isPersistent.back
    try check(
      try Machine().attach(NullImage(sectorCount: 8192), as: configuration), byteCount: 65536, requests: 128)
  }

  /// Reads, writes and flushes, eight at a time, in the queue's own buffers.
  func check<Image: BlockDevice>(
    _ disk: AttachedDisk<Image>, byteCount: Int, requests: Int = 10_000
  ) throws {
    do {
      var queue = try disk.makeQueue(0, buffers: BufferDemand(count: 8, byteCount: byteCount))
      let memory = (0..<8).map { ExtentArray([queue.buffer($0)]) }
      let lists = memory.map(\.list)
      // The first passes map the pages and fill the tables.
      let warmUp = min(requests, 1000)
      #expect(run(&queue, lists, byteCount: byteCount, requests: warmUp) == warmUp)
      let before = pv_thread_allocation_count()
      let good = run(&queue, lists, byteCount: byteCount, requests: requests)
      let allocations = pv_thread_allocation_count() - before
      #expect(good == requests)
      #expect(allocations == 0)
      #expect(disk.counters[0].back[QueueCounter.responses.rawValue] >= UInt64(requests))
      withExtendedLifetime(memory) {}
    }
    disk.detach()
  }

  /// Runs requests and counts those that ended well; allocates nothing itself.
  func run<Queue: BlockQueue & ~Copyable>(
    _ queue: inout Queue, _ lists: [MemoryExtentList], byteCount: Int, requests: Int
  ) -> Int {
    let sectors = UInt64(byteCount / 512)
    let places = 8192 / sectors
    var submitted = 0
    var finished = 0
    var good = 0
    while finished < requests {
      var batch = 0
      while batch < 8, submitted < requests {
        let start = UInt64(submitted) % places * sectors
        let isFlush = submitted % 64 == 63
        let request = IORequest(
          tag: UInt64(submitted), operation: isFlush ? .flush : submitted & 1 == 0 ? .write : .read,
          sectors: SectorRange(start: isFlush ? 0 : start, count: isFlush ? 0 : sectors),
          memory: isFlush ? nil : lists[batch], forceUnitAccess: submitted % 100 == 0)
        guard case .accepted = queue.submit(request) else { return -1 }
        submitted += 1
        batch += 1
      }
      var rounds = 0
      while batch > 0, rounds < 1_000_000 {
        queue.advance()
        while let completion = queue.nextCompletion() {
          good += completion.errorCode == 0 ? 1 : 0
          finished += 1
          batch -= 1
        }
        if batch > 0 { _ = queue.prepareToWait() }
        rounds += 1
      }
      if batch > 0 { return -1 }
    }
    return good
  }
}
