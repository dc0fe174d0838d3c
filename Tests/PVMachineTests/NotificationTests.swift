// SPDX-License-Identifier: MIT

import BlockBack
import BlockFront
import BlockIO
import DiskImages
import GuestMemory
import PVMachine
import PVTestSupport
import SharedRing
import Testing
import XenBus
import XenHypervisor
import XenWire

@Suite("Notification policies through the whole stack")
struct NotificationTests {
  static let pairs: [(NotificationPolicy, NotificationPolicy)] = NotificationPolicy.allCases.flatMap { front in
    NotificationPolicy.allCases.map { (front, $0) }
  }

  /// Which policy at which end, where.
  static let ways: [Way] = pairs.flatMap { front, back in
    Placement.allCases.map { placement in
      Way("front \(front.rawValue), back \(back.rawValue), \(placement.rawValue)") {
        $0.frontNotify = front
        $0.backNotify = back
        $0.placement = placement
        if placement == .threads { $0.rings.variant = .slim32 }
      }
    }
  }

  @Test("any policy at either end loses no wake-up and no byte", arguments: ways)
  func data(way: Way) throws {
    try StackDataTests().exercise(way.configuration, mapping: .alias, rounds: 80)
  }

  @Test("and sleeps as soon as it may, without looking around first", arguments: pairs)
  func sleepy(front: NotificationPolicy, back: NotificationPolicy) throws {
    var configuration = DiskConfiguration()
    configuration.frontNotify = front
    configuration.backNotify = back
    configuration.placement = .threads
    configuration.spinNanoseconds = 0
    configuration.rings.isSplit = true
    try StackDataTests().exercise(configuration, mapping: .alias, rounds: 60)
  }

  /// Reads one at a time, with a wait after each; answers what both ends counted.
  func count(
    _ front: NotificationPolicy, _ back: NotificationPolicy, requests: Int = 200
  ) throws -> (front: UInt64, back: UInt64) {
    var configuration = DiskConfiguration()
    configuration.frontNotify = front
    configuration.backNotify = back
    let disk = try Machine().attach(NullImage(sectorCount: 8192), as: configuration)
    do {
      var driver = QueueDriver(try disk.makeQueue(0, buffers: BufferDemand(count: 1, byteCount: 4096)))
      let memory = ExtentArray([driver.queue.buffer(0)])
      for tag in 0..<UInt64(requests) {
        _ = driver.queue.submit(
          IORequest(tag: tag, operation: .read, sectors: SectorRange(start: 0, count: 8), memory: memory.list))
        #expect(driver.nextCompletion()?.tag == tag)
        // What a user does who has nothing to do: both ends are armed.
        for _ in 0..<4 where driver.queue.prepareToWait() == .workPending { driver.queue.advance() }
      }
      withExtendedLifetime(memory) {}
    }
    let counters = disk.counters[0]
    disk.detach()
    return (
      counters.front[FrontCounter.notifications.rawValue], counters.back[QueueCounter.notifications.rawValue]
    )
  }

  @Test("an end that polls is sent nothing: one request at a time, both ends on one thread")
  func savings() throws {
    let holdOff = try count(.holdOff, .holdOff)
    #expect(holdOff.front == 200 && holdOff.back == 200, "hold-off: each end is woken for each request")
    let both = try count(.poll, .poll)
    #expect(both.front <= 1 && both.back <= 1, "only the events of the fresh ring may be passed")
    let back = try count(.holdOff, .poll)
    #expect(back.front <= 1 && back.back == 200)
    let front = try count(.poll, .holdOff)
    #expect(front.front == 200 && front.back <= 1)
  }

  @Test("policies allocate nothing either", arguments: NotificationPolicy.allCases)
  func allocations(policy: NotificationPolicy) throws {
    var configuration = DiskConfiguration()
    configuration.frontNotify = policy
    configuration.backNotify = policy
    let disk = try Machine().attach(NullImage(sectorCount: 8192), as: configuration)
    try StackAllocationTests().check(disk, byteCount: 4096, requests: 2000)
  }
}
