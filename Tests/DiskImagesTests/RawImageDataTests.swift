// SPDX-License-Identifier: MIT

import BlockIO
import DiskImages
import Glibc
import GuestMemory
import PVTestSupport
import Testing

@Suite("Data in raw images")
struct RawImageDataTests {
  /// One way to hold an image.
  struct Setting: Sendable, CustomTestStringConvertible {
    var cache: ImageOptions.CacheMode
    var sectorSize = 512
    var inMemory = false
    var engine = ImageOptions.Engine.automatic
    var seed: UInt64

    var testDescription: String {
      "cache \(cache), sectors of \(sectorSize)\(inMemory ? ", in memory" : ""), engine \(engine), seed \(seed)"
    }
  }

  static let settings = [
    Setting(cache: .writeback, seed: 1), Setting(cache: .writeback, sectorSize: 4096, seed: 2),
    Setting(cache: .none, seed: 3), Setting(cache: .none, sectorSize: 4096, seed: 4),
    Setting(cache: .unsafe, seed: 5), Setting(cache: .writeback, inMemory: true, seed: 6),
    Setting(cache: .writeback, engine: .blocking, seed: 7), Setting(cache: .none, engine: .blocking, seed: 8),
  ]

  @Test("many requests in flight leave what a model holds", arguments: settings)
  func model(setting: Setting) throws {
    let scratch = try ScratchDirectory(inMemory: setting.inMemory)
    var generator = SeededGenerator(seed: setting.seed)
    let contents = generator.bytes(2 << 20)
    try scratch.write(contents)
    let image = try RawImage.open(
      path: scratch.file(),
      options: ImageOptions(
        cache: setting.cache, engine: setting.engine, logicalSectorSize: setting.sectorSize))
    var model = DiskModel(
      bytes: contents, sectorSize: setting.sectorSize,
      operations: [.read, .read, .read, .write, .write, .write, .flush, .discard, .writeZeroes, .secureDiscard],
      seed: setting.seed)
    do {
      var driver = try image.driver()
      for step in 0..<1500 {
        if step % 100 == 0 { scratch.evict() }
        while model.pending.count >= Int.random(in: 1...32, using: &generator) {
          let answer = driver.nextCompletion()
          let completion = try #require(answer, "no answer in \(setting), step \(step)")
          #expect(model.finish(completion) == nil, "\(setting), step \(step)")
        }
        guard let request = try model.nextRequest() else { continue }
        guard case .accepted = driver.queue.submit(request) else {
          Issue.record("full at \(driver.queue.inFlight)")
          return
        }
      }
      while !model.pending.isEmpty {
        let answer = driver.nextCompletion()
        let completion = try #require(answer)
        #expect(model.finish(completion) == nil, "\(setting)")
      }
      #expect(driver.queue.inFlight == 0)
    }
    try image.close()
    #expect(try scratch.read() == model.bytes, "\(setting)")
  }

