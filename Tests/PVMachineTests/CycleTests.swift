// SPDX-License-Identifier: MIT

import BlockBack
import BlockIO
import Glibc
import PVMachine
import PVTestSupport
import Testing
import XenHypervisor
import XenStore
import XenWire

@Suite("Coming and going many times")
struct CycleTests {
  /// 500, or 10 000 when `PVDISK_MATRIX` is set (`make matrix`).
  static let isWhole = unsafe getenv("PVDISK_MATRIX") != nil
  static let cycles = isWhole ? 10_000 : 500

  /// What the process holds: descriptors, and threads.
  ///
  /// Counted in the long run alone, in which no other test runs beside.
  static func held() -> [Int] { ["/proc/self/fd", "/proc/self/task"].map { entries($0) } }

  private static func entries(_ path: String) -> Int {
    guard let directory = unsafe opendir(path) else { return -1 }
    defer { unsafe closedir(directory) }
    var count = 0
    while unsafe readdir(directory) != nil { count += 1 }
    return count
  }

  @Test("connecting and disconnecting leaves every counter at its start")
  func cycles() throws {
    let image = try lateDisk(byteCount: 1 << 20, seed: 5)
    let machine = try Machine()
    let before = machine.ledger
    let nodes = try nodes(machine)
    // A virtual CPU that was brought up stays up, with a descriptor of its own at each end, as a guest's does: the first
    // cycle with two queues brings up a second one at either end. Everything else is counted from before the first disk.
    let held = Self.held()
    let ofCPUs = 2
    for number in 0..<Self.cycles {
      try cycle(machine, image, number)
      guard machine.ledger == before else {
        Issue.record("cycle \(number) left \(machine.ledger) of \(before)")
        return
      }
    }
    #expect(try self.nodes(machine) == nodes)
    if Self.isWhole {
      // A backend's thread says that it has let go just before it ends.
      for _ in 0..<300 where Self.held()[1] > held[1] { usleep(10_000) }
      let now = Self.held()
      #expect(now[0] == held[0] + ofCPUs, "descriptors")
      // The runner's own threads may have ended meanwhile.
      #expect(now[1] <= held[1], "threads")
    }
  }

  /// Attaches, reads a little, sometimes loses the backend in between, and detaches.
  func cycle(_ machine: Machine, _ image: MemoryDisk, _ number: Int) throws {
    var configuration = DiskConfiguration()
    configuration.queues = 1 + number % 2
    configuration.ringPages = 1 << (number % 3)
    configuration.placement = number % 4 == 3 ? .threads : .inline
    configuration.frontPersistent = number % 5 != 0
    configuration.spinNanoseconds = 0
    let disk = try machine.attach(image, as: configuration)
    do {
      var driver = QueueDriver(try disk.makeQueue(0, buffers: BufferDemand(count: 1, byteCount: 4096)))
      let memory = try ScatteredMemory(byteCount: 8192)
      #expect(driver.run(at: 4096 * (number % 100), 8192, .read, memory) == 0)
      if number % 10 == 9 {
        disk.replaceBackend()
        #expect(driver.run(at: 0, 8192, .write, memory) == 0)
      }
    }
    #expect(disk.detach() == 0)
  }

  /// Every node in the store.
  func nodes(_ machine: Machine) throws -> Int {
    var count = 0
    var stack: [StorePath] = [try #require(StorePath("/"))]
    while let path = stack.popLast() {
      count += 1
      for name in try machine.toolstack.directory(path) { stack.append(path / name) }
    }
    return count
  }
}
