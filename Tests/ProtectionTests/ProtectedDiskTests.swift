// SPDX-License-Identifier: MIT

import BlockIO
import CAllocationCounter
import Glibc
import GuestMemory
import PVTestSupport
import Protection
import Testing

/// A tag file's name that goes away with the object.
final class TemporaryName {
  let path = "/tmp/pvdisk-test-\(getpid())-\(UInt32.random(in: 0 ... .max)).dif"
  deinit { unsafe unlink(path) }
}

@Suite("A disk with protection information")
struct ProtectedDiskTests {
  let name = TemporaryName()

  func makeDisk(
    _ form: ProtectionForm = ProtectionForm(), sectors: UInt64 = 8192, behaviour: MemoryDisk.Behaviour = .init()
  ) throws -> (disk: ProtectedDisk<MemoryDisk>, memory: MemoryDisk) {
    let memory = try MemoryDisk(
      geometry: BlockGeometry(sectorCount: sectors, discard: DiscardAbility(leavesZeros: true)), behaviour: behaviour)
    return (ProtectedDisk(memory, tags: try TagFile(path: name.path, form: form, sectorCount: sectors)), memory)
  }

  static let forms: [ProtectionForm] = [
    ProtectionForm(), ProtectionForm(type: .type3), ProtectionForm(guardKind: .internetChecksum),
    ProtectionForm(intervalByteCount: 4096),
  ]

  @Test("random I/O, late and out of order, finds nothing to complain of", arguments: forms.indices)
  func randomIO(form: Int) throws {
    var behaviour = MemoryDisk.Behaviour()
    behaviour.asynchronySeed = 5
    let form = ProtectedDiskTests.forms[form]
    let (disk, memory) = try makeDisk(form, behaviour: behaviour)
    var driver = QueueDriver(try disk.makeQueue(0, buffers: BufferDemand(count: 8, byteCount: 4096)))
    var model = DiskModel(
      bytes: Array(repeating: 0, count: 4 << 20), sectorSize: form.intervalByteCount,
      operations: [.read, .write, .read, .write, .flush, .discard, .writeZeroes], seed: 3)
    for _ in 0..<800 {
      while model.pending.count < 20 {
        guard let request = try model.nextRequest() else { break }
        guard case .accepted = driver.queue.submit(request) else {
          Issue.record("the queue is full")
          return
        }
      }
      guard let completion = driver.nextCompletion() else {
        Issue.record("no completion")
        return
      }
      #expect(model.finish(completion) == nil)
    }
    while driver.queue.inFlight > 0, let completion = driver.nextCompletion() {
      #expect(model.finish(completion) == nil)
    }
    #expect(model.pending.isEmpty)
    #expect(disk.findings.count == 0)
    #expect(memory.requestCounts.violations == 0)
  }

  /// Writes 32 sectors of random bytes at sector 100.
  private func write(_ driver: inout QueueDriver<ProtectedQueue<MemoryDiskQueue>>) throws -> ScatteredMemory {
    var generator = SeededGenerator(seed: 77)
    let memory = try ScatteredMemory(byteCount: 32 * 512)
    memory.bytes = generator.bytes(32 * 512)
    #expect(driver.run(at: 100 * 512, 32 * 512, .write, memory) == 0)
    return memory
  }

  @Test("a bit that flips in the image is an error that names its sector, and only there")
  func flippedBit() throws {
    let (disk, image) = try makeDisk()
    var driver = QueueDriver(try disk.makeQueue(0, buffers: BufferDemand(count: 1, byteCount: 4096)))
    let memory = try write(&driver)
    let byte = image.contents.load(UInt8.self, at: 117 * 512 + 300)
    image.contents.store(byte ^ 0x10, at: 117 * 512 + 300)
    #expect(driver.run(at: 100 * 512, 32 * 512, .read, memory) == ProtectionViolation.errorCode)
    let violation = try #require(disk.findings.violations.first)
    #expect(violation.sector == 117)
    #expect(violation.sentence.hasPrefix("sector 117 is not as it was written: its guard tag is 0x"))
    #expect(driver.run(at: 100 * 512, 17 * 512, .read, try memory.prefix(17 * 512)) == 0)
    #expect(driver.run(at: 118 * 512, 14 * 512, .read, try memory.prefix(14 * 512)) == 0)
    #expect(disk.findings.count == 1)
    image.contents.store(byte, at: 117 * 512 + 300)
    #expect(driver.run(at: 100 * 512, 32 * 512, .read, memory) == 0)
  }

