// SPDX-License-Identifier: MIT

import BlockBack
import BlockFront
import BlockIO
import Glibc
import PVMachine
import PVTestSupport
import Testing
import XenHypervisor
import XenWire

/// One way out of all in which two ends can be connected.
struct Cell: CustomTestStringConvertible, Sendable {
  let blockProtocol: BlockProtocol
  let queues: Int
  let ringPages: Int
  let segments: Int
  let frontPersistent: Bool
  let backPersistent: Bool
  let grantVersion: Int
  let usesFIFO: Bool
  let placement: Placement

  var testDescription: String {
    "\(blockProtocol.rawValue) queues \(queues) pages \(ringPages) indirect \(segments) persistent "
      + "\(frontPersistent)/\(backPersistent) grants v\(grantVersion) \(usesFIFO ? "FIFO" : "2-level") \(placement)"
  }

  /// The number of cells.
  static let count = 3 * 3 * 5 * 3 * 4 * 2 * 2 * 2

  /// The cell of a number.
  init(_ number: Int) {
    var rest = number
    func pick<Value>(_ values: [Value]) -> Value {
      defer { rest /= values.count }
      return values[rest % values.count]
    }
    blockProtocol = pick([.x86_64, .x86_32, .arm])
    queues = pick([1, 2, 4])
    ringPages = pick([1, 2, 4, 8, 16])
    segments = pick([0, 32, 256])
    (frontPersistent, backPersistent) = pick([(true, true), (true, false), (false, true), (false, false)])
    grantVersion = pick([1, 2])
    usesFIFO = pick([false, true])
    placement = pick([.inline, .threads])
  }

  /// All of them when `PVDISK_MATRIX` is set (`make matrix`), or else some that chance picked.
  static let chosen: [Cell] = {
    if unsafe getenv("PVDISK_MATRIX") != nil { return (0..<count).map(Cell.init) }
    var chance = SeededGenerator(seed: 2026)
    return (0..<40).map { _ in Cell(Int.random(in: 0..<count, using: &chance)) }
  }()

  var configuration: DiskConfiguration {
    var configuration = DiskConfiguration()
    configuration.blockProtocol = blockProtocol
    configuration.queues = queues
    configuration.ringPages = ringPages
    configuration.indirectSegments = segments
    configuration.frontPersistent = frontPersistent
    configuration.backPersistent = backPersistent
    configuration.placement = placement
    configuration.spinNanoseconds = 0
    return configuration
  }
}

@Suite("Every way in which two ends can be connected")
struct MatrixTests {
  @Test("random I/O on every queue leaves what it leaves on a disk, and nothing behind", arguments: Cell.chosen)
  func cell(cell: Cell) throws {
    let part = 256 << 10
    let image = try lateDisk(byteCount: 4 * part, seed: 77)
    var machineConfiguration = MachineConfiguration()
    machineConfiguration.grantVersion = cell.grantVersion
    machineConfiguration.usesFIFOEvents = cell.usesFIFO
    let machine = try Machine(machineConfiguration)
    // Arrays of FIFO event words grow with the first ports and stay, as in Xen.
    if cell.usesFIFO { try machine.attach(image, as: cell.configuration).detach() }
    let before = machine.ledger
    let disk = try machine.attach(image, as: cell.configuration)
    #expect(disk.queueCount == cell.queues)
    // One after the other on this thread: concurrency is the business of other tests.
    for index in 0..<cell.queues {
      var user = try RandomUser(
        disk, queue: index, base: index * part, byteCount: part, seed: UInt64(index) + 9)
      try #require(try user.run(40))
      try #require(try user.drain())
      let isRight = Array(image.bytes[index * part..<(index + 1) * part]) == user.model.bytes
      #expect(isRight)
    }
    let isPersistent = cell.frontPersistent && cell.backPersistent
    let reused = disk.counters.reduce(0) { $0 + $1.back[QueueCounter.grants_reused.rawValue] }
    #expect((reused > 0) == isPersistent)
    let indirect = disk.counters.reduce(0) { $0 + $1.back[QueueCounter.indirect_req.rawValue] }
    #expect((indirect > 0) == (cell.segments > 11))
    #expect(disk.detach() == 0)
    #expect(machine.ledger == before)
  }
}
