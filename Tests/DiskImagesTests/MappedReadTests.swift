// SPDX-License-Identifier: MIT

import BlockIO
import Glibc
import GuestMemory
import PVTestSupport
import Testing

@testable import DiskImages

@Suite("Reads from a mapping of the image")
struct MappedReadTests {
  private static let options = ImageOptions(mappedReads: .always)

  @Test("see what was written and discarded, and ask the kernel for nothing")
  func coherent() throws {
    let scratch = try ScratchDirectory()
    var random = SeededGenerator(seed: 5)
    let contents = random.bytes(1 << 20)
    try scratch.write(contents)
    let image = try RawImage.open(path: scratch.file(), options: Self.options)
    do {
      var driver = try image.driver()
      let memory = try ScatteredMemory(byteCount: 65536)
      let before = ProcText.readCallsOfThread
      for offset in stride(from: 0, to: 1 << 20, by: 65536) {
        #expect(driver.run(at: offset, 65536, .read, memory) == 0)
        #expect(memory.bytes == Array(contents[offset..<offset + 65536]))
      }
      // The look at the counter is itself a read or two.
      #expect(ProcText.readCallsOfThread - before < 8)
      memory.bytes = random.bytes(65536)
      let written = memory.bytes
      #expect(driver.run(at: 131_072, 65536, .write, memory) == 0)
      memory.bytes = Array(repeating: 0, count: 65536)
      #expect(driver.run(at: 131_072, 65536, .read, memory) == 0)
      #expect(memory.bytes == written)
      #expect(driver.run(at: 131_072, 65536, .discard) == 0)
      #expect(driver.run(at: 131_072, 65536, .read, memory) == 0)
      #expect(memory.bytes.allSatisfy { $0 == 0 })
    }
    try image.close()
  }

  @Test("survive the image's truncation: EIO for what it has lost, data for the rest, again and again")
  func truncated() throws {
    let scratch = try ScratchDirectory()
    try scratch.write(Array(repeating: 7, count: 1 << 20))
    let image = try RawImage.open(path: scratch.file(), options: Self.options)
    do {
      var driver = try image.driver()
      let memory = try ScatteredMemory(byteCount: 65536)
      #expect(driver.run(at: 983_040, 65536, .read, memory) == 0)
      try #require(unsafe truncate(scratch.file(), (512 << 10) + 32768) == 0)
      for _ in 0..<50 {
        #expect(driver.run(at: 768 << 10, 65536, .read, memory) == EIO)
        #expect(driver.run(at: 512 << 10, 65536, .read, memory) == EIO)
        #expect(driver.run(at: 0, 65536, .read, memory) == 0)
        #expect(memory.bytes.allSatisfy { $0 == 7 })
      }
      try #require(unsafe truncate(scratch.file(), 1 << 20) == 0)
      #expect(driver.run(at: 768 << 10, 65536, .read, memory) == 0)
      #expect(memory.bytes.allSatisfy { $0 == 0 })
    }
    try image.close()
  }

  @Test("of an image that grew go by the file beyond what was mapped")
  func grown() throws {
    let scratch = try ScratchDirectory()
    try scratch.write(Array(repeating: 1, count: 1 << 20))
    let image = try RawImage.open(path: scratch.file(), options: Self.options)
    do {
      var driver = try image.driver()
      try scratch.write(Array(repeating: 1, count: 1 << 20) + Array(repeating: 2, count: 1 << 20))
      try image.refreshGeometry()
      let memory = try ScatteredMemory(byteCount: 65536)
      #expect(driver.run(at: (1 << 20) - 32768, 65536, .read, memory) == 0)
      #expect(memory.bytes[0] == 1 && memory.bytes[65535] == 2)
    }
    try image.close()
  }

  @Test("A fault anywhere else ends the process, as it did before")
  func elsewhere() async {
    await #expect(processExitsWith: .signal(SIGBUS)) {
      let scratch = try ScratchDirectory()
      try scratch.write(Array(repeating: 7, count: 8192))
      let image = try RawImage.open(path: scratch.file(), options: ImageOptions(mappedReads: .always))
      try scratch.write(Array(repeating: 7, count: 8192), to: "other.img")
      let other = unsafe open(scratch.file("other.img"), O_RDONLY)
      let mapping = try #require(ImageMapping(descriptor: other, byteCount: 8192))
      _ = unsafe truncate(scratch.file("other.img"), 0)
      let pointer = unsafe UnsafePointer<UInt8>(bitPattern: mapping.bytes.address)
      Glibc.exit(CInt(unsafe pointer?.pointee ?? 0) + CInt(image.queueCount))
    }
  }
}
