// SPDX-License-Identifier: MIT

import BlockIO
import CAllocationCounter
import DiskImages
import Glibc
import GuestMemory
import PVTestSupport
import Testing

@Suite("Allocations of disk images", .enabled(if: pv_allocations_are_counted(), "a sanitizer has taken malloc"))
struct ImageAllocationTests {
  @Test("the counter sees an allocation")
  func counter() {
    let before = pv_thread_allocation_count()
    let memory = unsafe malloc(100)
    #expect(unsafe memory != nil)
    unsafe free(memory)
    #expect(pv_thread_allocation_count() > before)
  }

  @Test("ten thousand requests take nothing from the heap", arguments: [ImageOptions.CacheMode.writeback, .none])
  func steadyState(cache: ImageOptions.CacheMode) throws {
    let scratch = try ScratchDirectory()
    try scratch.write(Array(repeating: 1, count: 1 << 20))
    let image = try RawImage.open(path: scratch.file(), options: ImageOptions(cache: cache))
    do {
      var driver = try image.driver()
      let memory = try ScatteredMemory(pieces: [4096, 4096, 512])
      let whole = try ScatteredMemory(byteCount: 8192)
      _ = Self.work(&driver, memory.list, whole.list, count: 300)
      let before = pv_thread_allocation_count()
      let failures = Self.work(&driver, memory.list, whole.list, count: 10_000)
      #expect(pv_thread_allocation_count() - before == 0)
      #expect(failures == 0)
      withExtendedLifetime((memory, whole)) {}
    }
    try image.close()
  }

  @Test("a disk of nothing takes nothing from the heap")
  func nullImage() throws {
    let image = NullImage(sectorCount: 2048)
    var driver = QueueDriver(try image.makeQueue(0, buffers: BufferDemand(count: 1, byteCount: 4096)))
    var failures = 0
    // The first ones let the Swift runtime make what it makes once.
    for tag in 0..<100 where driver.run(.flush(tag: UInt64(tag))) != 0 { failures += 1 }
    let before = pv_thread_allocation_count()
    for tag in 0..<10_000 where driver.run(.flush(tag: UInt64(tag))) != 0 { failures += 1 }
    #expect(pv_thread_allocation_count() - before == 0)
    #expect(failures == 0)
    #expect(driver.queue.buffer(0).byteCount == 4096)
    #expect(driver.run(at: 1 << 20, 512, .read) == EIO)
    #expect(driver.run(at: (1 << 20) - 512, 512, .read) == 0)
  }

  /// Every kind of request, up to eight in flight; the number that failed.
  private static func work(
    _ driver: inout QueueDriver<RawImageQueue>, _ memory: MemoryExtentList, _ whole: MemoryExtentList, count: Int
  ) -> Int {
    var failures = 0
    for index in 0..<count {
      if driver.queue.inFlight >= 8 && driver.nextCompletion()?.errorCode != 0 { failures += 1 }
      let tag = UInt64(index)
      let place = UInt64(index * 7 % 100) * 16
      let request =
        switch index % 100 {
        case 1: IORequest(tag: tag, operation: .flush, sectors: SectorRange(start: 0, count: 0))
        case 2: IORequest(tag: tag, operation: .discard, sectors: SectorRange(start: place, count: 8))
        case 3: IORequest(tag: tag, operation: .writeZeroes, sectors: SectorRange(start: place, count: 8))
        case 4, 54:
          IORequest(tag: tag, operation: .write, sectors: SectorRange(start: place, count: 17), memory: memory)
        case 5...30:
          IORequest(tag: tag, operation: .write, sectors: SectorRange(start: place, count: 16), memory: whole)
        default: IORequest(tag: tag, operation: .read, sectors: SectorRange(start: place, count: 17), memory: memory)
        }
      if driver.queue.submit(request) != .accepted { failures += 1 }
    }
    while driver.queue.inFlight > 0 {
      if driver.nextCompletion()?.errorCode != 0 { failures += 1 }
    }
    return failures
  }
}
