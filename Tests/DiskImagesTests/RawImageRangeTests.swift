// SPDX-License-Identifier: MIT

import BlockIO
import CSystemFaults
import DiskImages
import Glibc
import PVTestSupport
import Testing

@Suite("Holes, discard and zeroes in raw images")
struct RawImageRangeTests {
  let scratch: ScratchDirectory
  private let mebibyte = 1 << 20

  init() throws { scratch = try ScratchDirectory() }

  @Test("reading a hole gives zeros and leaves it a hole", arguments: [ImageOptions.CacheMode.writeback, .none])
  func holesStay(cache: ImageOptions.CacheMode) throws {
    try RawImage.create(path: scratch.file(), byteCount: UInt64(8 * mebibyte))
    let image = try RawImage.open(path: scratch.file(), options: ImageOptions(cache: cache))
    do {
      var driver = try image.driver()
      let memory = try ScatteredMemory(byteCount: mebibyte)
      memory.bytes = Array(repeating: 9, count: mebibyte)
      #expect(driver.run(at: 3 * mebibyte, mebibyte, .read, memory) == 0)
      #expect(memory.bytes.allSatisfy { $0 == 0 })
      #expect(image.nextData(from: 0) == nil)

      memory.bytes = Array(repeating: 9, count: mebibyte)
      #expect(driver.run(at: 5 * mebibyte, mebibyte, .write, memory) == 0)
      #expect(driver.run(.flush()) == 0)
    }
    #expect(image.nextData(from: 0) == UInt64(5 * mebibyte))
    #expect(image.nextData(from: UInt64(5 * mebibyte + 513)) == UInt64(5 * mebibyte + 513))
    #expect(image.nextHole(from: UInt64(5 * mebibyte)) == UInt64(6 * mebibyte))
    #expect(image.nextData(from: UInt64(6 * mebibyte)) == nil)
    #expect(image.nextData(from: UInt64(8 * mebibyte)) == nil)
    #expect(image.nextHole(from: UInt64(8 * mebibyte)) == UInt64(8 * mebibyte))
    try image.close()
    #expect(scratch.allocatedByteCount() == mebibyte)
  }

  @Test("data and holes beyond the last whole sector are not the disk's")
  func tailIsNotData() throws {
    try RawImage.create(path: scratch.file(), byteCount: 8192)
    try #require(unsafe truncate(scratch.file(), 12288 + 100) == 0)
    let descriptor = unsafe open(scratch.file(), O_WRONLY)
    try #require(unsafe pwrite(descriptor, [UInt8](repeating: 1, count: 100), 100, 12288) == 100)
    close(descriptor)
    let image = try RawImage.open(path: scratch.file(), options: ImageOptions(logicalSectorSize: 4096))
    #expect(image.geometry.byteCount == 12288)
    #expect(image.nextData(from: 0) == nil)
    #expect(image.nextHole(from: 0) == 0)
    try image.close()
  }

  @Test(
    "discard frees the space and reads back as zeros",
    arguments: [ImageOptions.CacheMode.writeback, .none], [IOOperation.discard, .secureDiscard])
  func discard(cache: ImageOptions.CacheMode, operation: IOOperation) throws {
    try scratch.write(Array(repeating: 7, count: 4 * mebibyte))
    let image = try RawImage.open(path: scratch.file(), options: ImageOptions(cache: cache))
    let ability = try #require(image.geometry.discard)
    #expect(ability.granularity == 4096)
    #expect(ability.isSecureSupported)
    do {
      var driver = try image.driver()
      #expect(driver.run(.flush()) == 0)
      #expect(driver.run(at: mebibyte, mebibyte, operation) == 0)
      // Parts of blocks at both ends are zeroed, and nothing more.
      #expect(driver.run(at: 3 * mebibyte - 512, 1024, operation) == 0)
      #expect(driver.run(.flush()) == 0)
    }
    #expect(image.nextHole(from: 0) == UInt64(mebibyte))
    #expect(image.nextData(from: UInt64(mebibyte)) == UInt64(2 * mebibyte))
    try image.close()
    #expect(scratch.allocatedByteCount() == 3 * mebibyte)
    var expected = [UInt8](repeating: 7, count: 4 * mebibyte)
    for offset in mebibyte..<2 * mebibyte { expected[offset] = 0 }
    for offset in 3 * mebibyte - 512..<3 * mebibyte + 512 { expected[offset] = 0 }
    #expect(try scratch.read() == expected)
  }

