// SPDX-License-Identifier: MIT

import Glibc
import Testing

@Suite("An image in a file system that is full")
struct FullDiskTests {
  private static let block = 16 << 10
  private static let blockCount = 1024

  /// What the disk's blocks hold: each of one byte.
  private struct Filled {
    let disk: OpenDisk
    var known = [UInt8](repeating: 0, count: blockCount)
    var chance: Chance
    var failures = 0

    /// Writes one block; false when there was no room, and then each of its pages is the old or the new one.
    mutating func write(_ byte: UInt8, to number: Int) throws -> Bool {
      do {
        try disk.write([UInt8](repeating: byte, count: block), at: number * block)
        known[number] = byte
        return true
      } catch let failure as CallFailure {
        failures += 1
        #expect(failure.code == EIO || failure.code == ENOSPC, "\(failure)")
        let found = try disk.read(block, at: number * block)
        for page in stride(from: 0, to: block, by: 4096) {
          #expect(found.isUniform(from: page, count: 4096) && (found[page] == byte || found[page] == known[number]))
        }
        try free(number)
        return false
      }
    }

    mutating func free(_ number: Int) throws {
      try disk.clear(number * block, block, freeing: true)
      known[number] = 0
    }

    func isRight(_ number: Int) throws -> Bool {
      let found = try disk.read(block, at: number * block)
      return found[0] == known[number] && found.isUniform(from: 0, count: block)
    }
  }

  @Test(
    "a write without room fails alone, and once there is room it succeeds, 100 times",
    .enabled(if: geteuid() == 0, "mounts a small tmpfs"))
  func fillsAndRecovers() throws {
    let scene = try Scene(size: nil)
    try scene.ok(
      """
      mkdir small && mount -t tmpfs -o size=4M none small
      pvdisk create small/d.img 16M
      pvdisk mount --daemonize small/d.img m
      """)
    var filled = Filled(disk: try OpenDisk(scene.disk), chance: Chance(73))
    for cycle in 0..<100 {
      let byte = UInt8(cycle + 1)
      var refused: Int?
      for number in (0..<Self.blockCount).shuffled(using: &filled.chance) {
        guard try filled.write(byte, to: number) else {
          refused = number
          break
        }
      }
      let failed = try #require(refused, "cycle \(cycle): 16 MiB in 4 MiB")
      // Full: what has its room goes on working, and what was written is there.
      let written = filled.known.indices.filter { filled.known[$0] != 0 }
      let some = written.shuffled(using: &filled.chance).prefix(8)
      for number in some { try #require(try filled.isRight(number), "cycle \(cycle), block \(number)") }
      try filled.disk.sync()
      for number in written.shuffled(using: &filled.chance).prefix(written.count / 2) { try filled.free(number) }
      let isWritten = try filled.write(byte, to: failed)
      #expect(isWritten, "cycle \(cycle): there is room again")
    }
    #expect(filled.failures == 100, "one in each cycle")
    for number in filled.known.indices { try #require(try filled.isRight(number), "block \(number)") }
    try filled.disk.sync()
    let known = filled.known
    _ = consume filled
    try scene.ok("pvdisk umount m")
    let image = try Files.bytes("\(scene.folder)/small/d.img")
    for number in known.indices {
      #expect(
        image[number * Self.block] == known[number]
          && image.isUniform(from: number * Self.block, count: Self.block), "block \(number) of the image")
    }
    // What another test is just starting has a copy of every descriptor, that of the image too, until it is the new program.
    try scene.ok("for try in $(seq 100); do umount small && exit; sleep 0.1; done; exit 1")
  }
}
