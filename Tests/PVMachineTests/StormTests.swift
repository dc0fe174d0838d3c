// SPDX-License-Identifier: MIT

import BlockBack
import BlockFront
import BlockIO
import Glibc
import PVMachine
import PVTestSupport
import SharedRing
import Synchronization
import Testing
import XenBus
import XenHypervisor
import XenStore
import XenWire

/// What one disk's frontend does in a storm is felt by its own backend alone; counted, not timed.
@Suite("Storms by a hostile domain")
struct StormTests {
  /// Says when a storm is to end, and how much of it there was.
  final class Storm: Sendable {
    private let isOver = Atomic(false)
    private let count = Atomic(0)

    var strength: Int { count.load(ordering: .relaxed) }

    func blow(_ body: @escaping @Sendable (Int) -> Void) -> PeerThread {
      PeerThread {
        while !self.isOver.load(ordering: .relaxed) {
          body(self.count.add(1, ordering: .relaxed).oldValue)
        }
      }
    }

    func end(_ thread: PeerThread) {
      isOver.store(true, ordering: .relaxed)
      thread.join()
    }
  }

  func attach(_ machine: Machine, _ device: String, faults: RingFaults = RingFaults()) throws -> AttachedDisk<
    MemoryDisk
  > {
    var configuration = DiskConfiguration()
    configuration.device = device
    configuration.placement = .threads
    configuration.spinNanoseconds = 0
    let disk = try machine.attach(MemoryDisk(geometry: BlockGeometry(sectorCount: 2048)), as: configuration)
    disk.backend.plant(faults)
    return disk
  }

  /// Reads and writes on the victim, all of which must come out right.
  func use(_ driver: inout QueueDriver<StackQueue<MemoryDiskQueue>>, requests: Int) throws {
    let memory = try ScatteredMemory(byteCount: 4096)
    for index in 0..<requests {
      let byte = UInt8(truncatingIfNeeded: index)
      memory.bytes = Array(repeating: byte, count: 4096)
      try #require(driver.run(at: index % 200 * 4096, 4096, .write, memory) == 0)
      memory.bytes = Array(repeating: 0, count: 4096)
      try #require(driver.run(at: index % 200 * 4096, 4096, .read, memory) == 0)
      try #require(memory.bytes.first == byte && memory.bytes.last == byte)
    }
  }

  /// Wake-ups of all virtual CPUs where backends run.
  func wakeUps(_ machine: Machine) -> Int { machine.control.virtualCPUs.reduce(0) { $0 + Int($1.kicksSent) } }

  @Test("XSA-332: events without work wake their backend ever more seldom, and another disk is served")
  func events() throws {
    /// How often the attacked backend was woken beyond what a second of good behaviour may cost, at most `enough` times.
    func excess(_ faults: RingFaults, enough: Int) throws -> Int {
      let machine = try Machine()
      let attacker = try attach(machine, "xvda", faults: faults), victim = try attach(machine, "xvdb")
      defer {
        attacker.detach()
        victim.detach()
      }
      let attackers = QueueDriver(try attacker.makeQueue(0, buffers: BufferDemand(count: 1, byteCount: 4096)))
      var victims = QueueDriver(try victim.makeQueue(0, buffers: BufferDemand(count: 1, byteCount: 4096)))
      let port = try #require(attacker.frontend.connection(ofQueue: 0)?.port)
      let channels = machine.guest.eventChannels
      let storm = Storm()
      let before = wakeUps(machine)
      let start = time(nil)
      let thread = storm.blow { _ in channels.notify(port) }
      try use(&victims, requests: 100)
      let quiet = wakeUps(machine) - before
      // The penalties double up to a second: what a storm may cost grows with the seconds, not with the events.
      var found = 0
      while time(nil) - start < 20, storm.strength < 2_000_000 || time(nil) - start < 2 {
        usleep(10_000)
        found = wakeUps(machine) - before - quiet - 20 - 2 * (time(nil) - start)
        if found > enough { break }
      }
      try use(&victims, requests: 20)
      storm.end(thread)
      _ = consume attackers
      _ = consume victims
      return found
    }
    #expect(try excess(RingFaults(), enough: .max - 1) <= 0, "a storm is held back")
    if RingFaults.canBePlanted {
      #expect(try excess(RingFaults(.stormsAreFree), enough: 100) > 100, "the planted bug is noticed")
    }
  }

  @Test("XSA-349: state changes without end leave one event waiting, and another disk is served")
  func states() throws {
    let machine = try Machine()
    let victim = try attach(machine, "xvdb")
    var victims = QueueDriver(try victim.makeQueue(0, buffers: BufferDemand(count: 1, byteCount: 4096)))
    let hostile = machine.store.connect(as: machine.guest.id)
    // A backend that nobody runs: its watch is set, its events are not taken.
    let idle = machine.store.connect(as: .control)
    let folder = victim.definition.frontendPath
    try idle.watch(folder / "mine", token: "state")
    try hostile.write(folder / "mine", "0")
    let storm = Storm()
    let thread = storm.blow { index in try? hostile.write(folder / "mine", "\(index % 9)") }
    try use(&victims, requests: 50)
    while storm.strength < 20_000 { usleep(1000) }
    storm.end(thread)
    #expect(machine.store.statistics.waitingEvents <= 2)
    #expect(machine.store.check() == [])
    _ = consume victims
    victim.detach()
  }

  @Test("a guest that watches, unwatches and opens transactions in a loop keeps nobody from attaching a disk")
  func watches() throws {
    let machine = try Machine()
    let hostile = machine.store.connect(as: machine.guest.id)
    let storm = Storm()
    let thread = storm.blow { index in
      try? hostile.watch("device", token: "\(index % 200)")
      if index % 7 == 0 { try? hostile.unwatch("device", token: "\(index % 200)") }
      if let transaction = try? hostile.startTransaction() {
        _ = try? hostile.directory("device", in: transaction)
        try? hostile.endTransaction(transaction, commit: index % 2 == 0)
      }
    }
    let before = machine.ledger
    for _ in 0..<5 {
      let disk = try attach(machine, "xvdb")
      var driver = QueueDriver(try disk.makeQueue(0, buffers: BufferDemand(count: 1, byteCount: 4096)))
      try use(&driver, requests: 10)
      _ = consume driver
      #expect(disk.detach() == 0)
    }
    while storm.strength < 2000 { usleep(1000) }
    storm.end(thread)
    #expect(machine.ledger == before)
    #expect(machine.store.usage(of: .watches, by: machine.guest.id) <= 256)
  }
}
