// SPDX-License-Identifier: MIT

import BlockIO
import Glibc
import GuestMemory
import PVTestSupport
import Testing

@testable import DiskImages

@Suite("Flushes of raw images")
struct ImageFlushTests {
  let scratch: ScratchDirectory

  init() throws {
    scratch = try ScratchDirectory()
    try RawImage.create(path: scratch.file(), byteCount: 1 << 20)
  }

  @Test("a flush is skipped only when nothing was written since the last one")
  func cleanFlush() throws {
    let image = try RawImage.open(path: scratch.file())
    do {
      var driver = try image.driver()
      let memory = try ScatteredMemory(byteCount: 4096)
      #expect(!image.ledger.isClean, "others may have written the file before")
      #expect(driver.run(.flush()) == 0)
      #expect(image.ledger.isClean)
      #expect(driver.run(at: 0, 4096, .read, memory) == 0)
      #expect(image.ledger.isClean)
      for (operation, byteCount) in [
        (IOOperation.write, 4096), (.write, 512), (.discard, 4096), (.writeZeroes, 4096), (.secureDiscard, 4096),
        (.write, 4096),
      ] {
        let piece = try ScatteredMemory(byteCount: byteCount)
        #expect(driver.run(at: 0, byteCount, operation, operation == .write ? piece : nil) == 0)
        #expect(!image.ledger.isClean, "after \(operation)")
        #expect(driver.run(.flush()) == 0)
        #expect(image.ledger.isClean)
      }
    }
    try image.close()
  }

  @Test("a disk is not clean while another queue's sync is in flight")
  func syncInFlight() {
    let ledger = ImageLedger(sectorCount: 8)
    ledger.beginSync()
    #expect(!ledger.isClean)
    ledger.noteWrite()
    ledger.endSync(errorCode: 0)
    #expect(!ledger.isClean)
    ledger.beginSync()
    ledger.endSync(errorCode: 0)
    #expect(ledger.isClean)
    ledger.beginSync()
    ledger.endSync(errorCode: EIO)
    #expect(!ledger.isClean)
  }

  @Test("flushes of one batch share a sync, and a later batch has its own")
  func sharedSync() throws {
    let image = try RawImage.open(path: scratch.file())
    do {
      var queue = try image.makeQueue(0, buffers: BufferDemand(count: 0, byteCount: 0))
      for tag in 1...3 { #expect(queue.submit(.flush(tag: UInt64(tag))) == .accepted) }
      let prepared = queue.preparedSync
      let leader = try #require(prepared)
      #expect(queue.slots[leader].step == .sync)
      #expect(queue.slottedCount == 3)
      queue.advance()
      #expect(queue.preparedSync == nil, "the kernel has it: nobody may join any more")
      image.ledger.noteWrite()
      if queue.inFlight == 3 && queue.slottedCount > 0 {
        #expect(queue.submit(.flush(tag: 4)) == .accepted)
        #expect(queue.preparedSync != nil)
      } else {
        #expect(queue.submit(.flush(tag: 4)) == .accepted)
      }
      var driver = QueueDriver(queue)
      var tags: Set<UInt64> = []
      for _ in 1...4 {
        let answer = driver.nextCompletion()
        let completion = try #require(answer)
        #expect(completion.errorCode == 0)
        tags.insert(completion.tag)
      }
      #expect(tags == [1, 2, 3, 4])
    }
    try image.close()
  }

  @Test("a lost write is told to every queue once, to all who wait for a sync, and to the one who closes")
  func stickyFailure() throws {
    let image = try RawImage.open(path: scratch.file(), options: ImageOptions(queueCount: 3))
    do {
      var first = try image.driver(0)
      var second = try image.driver(1)
      #expect(first.run(.flush()) == 0)
      image.ledger.noteFailure(EIO)
      #expect(first.run(.flush()) == EIO)
      #expect(first.run(.flush()) == 0)
      #expect(second.run(.flush()) == EIO)
      #expect(second.run(.flush()) == 0)

      // A sync of another queue fails while this queue's flushes are under way.
      for tag in 1...3 {
        image.ledger.noteWrite()
        #expect(first.queue.submit(.flush(tag: UInt64(tag))) == .accepted)
        if tag == 2 { first.queue.advance() }
      }
      image.ledger.noteFailure(ENOSPC)
      for _ in 1...3 {
        let completion = first.nextCompletion()
        // What the second advance could finish before the failure may have succeeded.
        #expect(completion?.errorCode == ENOSPC || (completion?.tag ?? 9) < 3)
      }
    }
    do {
      // The second queue was told of one failure only; so is its successor of the other.
      var successor = try image.driver(1)
      #expect(successor.run(.flush()) == ENOSPC)
      #expect(successor.run(.flush()) == 0)
    }
    #expect(throws: BlockError.system(call: "fdatasync", path: scratch.file(), code: ENOSPC)) { try image.close() }
    try RawImage.open(path: scratch.file()).close()
  }

  @Test("a throw-away image does not flush")
  func unsafeCache() throws {
    let image = try RawImage.open(path: scratch.file(), options: ImageOptions(cache: .unsafe))
    do {
      var driver = try image.driver()
      #expect(driver.run(.flush()) == 0)
      let usedRing = driver.queue.ring.isEnabled
      #expect(!usedRing)
    }
    try image.close()
  }
}
