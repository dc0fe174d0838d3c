// SPDX-License-Identifier: MIT

import Dispatch
import Glibc
import Synchronization
import Testing

@Suite("Data through a mounted disk")
struct DataTests {
  static let size = 8 << 20

  @Test("reads, writes and clearings at any byte leave what they leave in an array", arguments: MountWay.all)
  func model(way: MountWay) throws {
    let scene = try Scene(size: "8M")
    var model = [UInt8](repeating: 0, count: Self.size)
    let seed: UInt64 = 2026
    try scene.mounted(way.options) {
      let disk = try OpenDisk(scene.disk)
      var chance = Chance(seed)
      for step in 0..<200 {
        let length =
          [1, 100, 511, 512, 513, 4096, 5000, 65536, 300_001, 1 << 20, 3 << 20].randomElement(using: &chance) ?? 1
        let offset = Int.random(in: 0..<Self.size, using: &chance) & (Bool.random(using: &chance) ? ~4095 : ~0)
        let range = offset..<min(offset + length, Self.size)
        switch UInt8.random(in: 0..<8, using: &chance) {
        case 0: try disk.clear(range.lowerBound, range.count, freeing: true)
        case 1: try disk.clear(range.lowerBound, range.count, freeing: false)
        case 2...4:
          let found = try disk.read(length, at: offset)
          try #require(found == Array(model[range]), "step \(step), seed \(seed), \(range)")
          continue
        case 5: try disk.sync(); continue
        default:
          let bytes = chance.bytes(range.count)
          try disk.write(bytes, at: offset)
          model.replaceSubrange(range, with: bytes)
          continue
        }
        model.clear(range)
      }
      #expect(try disk.read(Self.size, at: 0) == model)
    }
    #expect(try Files.bytes(scene.image) == model)
  }

  @Test("the end of the disk: a read stops there, a write past it finds no space")
  func end() throws {
    let scene = try Scene(size: "1M")
    try scene.mounted {
      let disk = try OpenDisk(scene.disk)
      #expect(try disk.read(8192, at: (1 << 20) - 100).count == 100)
      #expect(try disk.read(10, at: 1 << 20).isEmpty)
      let refusal = #expect(throws: CallFailure.self) { try disk.write([1, 2, 3], at: 1 << 20) }
      #expect(refusal?.code == ENOSPC)
      let partial = #expect(throws: CallFailure.self) {
        try disk.write(Array(repeating: 1, count: 200), at: (1 << 20) - 100)
      }
      #expect(partial?.code == ENOSPC)
    }
    #expect(try scene.ok("stat -c %s d.img") == "1048576\n")
  }

  @Test(
    "writers and readers on four queues never see half of a sector",
    arguments: ["--queues 4", "--queues 4 --placement threads"])
  func concurrent(options: String) throws {
    let scene = try Scene(size: "8M")
    try scene.mounted(options) {
      let failure = Mutex<String?>(nil)
      let path = scene.disk
      // Each writer fills whole runs of its own sectors with one value; a reader must find one value in each sector.
      DispatchQueue.concurrentPerform(iterations: 8) { lane in
        do {
          let disk = try OpenDisk(path)
          var chance = Chance(UInt64(lane))
          for round in 0..<100 {
            let start = Int.random(in: 0..<Self.size / 512 - 64, using: &chance)
            let count = Int.random(in: 1...64, using: &chance)
            if lane < 4 {
              try disk.write(Array(repeating: UInt8(lane * 60 + round % 60), count: count * 512), at: start * 512)
            } else {
              let bytes = try disk.read(count * 512, at: start * 512)
              for sector in 0..<count where !bytes.isUniform(from: sector * 512, count: 512) {
                failure.withLock { $0 = "sector \(start + sector) is torn" }
              }
            }
            if round % 25 == 24 { try disk.sync() }
          }
        } catch { failure.withLock { $0 = "\(error)" } }
      }
      #expect(failure.withLock { $0 } == nil)
    }
  }
}