  @Test("a write that landed elsewhere is found where it landed and where it is missing")
  func misdirectedWrite() throws {
    let (disk, image) = try makeDisk()
    var driver = QueueDriver(try disk.makeQueue(0, buffers: BufferDemand(count: 1, byteCount: 4096)))
    let memory = try write(&driver)
    // What a controller does that mistakes sector 130 for 110: data and tuple go there together.
    for offset in stride(from: 0, to: 512, by: 8) {
      image.contents.store(image.contents.load(UInt64.self, at: 110 * 512 + offset), at: 130 * 512 + offset)
    }
    disk.tags.region.store(disk.tags.region.load(UInt64.self, at: 110 * 8), at: 130 * 8)
    let sector = try ScatteredMemory(byteCount: 512)
    #expect(driver.run(at: 130 * 512, 512, .read, sector) == ProtectionViolation.errorCode)
    let first = try #require(disk.findings.violations.first)
    #expect(first == ProtectionViolation(sector: 130, verdict: .wrongReference(stored: 110, expected: 130)))
    // And one whose data alone goes astray: the old data is still where the new should be.
    let old = Array(memory.bytes[512..<1024])
    sector.bytes = Array(repeating: 0x5A, count: 512)
    #expect(driver.run(at: 101 * 512, 512, .write, sector) == 0)
    for (offset, byte) in old.enumerated() { image.contents.store(byte, at: 101 * 512 + offset) }
    #expect(driver.run(at: 101 * 512, 512, .read, sector) == ProtectionViolation.errorCode)
    #expect(disk.findings.violations.last?.sector == 101)
  }

  @Test("what was never written, or was discarded, is not checked; what is written again is")
  func unprotected() throws {
    let (disk, image) = try makeDisk()
    var driver = QueueDriver(try disk.makeQueue(0, buffers: BufferDemand(count: 1, byteCount: 4096)))
    let memory = try write(&driver)
    let sector = try ScatteredMemory(byteCount: 512)
    #expect(driver.run(at: 500 * 512, 512, .read, sector) == 0)
    #expect(driver.run(at: 100 * 512, 8 * 512, .discard) == 0)
    #expect(driver.run(at: 108 * 512, 8 * 512, .writeZeroes) == 0)
    image.contents.store(UInt8(1), at: 100 * 512)
    image.contents.store(UInt8(1), at: 108 * 512)
    #expect(driver.run(at: 100 * 512, 32 * 512, .read, memory) == 0)
    #expect(driver.run(at: 100 * 512, 512, .write, sector) == 0)
    image.contents.store(UInt8(1), at: 100 * 512)
    #expect(driver.run(at: 100 * 512, 512, .read, sector) == ProtectionViolation.errorCode)
  }

  @Test("a write that fails leaves the tuples as they were")
  func failedWrite() throws {
    var behaviour = MemoryDisk.Behaviour()
    behaviour.badSectors = 200..<201
    let (disk, _) = try makeDisk(behaviour: behaviour)
    var driver = QueueDriver(try disk.makeQueue(0, buffers: BufferDemand(count: 1, byteCount: 4096)))
    let before = disk.tags.region.load(UInt64.self, at: 199 * 8)
    let memory = try ScatteredMemory(byteCount: 1024)
    #expect(driver.run(at: 199 * 512, 1024, .write, memory) == EIO)
    #expect(disk.tags.region.load(UInt64.self, at: 199 * 8) == before)
    #expect(driver.run(at: 199 * 512, 512, .read, try memory.prefix(512)) == 0)
  }

  @Test("the tuples outlive the disk, and a file of another form or size is refused with a sentence")
  func tagFile() throws {
    do {
      let (disk, _) = try makeDisk()
      var driver = QueueDriver(try disk.makeQueue(0, buffers: BufferDemand(count: 1, byteCount: 4096)))
      _ = try write(&driver)
      #expect(driver.run(.flush()) == 0)
      #expect(throws: BlockError.locked(path: name.path, holder: nil)) {
        try TagFile(path: name.path, form: ProtectionForm(), sectorCount: 8192)
      }
    }
    let (disk, _) = try makeDisk()
    #expect(ProtectionTuple(memory: ~disk.tags.region.load(UInt64.self, at: 117 * 8)).referenceTag == 117)
    #expect(ProtectionTuple(memory: ~disk.tags.region.load(UInt64.self, at: 0)) == .unprotected)
  }

  @Test("a tag file that does not fit its disk is refused with a sentence that names it")
  func misfits() throws {
    _ = try makeDisk()
    for (form, sectors) in [(ProtectionForm(type: .type3), UInt64(8192)), (ProtectionForm(), 4096)] {
      let error = #expect(throws: BlockError.self) {
        try TagFile(path: name.path, form: form, sectorCount: sectors)
      }
      #expect(error?.sentence.contains(name.path) == true)
    }
    let grown = try TagFile(path: name.path, form: ProtectionForm(), sectorCount: 16_384)
    #expect(grown.region.byteCount == 16_384 * 8)
  }

  @Test("ten thousand protected requests take nothing from the heap")
  func allocations() throws {
    guard pv_allocations_are_counted() else { return }
    let (disk, _) = try makeDisk()
    var driver = QueueDriver(try disk.makeQueue(0, buffers: BufferDemand(count: 1, byteCount: 4096)))
    let memory = try ScatteredMemory(pieces: [4096, 512, 512])
    func work(_ count: Int) -> Int {
      var failures = 0
      for index in 0..<count {
        let sectors = SectorRange(start: UInt64(index * 13 % 8000), count: 10)
        let operation: IOOperation = index % 3 == 0 ? .write : .read
        let request = IORequest(tag: 1, operation: operation, sectors: sectors, memory: memory.list)
        if driver.run(request) != 0 { failures += 1 }
      }
      return failures
    }
    #expect(work(200) == 0)
    let before = pv_thread_allocation_count()
    let failures = work(10_000)
    #expect(pv_thread_allocation_count() - before == 0)
    #expect(failures == 0)
  }
}
