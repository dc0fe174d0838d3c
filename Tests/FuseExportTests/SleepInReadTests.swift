// SPDX-License-Identifier: MIT

import BlockIO
import CLinux
import FuseExport
import Glibc
import PVTestSupport
import Testing

@Suite("Sleeping in read(2)")
struct SleepInReadTests {
  private func mounted() throws -> (BellDisk, FuseMount<BellDisk>, TemporaryPlace) {
    let disk = try BellDisk()
    let place = try TemporaryPlace(.directory)
    var options = FuseOptions(mountPoint: place.path)
    options.transport = .device
    let mount = try FuseMount.mount(device: disk, options: options)
    try mount.start()
    return (disk, mount, place)
  }

  /// Ends a mount by `urgency` within ten seconds; what does not is ended from outside, and told.
  private func end(_ mount: FuseMount<BellDisk>, _ place: TemporaryPlace, _ urgency: StopUrgency) throws {
    mount.requestStop(urgency)
    let isOver = ResultSlot<Bool>()
    let waiter = TestThread {
      let outcome = mount.waitUntilUnmounted()
      isOver.set(.success(true))
      return outcome
    }
    for _ in 0..<10_000 where (try? isOver.take()) == nil { usleep(1000) }
    if (try? isOver.take()) == nil {
      Issue.record("the stop was not heard")
      // SAFETY: a terminated path.
      unsafe _ = umount2(place.path, CInt(MNT_FORCE | MNT_DETACH))
    }
    #expect(try waiter.value().flushError == nil)
    place.remove()
  }

  private func read(_ count: Int, of path: String) throws {
    let file = try OpenFile(path, O_RDONLY)
    for block in 0..<count { _ = try file.read(4096, at: block % 1000 * 4096) }
  }

  @Test("requests that come one at a time are slept for in read(2)")
  func lone() throws {
    let (_, mount, place) = try mounted()
    try read(20, of: mount.filePath)
    let before = mount.statistics
    try read(500, of: mount.filePath)
    let after = mount.statistics
    let sleeps = after.sleepsInRead - before.sleepsInRead
    // Nearly all, unless the machine has so much to do that the next request is there before the reactor sleeps.
    #expect(sleeps > 200)
    // A sleep brings its request along: no further call fetches it, but for a look now and then. Other requests take a call to
    // fetch them and one in vain.
    #expect(sleeps + (after.receiveCalls - before.receiveCalls) < 1100)
    try end(mount, place, .orderly)
  }

  @Test("the device reaches a reactor that sleeps in read(2), again and again")
  func device() throws {
    let (disk, mount, place) = try mounted()
    for round in 0..<5 {
      let before = mount.statistics.sleepsInRead
      try read(40, of: mount.filePath)
      #expect(mount.statistics.sleepsInRead > before, "round \(round)")
      for bell in 0..<2 { #expect(disk.ring(), "round \(round), bell \(bell)") }
    }
    try end(mount, place, .orderly)
  }

  @Test("a stop reaches a reactor that sleeps in read(2)")
  func stop() throws {
    let (_, mount, place) = try mounted()
    try read(40, of: mount.filePath)
    try end(mount, place, .immediate)
  }

  @Test("a stop that finds the reactor awake is seen before it sleeps again")
  func stopWhileAwake() throws {
    for round in 0..<12 {
      let (_, mount, place) = try mounted()
      let path = mount.filePath
      try read(40, of: path)
      let reader = TestThread {
        // One that comes too late to open it reads nothing.
        guard let file = try? OpenFile(path, O_RDONLY) else { return 0 }
        var count = 0
        while (try? file.read(4096, at: 0)) != nil { count += 1 }
        return count
      }
      usleep(useconds_t(500 + round * 137))
      try end(mount, place, .immediate)
      _ = try reader.value()
    }
  }

  @Test("a bell that rings all the time loses no request")
  func storm() throws {
    let (disk, mount, place) = try mounted()
    let path = mount.filePath
    let reader = TestThread { try self.read(2000, of: path) }
    for _ in 0..<300 {
      eventfd_write(disk.bell, 1)
      usleep(300)
    }
    try reader.value()
    #expect(disk.ring())
    try end(mount, place, .orderly)
  }
}
