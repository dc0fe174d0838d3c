// SPDX-License-Identifier: MIT

import BlockIO
import FuseExport
import Glibc
import GuestMemory
import PVTestSupport
import Testing

@Suite("Names and attributes")
struct AttributeTests {
  @Test("the directory holds the disk under its name, and nothing else can be put there")
  func directory() throws {
    try withMountedDisk(options: { $0.fileName = "sda with space" }) { (mounted) throws in
      let point = mounted.place.path
      #expect(mounted.path == "\(point)/sda with space")
      let listing = Shell.run("ls -a1 '\(point)'")
      #expect(listing.output == ".\n..\nsda with space\n")
      #expect(try kindOf(point) == S_IFDIR)
      #expect(try kindOf(mounted.path) == S_IFREG)
      expectErrno(ENOENT) { _ = try statusOf("\(point)/other") }
      expectErrno(ENOENT) { _ = try statusOf("\(point)/" + String(repeating: "n", count: 255)) }
      expectErrno(EPERM) { _ = try OpenFile("\(point)/new", O_RDWR | O_CREAT) }
      expectErrno(EPERM) { try checked("mkdir", unsafe mkdir("\(point)/new", 0o755)) }
      expectErrno(EPERM) { try checked("unlink", unsafe unlink(mounted.path)) }
      expectErrno(EPERM) { try checked("rename", unsafe rename(mounted.path, "\(point)/b")) }
      expectErrno(EPERM) { try checked("symlink", unsafe symlink("a", "\(point)/b")) }
    }
  }

  @Test("the longest name works, and an impossible one is refused")
  func names() throws {
    let longest = String(repeating: "x", count: 255)
    try withMountedDisk(options: { $0.fileName = longest }) { (mounted) throws in
      #expect(try statusOf(mounted.path).st_size == (4 << 20))
      #expect(Shell.run("ls \(mounted.place.path)").output == longest + "\n")
    }
    for name in ["", "a/b", ".", "..", "\(longest)y"] {
      #expect(throws: FuseError.invalidFileName(name)) {
        _ = try MountedDisk(MemoryDisk(geometry: BlockGeometry(sectorCount: 8)), options: { $0.fileName = name })
      }
    }
  }

  @Test("a file mount point is the disk")
  func fileMount() throws {
    try withMountedDisk(shape: .file) { (mounted) throws in
      #expect(mounted.path == mounted.place.path)
      let file = try OpenFile(mounted.path)
      try file.write([1, 2, 3], at: 77)
      #expect(mounted.disk.contents.load(UInt8.self, at: 78) == 2)
      #expect(try file.status().st_size == (4 << 20))
      #expect(try kindOf(mounted.path) == S_IFREG)
    }
  }

  @Test("mode, owner and times are kept while the mount lives", arguments: [TemporaryPlace.Shape.directory, .file])
  func attributes(_ shape: TemporaryPlace.Shape) throws {
    try withMountedDisk(shape: shape) { (mounted) throws in
      let before = try statusOf(mounted.path)
      #expect(before.st_mode & 0o7777 == 0o600)
      #expect(before.st_uid == getuid())
      #expect(before.st_nlink == 1)
      try checked("chmod", unsafe chmod(mounted.path, 0o640))
      #expect(try permissionsOf(mounted.path) == 0o640)
      if getuid() == 0 {
        try checked("chown", unsafe chown(mounted.path, 1234, 5678))
        let after = try statusOf(mounted.path)
        #expect((after.st_uid, after.st_gid) == (1234, 5678))
      }
      let times = [timespec(tv_sec: 1000, tv_nsec: 7), timespec(tv_sec: 2000, tv_nsec: 8)]
      try checked("utimensat", unsafe utimensat(AT_FDCWD, mounted.path, times, 0))
      let dated = try statusOf(mounted.path)
      #expect((dated.st_atim.tv_sec, dated.st_atim.tv_nsec) == (1000, 7))
      #expect((dated.st_mtim.tv_sec, dated.st_mtim.tv_nsec) == (2000, 8))
      try OpenFile(mounted.path).write([1], at: 0)
      #expect(try statusOf(mounted.path).st_mtim.tv_sec > 2000)
      #expect(try statusOf(mounted.path).st_atim.tv_sec == 1000)
    }
  }

  @Test("a disk keeps its size: O_TRUNC does nothing, another size is refused")
  func sizes() throws {
    try withMountedDisk(byteCount: 1 << 20) { (mounted) throws in
      try OpenFile(mounted.path).write([42], at: 99)
      do {
        let file = try OpenFile(mounted.path, O_RDWR | O_TRUNC)
        #expect(try file.status().st_size == (1 << 20))
        #expect(try file.read(1, at: 99) == [42])
        try file.truncate(1 << 20)
        expectErrno(EPERM) { try file.truncate(0) }
        expectErrno(EPERM) { try file.truncate(4096) }
        expectErrno(EPERM) { try file.truncate(2 << 20) }
      }
      try checked("truncate", unsafe truncate(mounted.path, 1 << 20))
      expectErrno(EPERM) { try checked("truncate", unsafe truncate(mounted.path, 0)) }
      #expect(Shell.run("dd if=/dev/zero of='\(mounted.path)' bs=1k count=1").status == 0)
      #expect(Shell.run("truncate -s 5 '\(mounted.path)'").status == 1)
      #expect(try statusOf(mounted.path).st_size == (1 << 20))
      #expect(mounted.disk.contents.load(UInt8.self, at: 99) == 0)
    }
  }

  @Test("statfs shows the disk's size and no room")
  func fileSystem() throws {
    try withMountedDisk(byteCount: 1 << 20) { (mounted) throws in
      var status = statvfs()
      try checked("statvfs", unsafe statvfs(mounted.path, &status))
      #expect(status.f_blocks * status.f_frsize == 1 << 20)
      #expect(status.f_bfree == 0)
      #expect(status.f_namemax == 255)
    }
  }
}
