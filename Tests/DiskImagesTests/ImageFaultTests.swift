// SPDX-License-Identifier: MIT

import BlockIO
import Glibc
import GuestMemory
import PVTestSupport
import Testing

@testable import DiskImages

/// A way from a queue to the bytes of a file.
struct ImagePath: CustomTestStringConvertible, Sendable {
  let cache: ImageOptions.CacheMode
  let engine: ImageOptions.Engine
  var testDescription: String { "\(cache), \(engine)" }
  var options: ImageOptions { ImageOptions(cache: cache, engine: engine) }

  static let all = [ImageOptions.CacheMode.writeback, .none, .unsafe].flatMap { cache in
    [ImageOptions.Engine.automatic, .blocking].map { ImagePath(cache: cache, engine: $0) }
  }
}

@Suite("What the image cannot do reaches the caller, on every path")
struct ImageFaultTests {
  @Test(
    "a read of what an image has lost is EIO, whole or in part, and the rest can still be read",
    arguments: ImagePath.all)
  func shortRead(path: ImagePath) throws {
    let scratch = try ScratchDirectory()
    try scratch.write(Array(repeating: 7, count: 1 << 20))
    let image = try RawImage.open(path: scratch.file(), options: path.options)
    do {
      var driver = try image.driver()
      let memory = try ScatteredMemory(byteCount: 65536)
      #expect(driver.run(at: 512 << 10, 65536, .read, memory) == 0)
      try #require(unsafe truncate(scratch.file(), (512 << 10) + 32768) == 0)
      #expect(driver.run(at: 768 << 10, 65536, .read, memory) == EIO)
      #expect(driver.run(at: 512 << 10, 65536, .read, memory) == EIO)
      let half = try ScatteredMemory(byteCount: 32768)
      #expect(driver.run(at: 512 << 10, 32768, .read, half) == 0)
      #expect(half.bytes.allSatisfy { $0 == 7 })
    }
    try image.close()
  }

  @Test(
    "a full file system is ENOSPC, for the write and the zeroing that meet it, and for no other",
    .enabled(if: geteuid() == 0, "mounts a small tmpfs"), arguments: ImagePath.all)
  func noSpace(path: ImagePath) throws {
    let scratch = try ScratchDirectory()
    let place = scratch.file("small")
    try #require(unsafe mkdir(place, 0o700) == 0)
    guard try ChildProcess.run(["/usr/bin/mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", place]) == 0 else {
      return
    }
    defer {
      _ = try? ChildProcess.run(["/usr/bin/umount", "-l", place])
      _ = unsafe rmdir(place)
    }
    try RawImage.create(path: scratch.file("small/disk.img"), byteCount: 4 << 20)
    let image = try RawImage.open(path: scratch.file("small/disk.img"), options: path.options)
    do {
      var driver = try image.driver()
      let memory = try ScatteredMemory(byteCount: 1 << 20)
      memory.bytes = Array(repeating: 3, count: 1 << 20)
      #expect(driver.run(at: 1 << 20, 1 << 20, .write, memory) == ENOSPC)
      let page = try ScatteredMemory(byteCount: 4096)
      #expect(driver.run(at: 1 << 20, 4096, .read, page) == 0)
      #expect(driver.run(at: 0, 4 << 20, .discard) == 0, "room again")
      page.bytes = Array(repeating: 9, count: 4096)
      #expect(driver.run(at: 4096, 4096, .write, page) == 0)
      #expect(driver.run(.flush()) == 0)
    }
    try image.close()
  }
}
