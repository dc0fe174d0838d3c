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

@Suite("Coming and going many times", .serialized)
struct CycleTests {
  /// 500, or 10 000 when `PVDISK_MATRIX` is set (`make matrix`).
  static let isWhole = unsafe getenv("PVDISK_MATRIX") != nil
  static let cycles = isWhole ? 10_000 : 500
  /// Events of the storm.
  static let stormEvents = isWhole ? 10_000 : 60

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
    let held = Self.held()
    for number in 0..<Self.cycles {
      try cycle(machine, image, number)
      guard machine.ledger == before else {
        Issue.record("cycle \(number) left \(machine.ledger) of \(before)")
        return
      }
    }
    #expect(try self.nodes(machine) == nodes)
    if Self.isWhole {
      try expectNothingHeld(since: held)
    }
  }

  /// Compares descriptors and threads with those of before the first disk.
  ///
  /// A virtual CPU that was brought up stays up, with a descriptor of its own at each end, as a guest's does: the first cycle with two
  /// queues brings up a second one at either end.
  func expectNothingHeld(since held: [Int]) throws {
    // A backend's thread says that it has let go just before it ends.
    for _ in 0..<300 where Self.held()[1] > held[1] { usleep(10_000) }
    let now = Self.held()
    #expect(now[0] == held[0] + 2, "descriptors")
    // The runner's own threads may have ended meanwhile.
    #expect(now[1] <= held[1], "threads")
  }

  /// Bytes of shared mappings: of the domains' memory, of rings, of foreign pages.
  static func sharedBytes() -> Int {
    guard let file = unsafe fopen("/proc/self/maps", "re") else { return -1 }
    defer { unsafe fclose(file) }
    var text: [UInt8] = []
    var chunk = [UInt8](repeating: 0, count: 65536)
    while true {
      let count = unsafe fread(&chunk, 1, chunk.count, file)
      if count == 0 { break }
      text += chunk[..<count]
    }
    var total = 0
    for line in String(decoding: text, as: UTF8.self).split(separator: "\n") {
      let words = line.split(separator: " ", maxSplits: 2)
      guard words.count == 3, words[1].hasSuffix("s") else { continue }
      let ends = words[0].split(separator: "-").compactMap { Int($0, radix: 16) }
      if ends.count == 2 { total += ends[1] - ends[0] }
    }
    return total
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

  @Test("suspending, replacing, growing, closing and vanishing under I/O loses nothing and leaves nothing behind")
  func storm() throws {
    let seed = Self.seed
    let machine = try Machine()
    let before = machine.ledger
    // The first disk leaves a domain with folders, and virtual CPUs that are up.
    try LifeStorm(machine, seed: seed).end(.detach)
    for _ in 0..<200 where machine.store.statistics.connections > 1 { usleep(10_000) }
    let statistics = machine.store.statistics
    let held = Self.held(), mapped = Self.sharedBytes()
    var events = 0
    var life: UInt64 = 0
    var met: [LifeStorm.Event: Int] = [:]
    var story: [String] = []
    while events < Self.stormEvents {
      life += 1
      var random = SeededGenerator(seed: seed &+ life)
      do {
        var storm = try LifeStorm(machine, seed: random.next())
        story = ["\(storm.disk.queueCount) queues", "\(storm.disk.configuration.placement)"]
        while Int.random(in: 0..<6, using: &random) > 0 {
          guard let event = LifeStorm.Event.allCases.randomElement(using: &random) else { break }
          story.append(event.rawValue)
          try storm.meet(event)
          met[event, default: 0] += 1
          events += 1
        }
        let departure = LifeStorm.Departure.allCases.randomElement(using: &random) ?? .detach
        story.append(departure.rawValue)
        try storm.end(departure)
        events += 1
      } catch {
        Issue.record("life \(life) of seed \(seed), after \(events) events: \(error): \(story)")
        return
      }
      guard machine.ledger == before else {
        Issue.record("life \(life) of seed \(seed) left \(machine.ledger) of \(before): \(story)")
        return
      }
      // The control thread may still hold the last handles.
      for _ in 0..<200 where machine.store.statistics != statistics { usleep(10_000) }
      let now = machine.store.statistics
      guard now == statistics else {
        Issue.record("life \(life) of seed \(seed) left \(now) of \(statistics) in the store: \(story)")
        return
      }
    }
    #expect(machine.store.check() == [])
    if Self.isWhole {
      #expect(met.count == LifeStorm.Event.allCases.count, "\(met)")
      try expectNothingHeld(since: held)
      #expect(Self.sharedBytes() == mapped, "bytes of shared mappings")
      print("storm: seed \(seed), \(events) events in \(life) lives: \(met.map { "\($0.key) \($0.value)" }.sorted())")
    }
  }

  /// Of the storm: `PVDISK_SEED`'s, or another each time.
  static let seed: UInt64 = {
    guard let text = unsafe getenv("PVDISK_SEED"), let seed = UInt64(unsafe String(cString: text)) else {
      return UInt64.random(in: 1 ... .max / 2)
    }
    return seed
  }()

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
