// SPDX-License-Identifier: MIT

import BlockIO
import CLinux
import FuseExport
import Glibc
import GuestMemory
import PVTestSupport
import Testing

@Suite("An ordinary user")
struct OrdinaryUserTests {
  static let canChangeUser = geteuid() == 0 && Shell.has("fusermount3")

  /// Becomes nobody, in a mount namespace where /dev/fuse is open to all, as most systems have it.
  static func becomeNobody() throws {
    try checked("unshare", pv_unshare_mounts())
    let node = "/tmp/pvdisk-fuse-node-\(getpid())"
    let prepared = Shell.run(
      "mount --make-rprivate / && mknod \(node) c 10 229 && chmod 666 \(node) && mount --bind \(node) /dev/fuse; rm -f \(node)"
    )
    guard prepared.status == 0 else { throw SystemError("mount", code: EPERM) }
    try checked("setgid", setgid(65534))
    try checked("setuid", setuid(65534))
  }

  @Test("mounts, uses and unmounts without privileges", .enabled(if: canChangeUser), arguments: ["program", "request"])
  func mounts(_ way: String) async {
    await #expect(processExitsWith: .success) { [way] in
      try OrdinaryUserTests.becomeNobody()
      let mounted = try MountedDisk(MemoryDisk(geometry: BlockGeometry(sectorCount: 8192)))
      let status = try statusOf(mounted.path)
      guard status.st_uid == 65534, status.st_mode & 0o7777 == 0o600 else { exit(2) }
      do {
        let file = try OpenFile(mounted.path)
        guard try file.write([1, 2, 3], at: 1000) == 3, try file.read(3, at: 1000) == [1, 2, 3] else { exit(3) }
        try file.sync()
      }
      if way == "program" { guard Shell.run("fusermount3 -u \(mounted.place.path)").status == 0 else { exit(4) } }
      let outcome = mounted.end()
      guard outcome == FuseOutcome(), mounted.disk.requestCounts.flushes == 2 else { exit(5) }
      exit(0)
    }
  }

  @Test("a busy mount goes away when its user does", .enabled(if: canChangeUser))
  func busy() async {
    await #expect(processExitsWith: .success) {
      try OrdinaryUserTests.becomeNobody()
      let mounted = try MountedDisk(MemoryDisk(geometry: BlockGeometry(sectorCount: 8192)))
      let file = try OpenFile(mounted.path)
      mounted.mount.requestStop()
      let waiter = TestThread { mounted.mount.waitUntilUnmounted() }
      while SystemView.mounts().contains(mounted.place.path) { usleep(1000) }
      try file.write([1], at: 0)
      _ = consume file
      guard try waiter.value() == FuseOutcome(wasBusy: true) else { exit(2) }
      mounted.place.remove()
      exit(0)
    }
  }

  @Test("is told what forbids the mount", .enabled(if: canChangeUser))
  func refusals() async {
    await #expect(processExitsWith: .success) {
      try OrdinaryUserTests.becomeNobody()
      let disk = try MemoryDisk(geometry: BlockGeometry(sectorCount: 8192))
      do {
        _ = try FuseMount.mount(device: disk, options: FuseOptions(mountPoint: "/root"))
        exit(2)
      } catch FuseError.mountPointForbidden {
      }
      let place = try TemporaryPlace(.directory)
      var options = FuseOptions(mountPoint: place.path)
      options.allowsOtherUsers = true
      do {
        _ = try FuseMount.mount(device: disk, options: options)
        exit(3)
      } catch FuseError.mountFailed(_, let reason) {
        guard reason.contains("user_allow_other") else { exit(4) }
      }
      exit(0)
    }
  }
}
