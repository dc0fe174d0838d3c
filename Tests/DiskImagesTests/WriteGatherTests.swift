// SPDX-License-Identifier: MIT

import BlockIO
import CSystemFaults
import Glibc
import GuestMemory
import PVTestSupport
import Testing

@testable import DiskImages

@Suite("Writes that follow one another")
struct WriteGatherTests {
  /// The system calls by which this thread has written (`syscw` of /proc/thread-self/io).
  private static func writeCalls() -> Int {
    let lines = (ProcText.read("/proc/thread-self/io") ?? "").split(separator: "\n")
    return lines.compactMap { $0.hasPrefix("syscw: ") ? Int($0.dropFirst(7)) : nil }.first ?? -1
  }

  private struct Scene: ~Copyable {
    static func made() throws -> Scene {
      var scene = try Scene()
      // The first write finds out how the file system takes it.
      _ = try scene.completions(of: [(0, 4096, 0)])
      return scene
    }

    let scratch: ScratchDirectory
    let image: RawImage
    var queue: RawImageQueue
    var memories: [ScatteredMemory] = []

    init() throws {
      let scratch = try ScratchDirectory()
      try scratch.write(Array(repeating: 0, count: 4 << 20))
      let image = try RawImage.open(path: scratch.file(), options: ImageOptions(cache: .writeback))
      let queue = try image.makeQueue(0, buffers: BufferDemand(count: 1, byteCount: 4096))
      self.scratch = scratch
      self.image = image
      self.queue = queue
    }

    /// Submits writes of one byte value each, lets the queue move once, and answers the error of each by its tag.
    mutating func completions(of writes: [(offset: Int, count: Int, value: UInt8)]) throws -> [UInt64: CInt] {
      for (tag, write) in writes.enumerated() {
        let memory = try ScatteredMemory(byteCount: write.count)
        memory.bytes = Array(repeating: write.value, count: write.count)
        memories.append(memory)
        guard case .accepted = queue.submit(.at(write.offset, write.count, .write, memory, tag: UInt64(tag))) else {
          Issue.record("a write was not accepted")
          return [:]
        }
      }
      return drained()
    }

    mutating func drained() -> [UInt64: CInt] {
      var found: [UInt64: CInt] = [:]
      for _ in 0..<10_000 where queue.inFlight > 0 {
        queue.advance()
        while let done = queue.nextCompletion() { found[done.tag] = done.errorCode }
        // What the ring does takes its time.
        if queue.inFlight > 0 { usleep(500) }
      }
      return found
    }

    func byte(at offset: Int) throws -> UInt8 { try #require(scratch.read().dropFirst(offset).first) }
  }

  @Test("are made by one system call, and completed one by one")
  func together() throws {
    var scene = try Scene.made()
    let before = Self.writeCalls()
    let found = try scene.completions(of: (0..<32).map { (65536 + $0 * 4096, 4096, UInt8($0 + 1)) })
    #expect(Self.writeCalls() - before == 1)
    #expect(found == Dictionary(uniqueKeysWithValues: (0..<32).map { (UInt64($0), CInt(0)) }))
    for index in 0..<32 { #expect(try scene.byte(at: 65536 + index * 4096 + 4095) == UInt8(index + 1)) }
  }

  @Test("are made apart when they do not, and in the order in which they came where they overlap")
  func apart() throws {
    var scene = try Scene.made()
    let before = Self.writeCalls()
    let found = try scene.completions(of: [
      (0, 4096, 1), (4096, 4096, 2), (65536, 4096, 3), (4096, 4096, 4), (8192, 4096, 5), (0, 8192, 6), (8192, 4096, 7),
    ])
    #expect(Self.writeCalls() - before == 4)
    #expect(found.count == 7 && found.values.allSatisfy { $0 == 0 })
    #expect(try [0, 4096, 8192, 65536].map { try scene.byte(at: $0) } == [6, 6, 7, 3])
  }

  @Test("are made before a read, a discard or a flush that comes after them")
  func before() throws {
    var scene = try Scene.made()
    let memory = try ScatteredMemory(byteCount: 4096)
    let data = try ScatteredMemory(byteCount: 4096)
    data.bytes = Array(repeating: 9, count: 4096)
    _ = scene.queue.submit(.at(4096, 4096, .write, data, tag: 1))
    _ = scene.queue.submit(.at(4096, 4096, .read, memory, tag: 2))
    _ = scene.queue.submit(.at(8192, 4096, .write, data, tag: 3))
    _ = scene.queue.submit(.at(8192, 4096, .discard, tag: 4))
    _ = scene.queue.submit(.at(12288, 4096, .write, data, tag: 5))
    _ = scene.queue.submit(.at(0, 0, .flush, tag: 6))
    #expect(scene.drained() == [1: 0, 2: 0, 3: 0, 4: 0, 5: 0, 6: 0])
    #expect(memory.bytes.allSatisfy { $0 == 9 })
    #expect(try [4096, 8192, 12288].map { try scene.byte(at: $0) } == [9, 0, 9])
  }

  @Test("fail one by one: what was written is acknowledged, and the error is that of the write that meets it")
  func errors() throws {
    var scene = try Scene.made()
    // The common call moves half, the first write that it did not finish fails for good, the others find no fault.
    pv_faults_set(PV_FAULTY_WRITE, 0, 0, 1)
    let halved = try scene.completions(of: (0..<7).map { (65536 + $0 * 4096, 4096, UInt8(0x40 + $0)) })
    #expect(pv_faults_clear() == 1)
    #expect(halved.count == 7 && halved.values.allSatisfy { $0 == 0 })
    // Half of seven ends inside the fourth.
    for index in 0..<7 { #expect(try scene.byte(at: 65536 + index * 4096 + 4095) == UInt8(0x40 + index)) }
    pv_faults_set(PV_FAULTY_WRITE, EIO, 0, 2)
    let failed = try scene.completions(of: (0..<4).map { (131_072 + $0 * 4096, 4096, 7) })
    #expect(pv_faults_clear() == 2)
    #expect(failed == [0: EIO, 1: 0, 2: 0, 3: 0])
  }
}
