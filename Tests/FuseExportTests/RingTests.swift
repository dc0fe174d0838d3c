// SPDX-License-Identifier: MIT

import BlockIO
import Glibc
import GuestMemory
import PVTestSupport
import Testing

@testable import FuseExport

@Suite("FUSE over io_uring")
struct RingTests {
  static let isOffered = Transports.available.contains(.ring)

  @Test("each of the kernel's queues has one reactor, and each reactor's share of slots is divided among its queues")
  func queues() {
    for count in 1...9 {
      for reactors in 1...9 {
        var served: [UInt16] = []
        for reactor in 0..<reactors {
          let queues = KernelQueues(
            count: count, reactorCount: reactors, reactor: reactor, slotCount: 16, payloadCapacity: 4096)
          #expect(queues.entryCount <= max(16, queues.queueCount))
          let entries = (0..<queues.entryCount).map(queues.queue)
          #expect(entries.allSatisfy { Int($0) % reactors == reactor })
          for queue in Set(entries) { #expect(entries.count { $0 == queue } == queues.depth) }
          served += Set(entries)
        }
        #expect(served.sorted() == (0..<UInt16(count)).map { $0 }, "\(count) queues, \(reactors) reactors")
      }
    }
    let few = KernelQueues(count: 8, reactorCount: 2, reactor: 1, slotCount: 1, payloadCapacity: 4096)
    #expect(few.depth == 1 && few.entryCount == 4, "no queue is without an entry")
  }

  @Test(
    "a list of CPUs is counted",
    arguments: [("0-1\n", 2), ("0", 1), ("0-3,8,10-11\n", 7), ("", nil), ("x", nil), ("3-1", nil)])
  func list(_ text: String, _ count: Int?) {
    #expect(RingSupport.count(ofList: text) == count)
  }

  @Test("a kernel that does not offer it is named, with the way to switch it on", .enabled(if: !isOffered))
  func refused() throws {
    let disk = try MountTests.smallDisk()
    do {
      _ = try MountedDisk(disk) { $0.transport = .ring }
      Issue.record("the mount was not refused")
    } catch FuseError.ringUnavailable(let reason) {
      #expect(reason.contains("enable_uring") || reason.contains("Linux 6.14"))
    }
    try MountedDisk(disk) { $0.transport = .automatic }.end()
  }

  @Test("answers go out with the call that fetches requests, and not over /dev/fuse", .enabled(if: isOffered))
  func inUse() throws {
    for transport in [FuseTransportChoice.ring, .automatic] {
      let mounted = try MountedDisk(MountTests.smallDisk()) { $0.transport = transport }
      do {
        let file = try OpenFile(mounted.path)
        for value in UInt8(1)...100 {
          try file.write(Array(repeating: value, count: 512), at: Int(value) * 512)
          #expect(try file.read(512, at: Int(value) * 512) == Array(repeating: value, count: 512))
        }
      }
      let statistics = mounted.mount.statistics
      #expect(statistics.reads == 100 && statistics.writes == 100)
      #expect(statistics.answerCalls == 0)
      mounted.end()
    }
  }

  @Test("a ring that cannot be made leaves /dev/fuse, unless it was asked for", .enabled(if: isOffered))
  func shortage() async {
    await #expect(processExitsWith: .success) {
      let place = try TemporaryPlace(.directory)
      var options = FuseOptions(mountPoint: place.path)
      options.depth = 100_000
      options.transport = .ring
      do {
        _ = try FuseMount.mount(device: MountTests.smallDisk(), options: options).start()
        exit(2)
      } catch FuseError.ringUnavailable {
      }
      guard !SystemView.mounts().contains(place.path) else { exit(3) }
      place.remove()
      exit(0)
    }
  }

  @Test("who asks while the mount comes up is answered", .enabled(if: isOffered), arguments: [1, 2])
  func early(_ reactors: Int) throws {
    for _ in 0..<40 {
      let place = try TemporaryPlace(.directory)
      var options = FuseOptions(mountPoint: place.path)
      options.transport = .ring
      options.reactorCount = reactors
      let mount = try FuseMount.mount(device: MountTests.smallDisk(), options: options)
      let path = mount.filePath
      let askers = (0..<4).map { _ in TestThread { try statusOf(path).st_size } }
      try mount.start()
      for asker in askers { #expect(try asker.value() == 2048 * 512) }
      mount.requestStop()
      #expect(mount.waitUntilUnmounted() == FuseOutcome())
      place.remove()
    }
  }

  @Test("many readers and writers on every CPU read what was written", .enabled(if: isOffered))
  func crowd() throws {
    let geometry = BlockGeometry(sectorCount: 16384)
    var behaviour = MemoryDisk.Behaviour()
    behaviour.asynchronySeed = 5
    for reactors in [1, 2] {
      let mounted = try MountedDisk(MemoryDisk(geometry: geometry, behaviour: behaviour)) {
        $0.transport = .ring
        $0.depth = 3
        $0.reactorCount = reactors
      }
      let path = mounted.path
      let users = (0..<8).map { index in
        TestThread {
          let file = try OpenFile(path)
          var generator = SeededGenerator(seed: UInt64(index))
          var wrong = 0
          for _ in 0..<60 {
            let place = index * 1_000_000 + Int.random(in: 0..<200_000, using: &generator)
            let bytes = randomBytes(Int.random(in: 1...150_000, using: &generator), &generator)
            if try file.write(bytes, at: place) != bytes.count { wrong += 1 }
            if try file.read(bytes.count, at: place) != bytes { wrong += 1 }
          }
          return wrong
        }
      }
      for user in users { #expect(try user.value() == 0) }
      mounted.end()
      #expect(mounted.disk.requestCounts.violations == 0)
    }
  }
}

@Suite("Where a ring's reactor runs")
struct RingPaceTests {
  @Test("requests that come together let it leave its CPU, and looks in vain send it home")
  func moves() {
    // On a thread of its own, whose place nobody else minds.
    let thread = TestThread {
      var pace = RingPace(homeCPU: 0)
      guard pace.homeCPU != nil else { return }
      for _ in 0..<1000 {
        pace.taken = 1
        let looks = pace.shouldLook()
        #expect(!looks && !pace.isAway)
      }
      for _ in 0..<RingPace.patience {
        pace.taken = 3
        _ = pace.shouldLook()
      }
      #expect(pace.isAway)
      for _ in 0..<100 {
        let looks = pace.shouldLook()
        let pays = pace.look { true }
        #expect(looks && pays)
      }
      var looks = 0
      while pace.shouldLook() {
        let pays = pace.look { false }
        #expect(!pays)
        looks += 1
      }
      #expect(!pace.isAway)
      #expect(looks == RingPace.patience / RingPace.vainWeight)
      // It was not worth it: the next time it waits four times as long.
      for round in 1...RingPace.patience * 4 {
        pace.taken = 3
        _ = pace.shouldLook()
        #expect(pace.isAway == (round == RingPace.patience * 4))
      }
    }
    try? thread.value()
  }

  @Test("a reactor without a home stays where it is put")
  func homeless() {
    var pace = RingPace(homeCPU: nil)
    for _ in 0..<1000 {
      pace.taken = 9
      let looks = pace.shouldLook()
      #expect(!looks)
    }
    #expect(!pace.isAway)
  }
}
