// SPDX-License-Identifier: MIT

import BlockIO
import DiskImages
import Glibc
import GuestMemory
import PVTestSupport
import Testing

@Suite("Opening raw images")
struct RawImageOpeningTests {
  let scratch: ScratchDirectory

  init() throws { scratch = try ScratchDirectory() }

  @Test("a name that leads nowhere is not found")
  func missing() throws {
    #expect(throws: BlockError.notFound(path: scratch.file())) { try RawImage.open(path: scratch.file()) }
  }

  @Test("what is no file of bytes is refused by its kind")
  func otherKinds() throws {
    #expect(throws: BlockError.notADisk(path: scratch.path, kind: "directory")) {
      try RawImage.open(path: scratch.path)
    }
    #expect(throws: BlockError.notADisk(path: "/dev/null", kind: "character device")) {
      try RawImage.open(path: "/dev/null")
    }
    try #require(unsafe mkfifo(scratch.file("fifo"), 0o600) == 0)
    #expect(throws: BlockError.notADisk(path: scratch.file("fifo"), kind: "FIFO")) {
      try RawImage.open(path: scratch.file("fifo"))
    }
  }

  @Test("a file without a whole sector is empty", arguments: [(0, 512), (511, 512), (4095, 4096)])
  func empty(byteCount: Int, sectorSize: Int) throws {
    try scratch.write(Array(repeating: 1, count: byteCount))
    #expect(throws: BlockError.empty(path: scratch.file())) {
      try RawImage.open(path: scratch.file(), options: ImageOptions(logicalSectorSize: sectorSize))
    }
  }

  @Test("a sector size other than 512 and 4096 is refused")
  func oddSectorSize() throws {
    try scratch.write(Array(repeating: 1, count: 8192))
    #expect(throws: BlockError.self) {
      try RawImage.open(path: scratch.file(), options: ImageOptions(logicalSectorSize: 1024))
    }
  }

  @Test("without the right to read there is no image", .enabled(if: geteuid() == 0, "drops privileges"))
  func noPermission() async throws {
    try scratch.write(Array(repeating: 1, count: 4096))
    try #require(unsafe chmod(scratch.file(), 0o600) == 0)
    try #require(unsafe chmod(scratch.path, 0o755) == 0)
    let path = scratch.file()
    await #expect(processExitsWith: .success) { [path = path as String] in
      try #require(setuid(65534) == 0)
      #expect(throws: BlockError.permissionDenied(path: path)) { try RawImage.open(path: path) }
    }
  }

  @Test("the tail that fills no sector is not part of the disk, and is kept", arguments: [512, 4096])
  func tail(sectorSize: Int) throws {
    var generator = SeededGenerator(seed: 11)
    let contents = generator.bytes(3 * 4096 + 100)
    try scratch.write(contents)
    let image = try RawImage.open(path: scratch.file(), options: ImageOptions(logicalSectorSize: sectorSize))
    #expect(image.geometry.sectorCount == 24)
    #expect(image.geometry.logicalSectorSize == sectorSize)
    #expect(image.ignoredTailByteCount == 100)
    do {
      var driver = try image.driver()
      #expect(driver.run(at: 0, 3 * 4096, .writeZeroes) == 0)
      let memory = try ScatteredMemory(byteCount: 4096)
      #expect(driver.run(at: 3 * 4096, 4096, .write, memory) == EIO)
      #expect(driver.run(at: 3 * 4096, 4096, .read, memory) == EIO)
      #expect(driver.run(at: 3 * 4096, 4096, .discard) == EIO)
    }
    try image.close()
    #expect(try scratch.read() == Array(repeating: 0, count: 3 * 4096) + contents.suffix(100))
  }

  @Test("a new image is sparse, zero and as long as asked, and replaces nothing")
  func create() throws {
    try RawImage.create(path: scratch.file(), byteCount: 64 << 20)
    #expect(scratch.allocatedByteCount() == 0)
    let image = try RawImage.open(path: scratch.file())
    #expect(image.geometry.byteCount == 64 << 20)
    #expect(image.ignoredTailByteCount == 0)
    #expect(image.nextData(from: 0) == nil)
    #expect(image.nextHole(from: 5) == 5)
    try image.close()
    #expect(throws: BlockError.system(call: "open", path: scratch.file(), code: EEXIST)) {
      try RawImage.create(path: scratch.file(), byteCount: 4096)
    }
    #expect(throws: BlockError.self) { try RawImage.create(path: scratch.file("odd"), byteCount: 1000) }
    #expect(throws: BlockError.notFound(path: scratch.file("absent/disk"))) {
      try RawImage.create(path: scratch.file("absent/disk"), byteCount: 4096)
    }
  }

  @Test("opening and reading leave the file's times alone")
  func times() throws {
    try scratch.write(Array(repeating: 1, count: 8192))
    var before = stat()
    try #require(unsafe stat(scratch.file(), &before) == 0)
    usleep(20_000)
    let image = try RawImage.open(path: scratch.file())
    do {
      var driver = try image.driver()
      #expect(driver.run(at: 0, 4096, .read, try ScatteredMemory(byteCount: 4096)) == 0)
    }
    try image.close()
    var after = stat()
    try #require(unsafe stat(scratch.file(), &after) == 0)
    #expect(before.st_mtim.tv_sec == after.st_mtim.tv_sec && before.st_mtim.tv_nsec == after.st_mtim.tv_nsec)
  }

  @Test("a read-only image refuses everything that writes with EROFS")
  func readOnly() throws {
    var generator = SeededGenerator(seed: 12)
    let contents = generator.bytes(16384)
    try scratch.write(contents)
    let image = try RawImage.open(path: scratch.file(), options: ImageOptions(access: .readOnly))
    #expect(image.geometry.isReadOnly)
    #expect(!image.geometry.hasVolatileCache)
    #expect(image.geometry.discard == nil)
    do {
      var driver = try image.driver()
      let memory = try ScatteredMemory(byteCount: 4096)
      for operation in [IOOperation.write, .discard, .secureDiscard, .writeZeroes] {
        #expect(driver.run(at: 0, 4096, operation, memory) == EROFS, "\(operation)")
      }
      #expect(driver.run(.flush()) == 0)
      #expect(driver.run(at: 4096, 4096, .read, memory) == 0)
      #expect(memory.bytes == Array(contents[4096..<8192]))
    }
    try image.close()
    #expect(try scratch.read() == contents)
  }

  @Test("a file that grows or shrinks is seen when it is looked up again")
  func resize() throws {
    try RawImage.create(path: scratch.file(), byteCount: 8192)
    let image = try RawImage.open(path: scratch.file())
    do {
      var driver = try image.driver()
      let memory = try ScatteredMemory(byteCount: 4096)
      try #require(unsafe truncate(scratch.file(), 16384 + 7) == 0)
      #expect(driver.run(at: 8192, 4096, .read, memory) == EIO)
      #expect(try image.refreshGeometry().byteCount == 16384)
      #expect(image.ignoredTailByteCount == 7)
      #expect(driver.run(at: 8192, 4096, .read, memory) == 0)
      #expect(driver.run(at: 12288, 4096, .write, memory) == 0)

      try #require(unsafe truncate(scratch.file(), 4096) == 0)
      #expect(driver.run(at: 8192, 4096, .read, memory) == EIO)
      #expect(driver.run(at: 0, 4096, .read, memory) == 0)
      #expect(try image.refreshGeometry().byteCount == 4096)
      #expect(driver.run(at: 4096, 4096, .read, memory) == EIO)
    }
    try image.close()
  }

  @Test("O_DIRECT reads of a file that was truncated under the image are errors, not silence")
  func truncatedDirect() throws {
    try RawImage.create(path: scratch.file(), byteCount: 65536)
    let image = try RawImage.open(path: scratch.file(), options: ImageOptions(cache: .none))
    do {
      var driver = try image.driver()
      try #require(unsafe truncate(scratch.file(), 12288) == 0)
      let memory = try ScatteredMemory(byteCount: 16384)
      #expect(driver.run(at: 0, 16384, .read, memory) == EIO)
      #expect(driver.run(at: 32768, 16384, .read, memory) == EIO)
    }
    try image.close()
  }
}