  @Test(
    "a secure discard overwrites and makes that durable before it punches, whichever of the three fails",
    arguments: [ImageOptions.CacheMode.writeback, .none])
  func secureDiscard(cache: ImageOptions.CacheMode) throws {
    let fill = [UInt8](repeating: 7, count: 4 * mebibyte)
    let range = mebibyte..<2 * mebibyte
    for (call, isOverwritten) in [(PV_FAULTY_WRITE, false), (PV_FAULTY_SYNC, true), (PV_FAULTY_ALLOCATE, true)] {
      try scratch.write(fill)
      let image = try RawImage.open(path: scratch.file(), options: ImageOptions(cache: cache, engine: .blocking))
      do {
        var driver = try image.driver()
        #expect(driver.run(.flush()) == 0)
        pv_faults_set(call, EIO, 0, 0)
        let code = driver.run(at: mebibyte, mebibyte, .secureDiscard)
        #expect(pv_faults_clear() > 0)
        #expect(code == EIO)
        // What somebody else sees in the file at the moment at which the call failed.
        #expect(scratch.allocatedByteCount() == 4 * mebibyte, "nothing has been punched")
        let bytes = try scratch.read()
        let isRight = bytes[range].allSatisfy { $0 == (isOverwritten ? 0 : 7) }
        #expect(isRight, "after \(call)")
        let isElsewhereWhole =
          bytes[..<mebibyte] == fill[..<mebibyte] && bytes[(2 * mebibyte)...] == fill[(2 * mebibyte)...]
        #expect(isElsewhereWhole)
        if call != PV_FAULTY_SYNC {
          #expect(driver.run(at: mebibyte, mebibyte, .secureDiscard) == 0, "the fault has gone")
          #expect(scratch.allocatedByteCount() == 3 * mebibyte)
        }
      }
      try? image.close()
    }
  }

  @Test("zeroed sectors read as zeros, and keep the file's length", arguments: [false, true])
  func zeroes(inMemory: Bool) throws {
    // A file system in memory knows no FALLOC_FL_ZERO_RANGE, so that the next way is taken there.
    let scratch = try ScratchDirectory(inMemory: inMemory)
    try scratch.write(Array(repeating: 7, count: mebibyte))
    let image = try RawImage.open(path: scratch.file())
    do {
      var driver = try image.driver()
      for offset in stride(from: 512, to: mebibyte, by: 65536) {
        #expect(driver.run(at: offset, 20480, .writeZeroes) == 0)
      }
      #expect(driver.run(at: mebibyte - 4096, 4096, .writeZeroes) == 0)
    }
    try image.close()
    var expected = [UInt8](repeating: 7, count: mebibyte)
    for start in stride(from: 512, to: mebibyte, by: 65536) {
      for offset in start..<start + 20480 { expected[offset] = 0 }
    }
    for offset in mebibyte - 4096..<mebibyte { expected[offset] = 0 }
    #expect(try scratch.read() == expected)
  }

  @Test("a write that is forced through is made, and a flush finds nothing amiss")
  func forceUnitAccess() throws {
    try RawImage.create(path: scratch.file(), byteCount: UInt64(mebibyte))
    let image = try RawImage.open(path: scratch.file())
    do {
      var driver = try image.driver()
      let memory = try ScatteredMemory(pieces: [512, 1024, 4096])
      memory.bytes = Array(repeating: 4, count: 5632)
      #expect(driver.run(at: 512, 5632, .write, memory, forceUnitAccess: true) == 0)
      #expect(driver.run(.flush()) == 0)
    }
    try image.close()
    #expect(try scratch.read()[512..<512 + 5632].allSatisfy { $0 == 4 })
  }
}