  @Test("a queue is full at its capacity, and not before")
  func capacity() throws {
    let scratch = try ScratchDirectory()
    try scratch.write(Array(repeating: 3, count: 1 << 20))
    scratch.evict()
    let image = try RawImage.open(path: scratch.file())
    do {
      var queue = try image.makeQueue(0, buffers: BufferDemand(count: 100, byteCount: 4096))
      #expect(queue.capacity == 100)
      let memory = try ScatteredMemory(byteCount: 4096)
      for index in 0..<100 {
        #expect(queue.submit(.at(index * 8192, 4096, .read, memory)) == .accepted)
      }
      #expect(queue.submit(.at(0, 4096, .read, memory)) == .full)
      #expect(queue.inFlight == 100)
      var driver = QueueDriver(queue)
      for _ in 0..<100 { #expect(driver.nextCompletion()?.errorCode == 0) }
      #expect(driver.queue.inFlight == 0)
    }
    try image.close()
  }

  @Test("demanded buffers are page-aligned, apart, and carry data")
  func buffers() throws {
    let scratch = try ScratchDirectory()
    try RawImage.create(path: scratch.file(), byteCount: 1 << 20)
    let image = try RawImage.open(path: scratch.file(), options: ImageOptions(cache: .none))
    do {
      let queue = try image.makeQueue(0, buffers: BufferDemand(count: 3, byteCount: 8192))
      for index in 0..<3 {
        let buffer = queue.buffer(index)
        #expect(buffer.byteCount == 8192)
        #expect(buffer.address % 4096 == 0)
        #expect(index == 0 || queue.buffer(index - 1).endAddress <= buffer.address)
        buffer.region?.fill(UInt8(index + 1))
      }
      var driver = QueueDriver(queue)
      for index in 0..<3 {
        let extent = [driver.queue.buffer(index)]
        let code = unsafe extent.withUnsafeBufferPointer { extent in
          // SAFETY: `run` returns when the request has completed.
          guard let start = extent.baseAddress else { return CInt(-1) }
          let list = unsafe MemoryExtentList(unsafeStart: start, count: 1)
          return driver.run(
            IORequest(
              tag: 1, operation: .write, sectors: SectorRange(start: UInt64(index * 16), count: 16), memory: list))
        }
        #expect(code == 0)
      }
    }
    try image.close()
    let written = try scratch.read()
    for index in 0..<3 {
      #expect(written[index * 8192..<(index + 1) * 8192].allSatisfy { $0 == UInt8(index + 1) })
    }
  }

  @Test("more pieces than one system call takes go in several", arguments: [ImageOptions.CacheMode.writeback, .none])
  func manyPieces(cache: ImageOptions.CacheMode) throws {
    let scratch = try ScratchDirectory()
    try RawImage.create(path: scratch.file(), byteCount: 4 << 20)
    let image = try RawImage.open(path: scratch.file(), options: ImageOptions(cache: cache))
    var generator = SeededGenerator(seed: 21)
    let contents = generator.bytes(2500 * 512)
    do {
      var driver = try image.driver()
      let source = try ScatteredMemory(pieces: Array(repeating: 512, count: 2500))
      source.bytes = contents
      #expect(driver.run(at: 512, 2500 * 512, .write, source) == 0)
      let target = try ScatteredMemory(pieces: Array(repeating: 512, count: 2500))
      #expect(driver.run(at: 512, 2500 * 512, .read, target) == 0)
      #expect(target.bytes == contents)
    }
    try image.close()
    #expect(try scratch.read()[512..<512 + contents.count] == contents[...])
  }

  @Test("requests that make no sense are refused and touch nothing")
  func nonsense() throws {
    let scratch = try ScratchDirectory()
    let contents = [UInt8](repeating: 5, count: 65536)
    try scratch.write(contents)
    let image = try RawImage.open(path: scratch.file(), options: ImageOptions(logicalSectorSize: 4096))
    do {
      var driver = try image.driver()
      let memory = try ScatteredMemory(byteCount: 4096)
      #expect(driver.run(at: 512, 4096, .write, memory) == EINVAL)
      #expect(driver.run(at: 0, 512, .write, memory) == EINVAL)
      #expect(driver.run(at: 0, 8192, .write, memory) == EINVAL)
      #expect(driver.run(at: 0, 4096, .write, nil) == EINVAL)
      #expect(driver.run(at: 65536, 4096, .write, memory) == EIO)
      let wrapping = SectorRange(start: UInt64.max - 7, count: 16)
      #expect(driver.run(IORequest(tag: 7, operation: .discard, sectors: wrapping)) == EIO)
      #expect(driver.run(at: 0, 0, .read, try ScatteredMemory(pieces: [])) == 0)
      #expect(driver.run(at: 0, 0, .discard) == 0)
    }
    try image.close()
    #expect(try scratch.read() == contents)
  }

  @Test("memory that O_DIRECT cannot take is an error of that request alone")
  func misaligned() throws {
    let scratch = try ScratchDirectory()
    try scratch.write(Array(repeating: 5, count: 65536))
    let image = try RawImage.open(path: scratch.file(), options: ImageOptions(cache: .none))
    do {
      var driver = try image.driver()
      let memory = try ScatteredMemory(pieces: [100, 412])
      #expect(driver.run(at: 0, 512, .read, memory) == EINVAL)
      let aligned = try ScatteredMemory(pieces: [512, 1024])
      #expect(driver.run(at: 512, 1536, .read, aligned) == 0)
      #expect(aligned.bytes == Array(repeating: 5, count: 1536))
    }
    try image.close()
  }

  @Test("when nothing is left to do the wait descriptor is quiet")
  func quiet() throws {
    let scratch = try ScratchDirectory()
    try scratch.write(Array(repeating: 5, count: 65536))
    let image = try RawImage.open(path: scratch.file(), options: ImageOptions(cache: .none))
    do {
      var driver = try image.driver()
      let memory = try ScatteredMemory(byteCount: 4096)
      for _ in 0..<10 { #expect(driver.run(at: 0, 4096, .read, memory) == 0) }
      #expect(driver.queue.prepareToWait() == .maySleep)
      var waiting = pollfd(fd: driver.queue.waitDescriptor, events: Int16(POLLIN), revents: 0)
      #expect(unsafe poll(&waiting, 1, 0) == 0)
      #expect(driver.queue.submit(.at(0, 4096, .read, memory)) == .accepted)
      driver.queue.advance()
      #expect(unsafe poll(&waiting, 1, 10_000) == 1)
      #expect(driver.queue.prepareToWait() == .workPending)
      #expect(driver.nextCompletion()?.errorCode == 0)
    }
    try image.close()
  }

  @Test(
    "a queue made on one thread works on another, and tells it when to wake",
    arguments: [
      ImageOptions.CacheMode.writeback, .none,
    ])
  func otherThread(cache: ImageOptions.CacheMode) throws {
    let scratch = try ScratchDirectory()
    var generator = SeededGenerator(seed: 31)
    let contents = generator.bytes(1 << 20)
    try scratch.write(contents)
    scratch.evict()
    let image = try RawImage.open(path: scratch.file(), options: ImageOptions(cache: cache))
    let driver = try image.driver()
    let outcome = try Reactor.run(driver) { driver in
      var wrong = 0
      for round in 0..<200 {
        guard let memory = try? ScatteredMemory(byteCount: 4096) else { return -1 }
        let place = (round * 37 % 256) * 4096
        if driver.run(at: place, 4096, .read, memory) != 0 { wrong += 1 }
        if memory.bytes != Array(contents[place..<place + 4096]) { wrong += 1 }
        if round % 20 == 0 && driver.run(.flush()) != 0 { wrong += 1 }
        if round % 50 == 0 { scratch.evict() }
      }
      return wrong
    }
    #expect(outcome == 0)
    try image.close()
  }
}
