// SPDX-License-Identifier: MIT

import BlockIO
import CLinux
import FuseExport
import Glibc
import GuestMemory
import PVTestSupport
import Testing

@Suite("The disk's limits")
struct DiskLimitsTests {
  static let size = 1 << 20

  @Test("a read ends where the disk ends")
  func endOfFile() throws {
    try withMountedDisk(byteCount: Self.size) { (mounted) throws in
      let file = try OpenFile(mounted.path)
      #expect(try file.read(4096, at: Self.size - 100).count == 100)
      #expect(try file.read(4096, at: Self.size).isEmpty)
      #expect(try file.read(4096, at: Self.size + 123_456).isEmpty)
      #expect(try file.seek(0, SEEK_END) == (Self.size))
    }
  }

  @Test("a write past the end is refused, and one across it stops there")
  func noSpace() throws {
    try withMountedDisk(byteCount: Self.size) { (mounted) throws in
      let file = try OpenFile(mounted.path)
      expectErrno(ENOSPC) { try file.write([1], at: Self.size) }
      expectErrno(ENOSPC) { try file.write([1], at: 1 << 40) }
      #expect(try file.write(Array(repeating: 7, count: 4096), at: Self.size - 1024) == 1024)
      #expect(try file.write(Array(repeating: 8, count: 4096), at: Self.size - 3) == 3)
      #expect(try file.read(4, at: Self.size - 4) == [7, 8, 8, 8])
      #expect(try statusOf(mounted.path).st_size == (Self.size))
      let appender = try OpenFile(mounted.path, O_WRONLY | O_APPEND)
      expectErrno(ENOSPC) { try file.write([1], at: Self.size) }
      expectErrno(ENOSPC) { try checked("write", unsafe write(appender.descriptor, "x", 1)) }
    }
  }

  @Test("an end that is no whole logical sector is out of reach")
  func oddEnd() throws {
    let geometry = BlockGeometry(sectorCount: 8191, logicalSectorSize: 4096, physicalSectorSize: 4096)
    try withMountedDisk(geometry: geometry) { (mounted) throws in
      #expect(try statusOf(mounted.path).st_size == (8184 * 512))
      let file = try OpenFile(mounted.path)
      #expect(try file.read(8192, at: 8184 * 512 - 10).count == 10)
    }
  }

  @Test("a read-only disk says EROFS", arguments: [true, false])
  func readOnly(_ byDevice: Bool) throws {
    let geometry = BlockGeometry(sectorCount: 2048, isReadOnly: byDevice)
    try withMountedDisk(geometry: geometry, options: { $0.isReadOnly = !byDevice }) { (mounted) throws in
      expectErrno(EROFS) { _ = try OpenFile(mounted.path, O_RDWR) }
      expectErrno(EROFS) { _ = try OpenFile(mounted.path, O_RDONLY | O_TRUNC) }
      let file = try OpenFile(mounted.path, O_RDONLY)
      #expect(try file.read(512, at: 0).count == 512)
      #expect(try permissionsOf(mounted.path) == 0o400)
      expectErrno(EROFS) { try checked("chmod", unsafe chmod(mounted.path, 0o600)) }
    }
  }

  @Test("a disk that grows is larger at the next look, and for a request beyond the old end")
  func growth() throws {
    let geometry = BlockGeometry(sectorCount: 2048)
    let disk = try MemoryDisk(geometry: geometry, growsTo: 4 << 20)
    let mounted = try MountedDisk(disk)
    defer { mounted.end() }
    let file = try OpenFile(mounted.path)
    expectErrno(ENOSPC) { try file.write([1], at: 1 << 20) }
    disk.grow(toSectorCount: 8192)
    #expect(try file.write([1, 2, 3], at: (1 << 20) - 1) == 3)
    mounted.mount.announceSize()
    #expect(try file.status().st_size == (4 << 20))
    #expect(try file.read(8192, at: (4 << 20) - 4096).count == 4096)
  }

  @Test("the device's errors reach the caller, and only the caller")
  func deviceErrors() throws {
    var behaviour = MemoryDisk.Behaviour()
    behaviour.badSectors = 100..<108
    behaviour.asynchronySeed = 5
    try withMountedDisk(byteCount: Self.size, behaviour: behaviour) { (mounted) throws in
      let file = try OpenFile(mounted.path)
      expectErrno(EIO) { _ = try file.read(512, at: 100 * 512) }
      expectErrno(EIO) { try file.write([1], at: 107 * 512 + 3) }
      expectErrno(EIO) { try file.write(Array(repeating: 1, count: 8192), at: 96 * 512) }
      #expect(try file.read(512, at: 108 * 512).count == 512)
      #expect(try file.write([5], at: 99 * 512) == 1)
      #expect(mounted.mount.statistics.failures >= 3)
    }
  }

  @Test("a flush that fails makes fsync fail, and is told when the mount ends", arguments: [EIO, ENOSYS])
  func flushErrors(_ code: CInt) throws {
    var behaviour = MemoryDisk.Behaviour()
    behaviour.flushError = code
    let mounted = try MountedDisk(MemoryDisk(geometry: BlockGeometry(sectorCount: 2048), behaviour: behaviour))
    do {
      let file = try OpenFile(mounted.path)
      // ENOSYS must not become the kernel's licence to leave out every later fsync.
      for _ in 0..<2 { expectErrno(code == ENOSYS ? EOPNOTSUPP : code) { try file.sync() } }
      #expect(mounted.disk.requestCounts.flushes == 2)
    }
    #expect(mounted.end().flushError == code)
  }

  @Test("fsync flushes, close does not, and the end of the mount does")
  func flushes() throws {
    let mounted = try MountedDisk(MemoryDisk(geometry: BlockGeometry(sectorCount: 2048)))
    do {
      let file = try OpenFile(mounted.path)
      try file.write([1], at: 0)
      try file.sync()
      #expect(fdatasync(file.descriptor) == 0)
      #expect(mounted.disk.requestCounts.flushes == 2)
      try file.write([2], at: 0)
    }
    #expect(mounted.disk.requestCounts.flushes == 2)
    mounted.end()
    #expect(mounted.disk.requestCounts.flushes == 3)
  }

  @Test("a disk that takes few requests at a time still serves many askers")
  func smallCapacity() throws {
    var behaviour = MemoryDisk.Behaviour()
    behaviour.capacity = 1
    behaviour.queueCount = 1
    behaviour.asynchronySeed = 17
    try withMountedDisk(byteCount: Self.size, behaviour: behaviour, options: { $0.depth = 4 }) { (mounted) throws in
      let path = mounted.path
      let threads = (0..<8).map { index in
        TestThread {
          let file = try OpenFile(path)
          var generator = SeededGenerator(seed: UInt64(index))
          for round in 0..<40 {
            let bytes = randomBytes(4096 + round, &generator)
            let offset = index * 65_536
            try file.write(bytes, at: offset)
            #expect(try file.read(bytes.count, at: offset) == bytes)
          }
        }
      }
      for thread in threads { try thread.value() }
    }
  }
}
