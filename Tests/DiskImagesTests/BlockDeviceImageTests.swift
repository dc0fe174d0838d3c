// SPDX-License-Identifier: MIT

import BlockIO
import Glibc
import PVTestSupport
import Testing

@testable import DiskImages

@Suite("Block devices as images", .enabled(if: LoopDevice.isAvailable, "needs root and loop devices"))
struct BlockDeviceImageTests {
  let scratch: ScratchDirectory

  init() throws { scratch = try ScratchDirectory() }

  @Test("a device's size, sectors and contents are the disk's", arguments: [512, 4096])
  func model(sectorSize: Int) throws {
    var generator = SeededGenerator(seed: UInt64(sectorSize))
    let contents = generator.bytes(2 << 20)
    try scratch.write(contents)
    let loop = try LoopDevice(file: scratch.file(), sectorSize: sectorSize)
    for cache in [ImageOptions.CacheMode.writeback, .none] {
      let image = try RawImage.open(path: loop.path, options: ImageOptions(cache: cache))
      #expect(image.geometry.sectorCount == 4096)
      #expect(image.geometry.logicalSectorSize == sectorSize)
      #expect(image.geometry.discard?.isSecureSupported == false)
      var model = DiskModel(
        bytes: try scratch.read(), sectorSize: sectorSize,
        operations: [.read, .read, .write, .write, .flush, .discard, .writeZeroes], seed: UInt64(sectorSize))
      do {
        var driver = try image.driver()
        for step in 0..<600 {
          while model.pending.count >= 12 {
            let answer = driver.nextCompletion()
            let completion = try #require(answer, "\(cache), step \(step)")
            #expect(model.finish(completion) == nil, "\(cache), step \(step)")
          }
          guard let request = try model.nextRequest() else { continue }
          #expect(driver.queue.submit(request) == .accepted)
        }
        while !model.pending.isEmpty {
          let answer = driver.nextCompletion()
          let completion = try #require(answer)
          #expect(model.finish(completion) == nil)
        }
      }
      try image.close()
      #expect(try scratch.read() == model.bytes, "\(cache)")
    }
  }

  @Test(
    "discard reaches the file behind the device, by the command or by a hole",
    arguments: [ImageOptions.Engine.automatic, .blocking])
  func discard(engine: ImageOptions.Engine) throws {
    try scratch.write(Array(repeating: 7, count: 1 << 20))
    let loop = try LoopDevice(file: scratch.file())
    let image = try RawImage.open(path: loop.path, options: ImageOptions(engine: engine))
    do {
      var driver = try image.driver()
      #expect(driver.run(at: 65536, 65536, .discard) == 0)
      #expect(driver.run(at: 0, 4096, .secureDiscard) == EOPNOTSUPP)
      let memory = try ScatteredMemory(byteCount: 65536)
      memory.bytes = Array(repeating: 1, count: 65536)
      #expect(driver.run(at: 65536, 65536, .read, memory) == 0)
      #expect(memory.bytes.allSatisfy { $0 == 0 })
    }
    try image.close()
    #expect(scratch.allocatedByteCount() == (1 << 20) - 65536)
    #expect(try scratch.read().prefix(65536).allSatisfy { $0 == 7 })
  }

  @Test("a discard also discards what read-ahead brings back while it is under way")
  func discardBesideReadAhead() throws {
    // The model's test met this once in a hundred runs; here a neighbour's read-ahead never stops.
    let scratch = try ScratchDirectory(inMemory: true)
    let byteCount = 2 << 20
    let (start, length) = (64 << 10, 256 << 10)
    try scratch.write(Array(repeating: 7, count: byteCount))
    let loop = try LoopDevice(file: scratch.file(), sectorSize: 4096)
    let image = try RawImage.open(path: loop.path)
    let reader = try NeighbourReader(path: loop.path, end: start)
    do {
      var driver = try image.driver()
      let old = try ScatteredMemory(byteCount: length)
      old.bytes = Array(repeating: 7, count: length)
      let found = try ScatteredMemory(byteCount: 32 << 10)
      let zeros = Array(repeating: UInt8(0), count: 32 << 10)
      for round in 0..<60 {
        #expect(driver.run(at: start, length, .write, old) == 0)
        #expect(driver.run(.flush()) == 0)
        #expect(driver.run(at: start, length, .discard) == 0)
        #expect(driver.run(at: start, 32 << 10, .read, found) == 0)
        let isGone = found.bytes == zeros
        try #require(isGone, "round \(round)")
      }
    }
    reader.stop()
    try image.close()
  }

