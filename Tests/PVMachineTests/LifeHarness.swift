// SPDX-License-Identifier: MIT

import BlockBack
import BlockFront
import BlockIO
import Glibc
import GuestMemory
import PVMachine
import PVTestSupport
import Testing
import XenHypervisor
import XenWire

/// One queue of an attached disk under random I/O against a model of a part of the disk.
///
/// Requests touch sectors from `base` on only, so that several threads can each have a part of their own.
struct RandomUser<Device: BlockDevice>: ~Copyable {
  var driver: QueueDriver<Device.Queue>
  var model: DiskModel
  let base: Int
  let seed: UInt64
  private var done = 0

  init(
    _ disk: Device, queue index: Int = 0, base: Int = 0, byteCount: Int, seed: UInt64,
    operations: [IOOperation] = [.read, .write, .read, .write, .read, .write, .flush, .discard, .writeZeroes]
  ) throws {
    driver = QueueDriver(try disk.makeQueue(index, buffers: BufferDemand(count: 8, byteCount: 65536)))
    model = DiskModel(
      bytes: Array(repeating: 0, count: byteCount), sectorSize: disk.geometry.logicalSectorSize,
      operations: operations, seed: seed)
    self.base = base
    self.seed = seed
  }

  /// Runs until `count` more requests have completed; false after something went wrong.
  mutating func run(_ count: Int, depth: Int = 24) throws -> Bool {
    let end = done + count
    while done < end {
      try fill(depth)
      guard try take() else { return false }
    }
    return true
  }

  /// Puts requests in flight.
  mutating func fill(_ depth: Int) throws {
    while model.pending.count < depth, var request = try model.nextRequest() {
      request.sectors.start += UInt64(base / 512)
      guard case .accepted = driver.queue.submit(request) else {
        Issue.record("the queue is full with \(model.pending.count) requests, seed \(seed)")
        return
      }
    }
  }

  /// Takes one completion and judges it.
  mutating func take() throws -> Bool {
    guard let completion = driver.nextCompletion() else {
      Issue.record("no completion of \(model.pending.count), seed \(seed)")
      return false
    }
    done += 1
    if let complaint = model.finish(completion) {
      Issue.record("\(complaint), seed \(seed)")
      return false
    }
    return true
  }

  /// Finishes what is in flight.
  mutating func drain() throws -> Bool {
    while !model.pending.isEmpty {
      guard try take() else { return false }
    }
    return true
  }

  /// Ends everything that is in flight and answers with which errors.
  mutating func drainErrors() -> Set<CInt> {
    var codes: Set<CInt> = []
    while !model.pending.isEmpty, let completion = driver.nextCompletion() {
      model.pending[completion.tag] = nil
      codes.insert(completion.errorCode)
    }
    return codes
  }
}

extension AttachedDisk {
  /// Lets the queue's letters be read until the control plane has brought the disk into a phase.
  func wait<Device: BlockDevice>(
    for phase: DiskPhase, with knobs: BackendKnobs? = nil, driving user: inout RandomUser<Device>
  ) -> Bool {
    func isThere() -> Bool { self.phase == phase && (knobs == nil || backend.knobs == knobs) }
    let deadline = time(nil) + 60
    var hasBeenThere = isThere()
    while !hasBeenThere, time(nil) < deadline {
      user.driver.queue.advance()
      usleep(200)
      hasBeenThere = isThere()
    }
    // What the change left for the queue's thread. Another change may have begun meanwhile.
    user.driver.queue.advance()
    return hasBeenThere
  }
}

/// A disk in memory whose requests finish late and in any order.
func lateDisk(byteCount: Int, seed: UInt64, sectorSize: Int = 512) throws -> MemoryDisk {
  var behaviour = MemoryDisk.Behaviour()
  behaviour.asynchronySeed = seed
  behaviour.queueCount = 8
  behaviour.capacity = 1024
  return try MemoryDisk(
    geometry: BlockGeometry(
      sectorCount: UInt64(byteCount / 512), logicalSectorSize: sectorSize, physicalSectorSize: sectorSize,
      discard: DiscardAbility(granularity: sectorSize, leavesZeros: true)), behaviour: behaviour)
}

/// What an administrator may have set on the backend that a disk comes to.
struct Destination: CustomTestStringConvertible, Sendable {
  let testDescription: String
  var knobs = BackendKnobs()

  init(_ name: String, _ change: (inout BackendKnobs) -> Void) {
    testDescription = name
    change(&knobs)
  }

  static let all: [Destination] = [
    Destination("the same again") { _ in },
    Destination("no persistent grants") { $0.featurePersistent = false },
    Destination("no indirect requests") { $0.maxIndirectSegments = 0 },
    Destination("indirect requests of 16 segments") { $0.maxIndirectSegments = 16 },
    Destination("a ring of one page") { $0.maxRingPageOrder = 0 },
    Destination("an old backend that offers nothing") {
      $0.featurePersistent = false
      $0.maxIndirectSegments = 0
      $0.maxRingPageOrder = 0
      $0.maxQueues = 1
    },
    Destination("a persistent cache of 20 pages") { $0.maxPersistentGrants = 20 },
  ]
}
