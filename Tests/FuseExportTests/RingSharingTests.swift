// SPDX-License-Identifier: MIT

import BlockIO
import CLinux
import Glibc
import GuestMemory
import PVTestSupport
import Testing

@testable import FuseExport

@Suite("Large requests over io_uring, shared by two reactors", .enabled(if: Transports.available.contains(.ring)))
struct RingSharingTests {
  static let byteCount = 8 << 20

  private func mounted(asynchronySeed: UInt64? = nil) throws -> MountedDisk {
    var behaviour = MemoryDisk.Behaviour()
    behaviour.queueCount = 2
    behaviour.asynchronySeed = asynchronySeed
    let disk = try MemoryDisk(
      geometry: BlockGeometry(sectorCount: UInt64(Self.byteCount / 512)), behaviour: behaviour)
    return try MountedDisk(disk) {
      $0.transport = .ring
      $0.reactorCount = 2
    }
  }

  /// Threads that all ask from one CPU, so that every request comes to one reactor.
  private func ask(_ path: String, users: Int, _ body: @escaping @Sendable (borrowing OpenFile, Int) throws -> Int)
    throws
    -> Int
  {
    let threads = (0..<users).map { user in
      TestThread {
        _ = pv_pin_thread(0)
        return try body(try OpenFile(path), user)
      }
    }
    var wrong = 0
    for thread in threads { wrong += try thread.value() }
    return wrong
  }

  @Test(
    "both reactors serve what one CPU asks, large and small among each other, and every byte is right",
    arguments: [nil, 3] as [UInt64?])
  func shared(seed: UInt64?) throws {
    let mounted = try mounted(asynchronySeed: seed)
    let wrong = try ask(mounted.path, users: 8) { file, user in
      var generator = SeededGenerator(seed: UInt64(user))
      var wrong = 0
      let start = user << 20
      for round in 0..<30 {
        let isLarge = round % 3 < 2
        let count = isLarge ? Int.random(in: 300_000...1 << 20, using: &generator) : 4096
        let place = start + Int.random(in: 0...((1 << 20) - count), using: &generator)
        let bytes = randomBytes(count, &generator)
        if try file.write(bytes, at: place) != count { wrong += 1 }
        if try file.read(count, at: place) != bytes { wrong += 1 }
      }
      return wrong
    }
    #expect(wrong == 0)
    let statistics = mounted.mount.statistics
    #expect(statistics.shared > 0)
    #expect(statistics.failures == 0 && statistics.lostAnswers == 0)
    mounted.end()
    #expect(mounted.disk.requestCounts.violations == 0)
  }

  @Test("small requests bring every entry home, and are not passed on any more")
  func home() throws {
    let mounted = try mounted()
    let path = mounted.path
    func reads(_ reactor: Int) -> UInt64 { mounted.mount.lifecycle.counters(of: reactor)[.reads] }
    let small: @Sendable (borrowing OpenFile, Int) throws -> Int = { file, _ in
      for block in 0..<100 { _ = try file.read(4096, at: block * 4096) }
      return 0
    }
    for _ in 0..<8 {
      let large = try ask(path, users: 8) { file, _ in
        for _ in 0..<10 { _ = try file.read(1 << 20, at: 0) }
        return 0
      }
      _ = try ask(path, users: 1, small)
      let before = (mounted.mount.statistics.shared, reads(0), reads(1))
      _ = try ask(path, users: 1, small)
      #expect(large == 0 && before.0 > 0)
      #expect(mounted.mount.statistics.shared == before.0)
      #expect(reads(0) == before.1 + 100 && reads(1) == before.2)
    }
    mounted.end()
  }

  @Test("a mount ends while large requests are under way", arguments: [StopUrgency.immediate, .orderly])
  func end(_ urgency: StopUrgency) throws {
    for round in 0..<25 {
      let mounted = try mounted(asynchronySeed: round % 2 == 0 ? nil : UInt64(round))
      let path = mounted.path
      let threads = (0..<6).map { user in
        TestThread {
          _ = pv_pin_thread(CInt(user % 2))
          let file = try OpenFile(path)
          while (try? file.read(1 << 20, at: user << 20)) != nil {
            guard urgency == .immediate || mounted.mount.statistics.reads < 60 else { break }
          }
        }
      }
      while mounted.mount.statistics.reads < 30 { usleep(200) }
      #expect(mounted.end(urgency).flushError == nil)
      for thread in threads { try? thread.value() }
      #expect(mounted.disk.requestCounts.violations == 0)
    }
  }
}
