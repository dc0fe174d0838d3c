// SPDX-License-Identifier: MIT

// What a disk feels of a storm that a hostile domain makes beside it: `storm-benchmark [seconds a turn] [rounds] [events a second]`.
//
// Both disks are in one machine, each with a backend's thread of its own. The victim reads and writes 4 KiB of a disk in memory, one
// request at a time, beside nothing, beside a thread that only counts (what the loss of a processor costs), and beside each kind of storm,
// by turns. The printed figures are medians over the rounds.
// Exit status 5 when the 99th percentile beside a storm of events is above three times that beside nothing.

import BlockFront
import BlockIO
import CLinux
import Glibc
import PVMachine
import PVTestSupport
import Synchronization
import XenBus
import XenHypervisor
import XenStore
import XenWire

let words = CommandLine.arguments.dropFirst().map { Double($0) ?? 0 }
let seconds = words.first ?? 1
let rounds = Int(words.dropFirst().first ?? 9)
let eventsPerSecond = words.dropFirst(2).first ?? 1_000_000

/// What goes on beside the victim.
enum Weather: String, CaseIterable {
  case calm, counting, events, states, watches
}

/// What a turn found.
struct Turn {
  var requestsPerSecond = 0.0
  var median = 0.0
  var late = 0.0
  var stormPerSecond = 0.0
}

/// A hostile thread: `body` without end, at most so many times a second.
final class Storm: Sendable {
  private let isOver = Atomic(false)
  private let count = Atomic(0)
  var strength: Int { count.load(ordering: .relaxed) }

  func blow(perSecond rate: Double, _ body: @escaping @Sendable (Int) -> Void) -> PeerThread {
    PeerThread { [self] in
      let start = pv_monotonic_nanoseconds()
      var done = 0
      while !isOver.load(ordering: .relaxed) {
        for _ in 0..<64 {
          body(done)
          done += 1
        }
        count.store(done, ordering: .relaxed)
        // Ahead of its rate, it sleeps as a guest that wants to be there all the time would not; 0 is without a limit.
        while rate > 0, Double(done) > Double(pv_monotonic_nanoseconds() - start) / 1e9 * rate,
          !isOver.load(ordering: .relaxed)
        { pv_cpu_relax() }
      }
    }
  }

  func end(_ thread: PeerThread) {
    isOver.store(true, ordering: .relaxed)
    thread.join()
  }
}

/// A machine with a victim's disk and an attacker's.
struct Scene: ~Copyable {
  typealias Disk = AttachedDisk<MemoryDisk>

  let machine: Machine
  let victim: Disk, attacker: Disk
  var driver: QueueDriver<Disk.Queue>
  let attackers: QueueDriver<Disk.Queue>
  let memory: ScatteredMemory

  init() throws {
    let machine = try Machine()
    let victim = try Self.attach(machine, "xvdb"), attacker = try Self.attach(machine, "xvda")
    let memory = try ScatteredMemory(byteCount: 4096)
    let driver = QueueDriver(try victim.makeQueue(0, buffers: BufferDemand(count: 1, byteCount: 4096)))
    let attackers = QueueDriver(try attacker.makeQueue(0, buffers: BufferDemand(count: 1, byteCount: 4096)))
    (self.machine, self.victim, self.attacker, self.memory) = (machine, victim, attacker, memory)
    self.driver = driver
    self.attackers = attackers
  }

  private static func attach(_ machine: Machine, _ device: String) throws -> Disk {
    var configuration = DiskConfiguration()
    configuration.device = device
    configuration.placement = .threads
    return try machine.attach(MemoryDisk(geometry: BlockGeometry(sectorCount: 2048)), as: configuration)
  }

  /// What the hostile domain does again and again in some weather, and how often in a second; 0 is as often as it can.
  func mischief(_ weather: Weather) throws -> (rate: Double, body: @Sendable (Int) -> Void)? {
    let hostile = machine.store.connect(as: machine.guest.id)
    switch weather {
    case .calm: return nil
    case .counting: return (eventsPerSecond, { _ in })
    case .events:
      guard let port = attacker.frontend.connection(ofQueue: 0)?.port else { return nil }
      let channels = machine.guest.eventChannels
      return (eventsPerSecond, { _ in channels.notify(port) })
    case .states:
      // Its backend has to look each time, and finds that nothing is new.
      let path = attacker.definition.frontendPath / "state"
      return (0, { _ in try? hostile.write(path, "4") })
    case .watches:
      return (
        0,
        { index in
          try? hostile.watch("device", token: "\(index % 200)")
          if index % 7 == 0 { try? hostile.unwatch("device", token: "\(index % 200)") }
          guard let transaction = try? hostile.startTransaction() else { return }
          _ = try? hostile.directory("device", in: transaction)
          try? hostile.endTransaction(transaction, commit: index % 2 == 0)
        }
      )
    }
  }

  /// Uses the victim's disk for a turn.
  mutating func measure(_ weather: Weather) throws -> Turn {
    let storm = Storm()
    let thread = try mischief(weather).map { storm.blow(perSecond: $0.rate, $0.body) }
    usleep(20_000)
    var times: [UInt64] = []
    times.reserveCapacity(Int(seconds * 1e6))
    let (start, before) = (pv_monotonic_nanoseconds(), storm.strength)
    let end = start + UInt64(seconds * 1e9)
    var now = start
    while now < end {
      let operation: IOOperation = times.count % 2 == 0 ? .write : .read
      guard driver.run(at: times.count % 200 * 4096, 4096, operation, memory) == 0 else {
        throw BlockError.disconnected("the victim's request failed")
      }
      let then = pv_monotonic_nanoseconds()
      times.append(then - now)
      now = then
    }
    let strength = storm.strength - before
    if let thread { storm.end(thread) }
    times.sort()
    let span = Double(now - start) / 1e9
    return Turn(
      requestsPerSecond: Double(times.count) / span, median: Double(times[times.count / 2]) / 1000,
      late: Double(times[times.count * 99 / 100]) / 1000, stormPerSecond: Double(strength) / span)
  }
}

func median(_ values: [Double]) -> Double { values.sorted()[values.count / 2] }

func aligned(_ text: String) -> String { String(repeating: " ", count: max(0, 13 - text.count)) + text }

func number(_ value: Double, _ places: Double = 1) -> String { aligned("\((value * places).rounded() / places)") }

/// The medians of a weather's turns.
func summary(_ turns: [Turn]) -> Turn {
  Turn(
    requestsPerSecond: median(turns.map(\.requestsPerSecond)), median: median(turns.map(\.median)),
    late: median(turns.map(\.late)), stormPerSecond: median(turns.map(\.stormPerSecond)))
}

var scene = try Scene()
var turns: [[Turn]] = Weather.allCases.map { _ in [] }
for _ in 0..<max(rounds, 1) {
  for (place, weather) in Weather.allCases.enumerated() { turns[place].append(try scene.measure(weather)) }
}
let found = turns.map(summary)
let (calm, counting, events) = (found[0].late, found[1].late, found[2].late)
print("beside  " + ["storm/s", "requests/s", "median us", "p99 us", "p99/calm", "p99/counting"].map(aligned).joined())
for (weather, turn) in zip(Weather.allCases, found) {
  let name = weather.rawValue + String(repeating: " ", count: max(0, 8 - weather.rawValue.count))
  print(
    name, number(turn.stormPerSecond), number(turn.requestsPerSecond), number(turn.median, 10), number(turn.late, 10),
    number(turn.late / calm, 100), number(turn.late / counting, 100), separator: "")
}
exit(events > 3 * calm ? 5 : 0)
