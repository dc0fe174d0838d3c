// SPDX-License-Identifier: MIT

import BlockIO
import FuseExport
import Glibc
import GuestMemory
import PVTestSupport
import Testing

/// One kind of disk to run a test on.
struct DiskCase: Sendable, CustomTestStringConvertible {
  var sectorSize: Int
  var asynchronySeed: UInt64?
  var testDescription: String { "\(sectorSize)-byte sectors, \(asynchronySeed == nil ? "at once" : "late")" }

  static let all = [
    DiskCase(sectorSize: 512), DiskCase(sectorSize: 4096), DiskCase(sectorSize: 512, asynchronySeed: 7),
    DiskCase(sectorSize: 4096, asynchronySeed: 11),
  ]

  func geometry(byteCount: Int) -> BlockGeometry {
    BlockGeometry(
      sectorCount: UInt64(byteCount / 512), logicalSectorSize: sectorSize, physicalSectorSize: sectorSize,
      discard: DiscardAbility(leavesZeros: true))
  }

  var behaviour: MemoryDisk.Behaviour {
    var behaviour = MemoryDisk.Behaviour()
    behaviour.asynchronySeed = asynchronySeed
    return behaviour
  }
}

@Suite("The disk file, byte by byte")
struct ByteAccessTests {
  @Test("random reads and writes of any length agree with a model", arguments: DiskCase.all)
  func randomAccess(_ kind: DiskCase) throws {
    let size = 3 << 20
    try withMountedDisk(geometry: kind.geometry(byteCount: size), behaviour: kind.behaviour) { (mounted) throws in
      var generator = SeededGenerator(seed: 42)
      var model = [UInt8](repeating: 0, count: size)
      let file = try OpenFile(mounted.path)
      for round in 0..<400 {
        let longest = round % 20 == 0 ? 1_500_000 : 9000
        var offset = Int(generator.next() % UInt64(size))
        var count = 1 + Int(generator.next() % UInt64(longest))
        if generator.next() & 1 == 0 {
          offset &= ~(kind.sectorSize - 1)
          count = (count + kind.sectorSize - 1) & ~(kind.sectorSize - 1)
        }
        count = min(count, size - offset)
        if generator.next() & 1 == 0 {
          let bytes = randomBytes(count, &generator)
          #expect(try file.write(bytes, at: offset) == count)
          model.replaceSubrange(offset..<offset + count, with: bytes)
        } else {
          let same = try file.read(count, at: offset) == Array(model[offset..<offset + count])
          #expect(same, "\(count) bytes at \(offset), round \(round)")
        }
      }
      #expect(try file.read(size, at: 0) == model)
      #expect(mounted.mount.statistics.partialSectorWrites > 0)
    }
  }

  @Test("writers of neighbouring bytes on several queues lose nothing", arguments: DiskCase.all)
  func neighbours(_ kind: DiskCase) throws {
    let size = 256 << 10
    try withMountedDisk(geometry: kind.geometry(byteCount: size), behaviour: kind.behaviour) { (mounted) throws in
      let pieces = Self.pieces(of: size, sectorSize: kind.sectorSize, seed: 3)
      let path = mounted.path
      let threads = (0..<4).map { index in
        TestThread { try Self.write(pieces.filter { $0.owner == index }, path: path, seed: UInt64(index)) }
      }
      var model = [UInt8](repeating: 0, count: size)
      for thread in threads {
        for piece in try thread.value() { model.replaceSubrange(piece.range, with: piece.bytes) }
      }
      #expect(try OpenFile(path, O_RDONLY).read(size, at: 0) == model)
      #expect(mounted.mount.statistics.partialSectorWrites > 100)
    }
  }

  /// A part of the disk that one thread alone writes.
  struct Piece: Sendable {
    var range: Range<Int>
    var owner: Int
    var bytes: [UInt8]
  }

  /// The disk cut up: pieces that share sectors with others, and pieces of whole sectors between them.
  static func pieces(of size: Int, sectorSize: Int, seed: UInt64) -> [Piece] {
    var generator = SeededGenerator(seed: seed)
    var pieces: [Piece] = []
    var start = 0
    while start < size {
      let bits = generator.next()
      var end = start + 1 + Int(bits % 1500)
      if bits & 0x10000 != 0 { end = (end + 2 * sectorSize) & ~(sectorSize - 1) }
      end = min(end, size)
      pieces.append(Piece(range: start..<end, owner: pieces.count % 4, bytes: Array(repeating: 0, count: end - start)))
      start = end
    }
    return pieces
  }

  /// Writes parts of the given pieces over and over, and reads others back.
  static func write(_ pieces: [Piece], path: String, seed: UInt64) throws -> [Piece] {
    var pieces = pieces
    var generator = SeededGenerator(seed: seed)
    let file = try OpenFile(path)
    for _ in 0..<600 {
      let index = Int(generator.next() % UInt64(pieces.count))
      let piece = pieces[index]
      guard generator.next() % 3 != 0 else {
        #expect(try file.read(piece.bytes.count, at: piece.range.lowerBound) == piece.bytes)
        continue
      }
      let from = generator.next() & 1 == 0 ? 0 : Int(generator.next() % UInt64(piece.bytes.count))
      let bytes = randomBytes(piece.bytes.count - from, &generator)
      try file.write(bytes, at: piece.range.lowerBound + from)
      pieces[index].bytes.replaceSubrange(from..., with: bytes)
    }
    return pieces
  }

  @Test("one system call may move many megabytes, from any address and to any offset")
  func hugeTransfers() throws {
    try withMountedDisk(byteCount: 32 << 20) { (mounted) throws in
      let file = try OpenFile(mounted.path)
      var generator = SeededGenerator(seed: 9)
      let bytes = randomBytes(26_208_400, &generator)
      #expect(try file.write(bytes, at: 12_345) == bytes.count)
      #expect(try file.read(bytes.count, at: 12_345) == bytes)
      #expect(try file.read(12_345, at: 0) == Array(repeating: 0, count: 12_345))
      #expect(try file.write(bytes, at: 1 << 20) == bytes.count)
      #expect(try file.read(bytes.count, at: 1 << 20) == bytes)
    }
  }

  @Test("a shared mapping and the file show each other's bytes")
  func mapping() throws {
    try withMountedDisk { (mounted) throws in
      let file = try OpenFile(mounted.path)
      try file.write(Array("written".utf8), at: 8192)
      guard let map = unsafe mmap(nil, 65_536, PROT_READ | PROT_WRITE, MAP_SHARED, file.descriptor, 0),
        unsafe map != MAP_FAILED
      else { throw SystemError("mmap") }
      defer { unsafe _ = munmap(map, 65_536) }
      #expect(unsafe map.load(fromByteOffset: 8192, as: UInt8.self) == UInt8(ascii: "w"))
      unsafe map.storeBytes(of: 0x1122_3344, toByteOffset: 4096, as: UInt32.self)
      try checked("msync", unsafe msync(map, 65_536, MS_SYNC))
      #expect(try file.read(4, at: 4096) == [0x44, 0x33, 0x22, 0x11])
      try file.write([9], at: 4097)
      #expect(unsafe map.load(fromByteOffset: 4096, as: UInt32.self) == 0x1122_0944)
    }
  }
}
