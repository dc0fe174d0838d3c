// SPDX-License-Identifier: MIT

import BlockIO
import CLinux
import FuseExport
import Glibc
import GuestMemory
import PVTestSupport
import Testing

@Suite("Unmounting")
struct UnmountTests {
  static func mounted(
    _ transport: FuseTransportChoice, asynchronySeed: UInt64? = nil, shape: TemporaryPlace.Shape = .directory
  ) throws -> MountedDisk {
    var behaviour = MemoryDisk.Behaviour()
    behaviour.asynchronySeed = asynchronySeed
    return try MountedDisk(
      MemoryDisk(geometry: BlockGeometry(sectorCount: 8192), behaviour: behaviour), shape: shape,
      options: { $0.transport = transport })
  }

  @Test(
    "fusermount3 -u ends the mount, and the disk is flushed",
    arguments: [TemporaryPlace.Shape.directory, .file], Transports.available)
  func byProgram(_ shape: TemporaryPlace.Shape, _ transport: FuseTransportChoice) throws {
    let mounted = try Self.mounted(transport, shape: shape)
    try OpenFile(mounted.path).write([1], at: 5)
    let unmounted = Shell.run("fusermount3 -u '\(mounted.place.path)'")
    #expect(unmounted.status == 0, "\(unmounted.output)")
    #expect(mounted.mount.waitUntilUnmounted() == FuseOutcome())
    #expect(mounted.disk.requestCounts.flushes == 1)
    mounted.place.remove()
  }

  @Test("a stop asked for before or while somebody waits ends the mount", arguments: Transports.available)
  func byRequest(_ transport: FuseTransportChoice) throws {
    for early in [true, false] {
      let mounted = try Self.mounted(transport)
      if early { mounted.mount.requestStop() }
      let waiter = TestThread { mounted.mount.waitUntilUnmounted() }
      if !early { mounted.mount.requestStop() }
      #expect(try waiter.value() == FuseOutcome())
      #expect(!SystemView.mounts().contains(mounted.place.path))
      mounted.place.remove()
    }
  }

  @Test("who has the disk open when a stop is asked for may finish", arguments: Transports.available)
  func busy(_ transport: FuseTransportChoice) throws {
    let mounted = try Self.mounted(transport, asynchronySeed: 3)
    let file = try OpenFile(mounted.path)
    mounted.mount.requestStop()
    let waiter = TestThread { mounted.mount.waitUntilUnmounted() }
    while SystemView.mounts().contains(mounted.place.path) { usleep(1000) }
    try file.write(Array(repeating: 6, count: 5000), at: 1000)
    try file.sync()
    #expect(try file.read(5000, at: 1000) == Array(repeating: 6, count: 5000))
    _ = consume file
    #expect(try waiter.value() == FuseOutcome(wasBusy: true))
    mounted.place.remove()
  }

  @Test("a second, immediate stop ends a mount that stays busy", arguments: Transports.available)
  func busyThenImmediate(_ transport: FuseTransportChoice) throws {
    let mounted = try Self.mounted(transport)
    let file = try OpenFile(mounted.path)
    try file.write([1], at: 0)
    mounted.mount.requestStop()
    let waiter = TestThread { mounted.mount.waitUntilUnmounted() }
    while SystemView.mounts().contains(mounted.place.path) { usleep(1000) }
    mounted.mount.requestStop(.immediate)
    #expect(try waiter.value() == FuseOutcome(wasBusy: true))
    #expect(mounted.disk.requestCounts.flushes == 1)
    let code = #expect(throws: SystemError.self) { _ = try file.read(10, at: 0) }?.code
    #expect([ENOTCONN, ECONNABORTED, ECANCELED].contains(code))
    mounted.place.remove()
  }

  @Test(
    "an immediate stop under load answers every writer, and no acknowledged byte is lost",
    arguments: [nil, 99], Transports.available)
  func immediateUnderLoad(_ seed: UInt64?, _ transport: FuseTransportChoice) throws {
    let mounted = try Self.mounted(transport, asynchronySeed: seed)
    let path = mounted.path
    let writers = (0..<4).map { index in
      TestThread { () throws -> UInt8 in
        // One that comes too late to open it has nothing to lose.
        guard let file = try? OpenFile(path) else { return 0 }
        var acknowledged: UInt8 = 0
        for value in UInt8(1)...255 {
          guard (try? file.write(Array(repeating: value, count: 3000), at: index * 100_000 + 7)) == 3000 else { break }
          acknowledged = value
          usleep(100)
        }
        return acknowledged
      }
    }
    while mounted.mount.statistics.writes < 20 { usleep(500) }
    mounted.mount.requestStop(.immediate)
    #expect(mounted.mount.waitUntilUnmounted().flushError == nil)
    for (index, writer) in writers.enumerated() {
      let acknowledged = try writer.value()
      let found = mounted.disk.contents.load(UInt8.self, at: index * 100_000 + 7)
      // The write after the last acknowledged one may have reached the disk or not.
      #expect(found == acknowledged || found == acknowledged &+ 1)
    }
    mounted.place.remove()
  }

  @Test(
    "a connection that the administrator aborts ends the mount", .enabled(if: geteuid() == 0),
    arguments: Transports.available)
  func abort(_ transport: FuseTransportChoice) throws {
    let mounted = try Self.mounted(transport)
    let file = try OpenFile(mounted.path)
    let device = try file.status().st_dev
    let number = pv_minor(UInt64(device))
    let control = "\(mounted.place.root)/control"
    let aborted = Shell.run(
      "mkdir \(control) && mount -t fusectl none \(control) && echo 1 > \(control)/\(number)/abort")
    _ = Shell.run("umount \(control); rmdir \(control)")
    #expect(aborted.status == 0, "\(aborted.output)")
    #expect(mounted.mount.waitUntilUnmounted().flushError == nil)
    #expect(throws: SystemError.self) { _ = try file.read(10, at: 0) }
    _ = consume file
    #expect(!SystemView.mounts().contains(mounted.place.path))
    mounted.place.remove()
  }
}
