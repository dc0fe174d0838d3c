// SPDX-License-Identifier: MIT

import BlockIO
import CLinux
import Glibc
import GuestMemory
import PVTestSupport
import Testing

@testable import DiskImages

@Suite("Reads of what the page cache is known to have")
struct CachedPartsTests {
  private static let partByteCount = 2 << 20

  private func image(_ scratch: ScratchDirectory, byteCount: Int) throws -> RawImage {
    var random = SeededGenerator(seed: 11)
    try scratch.write(random.bytes(byteCount))
    return try RawImage.open(path: scratch.file(), options: ImageOptions(mappedReads: .whenCached))
  }

  /// The words of an image's table.
  private func words(_ image: RawImage) -> [UInt32] {
    guard let parts = image.file.mapped.parts else { return [] }
    return (0...(image.file.mapped.byteCount - 1) >> CachedParts.shift).map { parts.word($0).loadRelaxed() }
  }

  @Test("ask the kernel for the first quarter of each part of the image, and give what is there")
  func onceForEachPart() throws {
    let scratch = try ScratchDirectory()
    let byteCount = 2 * Self.partByteCount + 8192
    let image = try image(scratch, byteCount: byteCount)
    var random = SeededGenerator(seed: 11)
    let contents = random.bytes(byteCount)
    do {
      var driver = try image.driver()
      let memory = try ScatteredMemory(byteCount: 8192)
      let before = ProcText.readCallsOfThread
      for offset in stride(from: 0, to: byteCount, by: 8192) {
        #expect(driver.run(at: offset, 8192, .read, memory) == 0)
        #expect(memory.bytes == Array(contents[offset..<offset + 8192]))
      }
      #expect(words(image) == [.max, .max, 2])
      // Of two pages each, and the look at the counter is itself a read or two.
      let calls = ProcText.readCallsOfThread - before
      #expect(calls >= 129 && calls < 134)
    }
    try image.close()
  }

  @Test("go by the kernel where a part is not all there, and look at it again later")
  func partly() throws {
    let scratch = try ScratchDirectory()
    let image = try image(scratch, byteCount: 3 * Self.partByteCount)
    scratch.evict()
    let other = unsafe open(scratch.file(), O_RDONLY)
    defer { close(other) }
    var bytes = [UInt8](repeating: 0, count: Self.partByteCount)
    // Nothing is read ahead for this one.
    try #require(posix_fadvise(other, 0, 0, POSIX_FADV_RANDOM) == 0)
    try #require(unsafe pread(other, &bytes, 8192, 0) == 8192)
    try #require(unsafe pread(other, &bytes, bytes.count, off_t(Self.partByteCount)) == bytes.count)
    try #require(pv_cached_pages(other, 0, UInt64(Self.partByteCount)) < 512)
    do {
      var driver = try image.driver()
      let memory = try ScatteredMemory(byteCount: 8192)
      for _ in 0..<10 { #expect(driver.run(at: 0, 8192, .read, memory) == 0) }
      #expect(words(image) == [20, 0, 0])
      // A read of both parts is noted for both, and offered by neither while one of them is not known.
      try #require(unsafe pread(other, &bytes, 4096, off_t(Self.partByteCount) - 4096) == 4096)
      #expect(driver.run(at: Self.partByteCount - 4096, 8192, .read, memory) == 0)
      #expect(words(image) == [21, 1, 0])
      for _ in 0..<64 { #expect(driver.run(at: Self.partByteCount, 8192, .read, memory) == 0) }
      for _ in 0..<54 { #expect(driver.run(at: 0, 8192, .read, memory) == 0) }
      // 21 pages and 54 times two are one more than it takes.
      #expect(words(image) == [0, .max, 0])
      let middle = UInt64(Self.partByteCount)
      #expect(!image.file.mapped.offers(middle - 4096, byteCount: 8192))
      #expect(image.file.mapped.offers(middle, byteCount: 8192))
      // Nor is one that begins in a known part and ends in another.
      #expect(!image.file.mapped.offers(2 * middle - 4096, byteCount: 8192))
      try #require(unsafe pread(other, &bytes, bytes.count, 0) == bytes.count)
      for _ in 0..<64 { #expect(driver.run(at: 0, 8192, .read, memory) == 0) }
      #expect(words(image) == [.max, .max, 0])
    }
    try image.close()
  }

  @Test("forget what they know once a copy had to wait for a page, and find again what is there")
  func forgetting() throws {
    let scratch = try ScratchDirectory()
    let image = try image(scratch, byteCount: 2 * Self.partByteCount)
    do {
      var driver = try image.driver()
      let memory = try ScatteredMemory(byteCount: 4096)
      func read(at offset: Int, times: Int) { for _ in 0..<times { _ = driver.run(at: offset, 4096, .read, memory) } }
      let interval = Int(FaultWatch.interval)
      let look = Int(CachedParts.pagesBetweenLooks)
      read(at: 0, times: look + 2 * interval)
      read(at: Self.partByteCount, times: look)
      #expect(words(image) == [.max, .max])
      // Somebody else makes a hole of a whole part, which takes its pages out of the page cache and out of the mapping.
      let other = unsafe open(scratch.file(), O_RDWR)
      try #require(
        pv_fallocate(
          other, pv_falloc_punch_hole | pv_falloc_keep_size, Int64(Self.partByteCount), Int64(Self.partByteCount)) == 0)
      close(other)
      for page in 0..<16 { read(at: Self.partByteCount + page * 4096, times: 1) }
      #expect(memory.bytes.allSatisfy { $0 == 0 })
      read(at: 0, times: interval)
      #expect(words(image)[1] < .max)
      #expect(!image.file.mapped.offers(0, byteCount: 4096))
      read(at: 0, times: look)
      #expect(words(image)[0] == .max)
    }
    try image.close()
  }

  @Test("are those of every part after the table's page, too: 1025 parts have 1025 words")
  func large() throws {
    let scratch = try ScratchDirectory()
    try scratch.write([])
    try #require(unsafe truncate(scratch.file(), 1025 * Self.partByteCount) == 0)
    let image = try RawImage.open(path: scratch.file(), options: ImageOptions(mappedReads: .whenCached))
    do {
      var driver = try image.driver()
      let memory = try ScatteredMemory(byteCount: 4096)
      for _ in 0..<3 { #expect(driver.run(at: 1024 * Self.partByteCount, 4096, .read, memory) == 0) }
      let words = words(image)
      #expect(words.count == 1025)
      #expect(words[1024] != 0)
      #expect(words[..<1024].allSatisfy { $0 == 0 })
    }
    try image.close()
  }
}
