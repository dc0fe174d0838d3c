// SPDX-License-Identifier: MIT

import BlockIO
import CLinux
import FuseExport
import Glibc
import GuestMemory
import PVTestSupport
import Testing

@Suite("Holes and zeros")
struct RangeTests {
  /// What a disk can do with ranges.
  enum Ability: String, CaseIterable, Sendable {
    case discardLeavesZeros, discardLeavesRubbish, noDiscard, nothing
  }

  private func withDisk(_ ability: Ability, sectorSize: Int = 512, _ body: (MountedDisk) throws -> Void) throws {
    let discard: DiscardAbility? =
      switch ability {
      case .discardLeavesZeros: DiscardAbility(leavesZeros: true)
      case .discardLeavesRubbish: DiscardAbility()
      case .noDiscard, .nothing: nil
      }
    var behaviour = MemoryDisk.Behaviour()
    behaviour.writesZeroes = ability != .nothing
    behaviour.asynchronySeed = 23
    let geometry = BlockGeometry(
      sectorCount: 16_384, logicalSectorSize: sectorSize, physicalSectorSize: sectorSize, discard: discard)
    try withMountedDisk(geometry: geometry, behaviour: behaviour, body)
  }

  static let modes: [(CInt, String)] = [
    (pv_falloc_punch_hole | pv_falloc_keep_size, "punch"), (pv_falloc_zero_range, "zero"),
    (pv_falloc_zero_range | pv_falloc_keep_size, "zero, keep size"),
  ]

  @Test(
    "a cleared range reads as zeros to the byte, whatever the disk can do", arguments: Ability.allCases, [512, 4096])
  func clearedRanges(_ ability: Ability, _ sectorSize: Int) throws {
    let size = 8 << 20
    try withDisk(ability, sectorSize: sectorSize) { (mounted) throws in
      let file = try OpenFile(mounted.path)
      var generator = SeededGenerator(seed: 77)
      for (mode, name) in Self.modes {
        let bytes = randomBytes(size, &generator)
        try file.write(bytes, at: 0)
        for range in [100..<200, 510..<514, 4096..<8192, 10_000..<3_000_001, 5_000_000..<5_000_512, 0..<1] {
          try file.allocate(mode, range.lowerBound, range.count)
          #expect(try file.read(range.count, at: range.lowerBound) == Array(repeating: 0, count: range.count))
          let after = try file.read(64, at: range.upperBound)
          #expect(after == Array(bytes[range.upperBound..<range.upperBound + 64]), "\(name) \(range)")
        }
        #expect(try file.read(3000, at: 3_100_000) == Array(bytes[3_100_000..<3_103_000]))
      }
      let counts = mounted.disk.requestCounts
      #expect((counts.discards > 0) == (ability == .discardLeavesZeros))
      #expect(counts.zeroings > 0)
    }
  }

  @Test("ranges past the end are cut off or refused as on a disk")
  func pastTheEnd() throws {
    try withDisk(.discardLeavesZeros) { (mounted) throws in
      let size = 8 << 20
      let file = try OpenFile(mounted.path)
      try file.write(Array(repeating: 1, count: 8192), at: size - 8192)
      try file.allocate(pv_falloc_punch_hole | pv_falloc_keep_size, size - 4096, 1 << 20)
      #expect(try file.read(4096, at: size - 4096) == Array(repeating: 0, count: 4096))
      try file.allocate(pv_falloc_punch_hole | pv_falloc_keep_size, size + 4096, 4096)
      try file.allocate(pv_falloc_zero_range | pv_falloc_keep_size, size - 6000, 1 << 20)
      #expect(try file.read(2192, at: size - 8192) == Array(repeating: 1, count: 2192))
      #expect(try file.read(6000, at: size - 6000) == Array(repeating: 0, count: 6000))
      expectErrno(ENOSPC) { try file.allocate(pv_falloc_zero_range, size - 4096, 8192) }
      expectErrno(ENOSPC) { try file.allocate(0, size - 4096, 8192) }
      try file.allocate(0, 0, size)
      expectErrno(EOPNOTSUPP) { try file.allocate(0x08, 0, 4096) }
      expectErrno(EOPNOTSUPP) { try file.allocate(0x20, 0, 4096) }
      #expect(try file.status().st_size == size)
    }
  }

  @Test("SEEK_DATA and SEEK_HOLE tell what the disk knows, and st_blocks agrees")
  func seeking() throws {
    try withMountedDisk(byteCount: 1 << 20) { (mounted) throws in
      let file = try OpenFile(mounted.path)
      expectErrno(ENXIO) { _ = try file.seek(0, pv_seek_data) }
      #expect(try file.seek(0, pv_seek_hole) == 0)
      try file.write(Array(repeating: 1, count: 8192), at: 65_536)
      #expect(try file.seek(0, pv_seek_data) == 65_536)
      #expect(try file.seek(66_000, pv_seek_data) == 66_000)
      #expect(try file.seek(66_000, pv_seek_hole) == 73_728)
      expectErrno(ENXIO) { _ = try file.seek(73_728, pv_seek_data) }
      expectErrno(ENXIO) { _ = try file.seek(1 << 20, pv_seek_hole) }
      #expect(try file.status().st_blocks == 16)
      #expect(try file.status().st_blksize == 4096)
    }
  }

  @Test("a hole punched beside a writer takes nothing from him", arguments: Ability.allCases)
  func concurrency(_ ability: Ability) throws {
    try withDisk(ability) { (mounted) throws in
      let path = mounted.path
      let puncher = TestThread {
        let file = try OpenFile(path)
        for _ in 0..<100 {
          try file.allocate(pv_falloc_punch_hole | pv_falloc_keep_size, 1000, 5000)
          #expect(try file.read(5000, at: 1000) == Array(repeating: 0, count: 5000))
        }
      }
      let writer = TestThread {
        let file = try OpenFile(path)
        for round in 0..<200 {
          let bytes = Array(repeating: UInt8(truncatingIfNeeded: round + 1), count: 500)
          try file.write(bytes, at: 500)
          try file.write(bytes, at: 6000)
          #expect(try file.read(500, at: 500) == bytes)
          #expect(try file.read(500, at: 6000) == bytes)
        }
      }
      try puncher.value()
      try writer.value()
    }
  }
}