  @Test("a writer claims the device from others")
  func claim() throws {
    try scratch.write(Array(repeating: 7, count: 1 << 20))
    let loop = try LoopDevice(file: scratch.file())
    let image = try RawImage.open(path: loop.path)
    #expect(unsafe open(loop.path, O_RDWR | O_EXCL) == -1 && errno == EBUSY, "a mount would be refused, too")
    #expect(throws: BlockError.self) { try RawImage.open(path: loop.path) }
    #expect(throws: BlockError.self) {
      try RawImage.open(path: loop.path, options: ImageOptions(access: .readOnly))
    }
    try image.close()
    let claim = unsafe open(loop.path, O_RDWR | O_EXCL)
    try #require(claim >= 0)
    #expect(throws: BlockError.locked(path: loop.path, holder: "a mount, or another claim")) {
      try RawImage.open(path: loop.path)
    }
    close(claim)
    let reader = try RawImage.open(path: loop.path, options: ImageOptions(access: .readOnly))
    try RawImage.open(path: loop.path, options: ImageOptions(access: .readOnly)).close()
    try reader.close()
  }

  @Test(
    "a claim that only a killed process's ring still has is waited for", .enabled(if: RawImageLockTests.hasRings))
  func claimOfTheDead() throws {
    try scratch.write(Array(repeating: 7, count: 1 << 20))
    let loop = try LoopDevice(file: scratch.file())
    let descriptor = unsafe open(loop.path, O_RDWR | O_EXCL | O_CLOEXEC)
    try #require(descriptor >= 0)
    let end = RingEnd(try SubmissionRing(entryCount: 2, file: descriptor, engine: .automatic))
    close(descriptor)
    #expect(unsafe open(loop.path, O_RDWR | O_EXCL) == -1 && errno == EBUSY, "the ring has it")
    let thread = PeerThread {
      usleep(100_000)
      end.close()
    }
    try RawImage.open(path: loop.path).close()
    thread.join()
  }

  @Test("writes that the device loses fail the flush of every queue")
  func lostWrites() throws {
    // A device over a file in a file system that is too small for it takes writes and cannot keep them.
    try #require(unsafe mkdir(scratch.file("small"), 0o700) == 0)
    let mounted = try ChildProcess.run([
      "/usr/bin/mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", scratch.file("small"),
    ])
    guard mounted == 0 else { return }
    defer {
      _ = try? ChildProcess.run(["/usr/bin/umount", "-l", scratch.file("small")])
      _ = unsafe rmdir(scratch.file("small"))
    }
    try RawImage.create(path: scratch.file("small/disk.img"), byteCount: 8 << 20)
    let loop = try LoopDevice(file: scratch.file("small/disk.img"))
    let image = try RawImage.open(path: loop.path, options: ImageOptions(queueCount: 2))
    do {
      var first = try image.driver(0)
      var second = try image.driver(1)
      let memory = try ScatteredMemory(byteCount: 4 << 20)
      memory.bytes = Array(repeating: 1, count: 4 << 20)
      let page = try memory.prefix(4096)
      #expect(second.run(at: 0, 4096, .write, page) == 0)
      #expect(first.run(at: 0, 4 << 20, .write, memory) == 0)
      #expect(first.run(.flush()) == EIO)
      #expect(second.run(.flush()) == EIO)
    }
    #expect(throws: BlockError.self) { try image.close() }
  }
}
