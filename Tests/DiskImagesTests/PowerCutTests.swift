// SPDX-License-Identifier: MIT

import BlockIO
import CSystemFaults
import Glibc
import GuestMemory
import PVTestSupport
import Testing

@testable import DiskImages

/// What the power may leave of an image, told from the system calls that were really made.
///
/// ```
/// log    W W Z | S | W F W | S ...        W write  Z zeroes  F forced write  S fdatasync
///              ^ the power goes behind any of them
/// ```
/// Of what was changed since the last `fdatasync(2)`, any part may be there, in any order, torn at any sector. The promise is made
/// for each sector, so all of these states together are, sector by sector: the durable version, or any later one. Each of them is
/// held against what was acknowledged and flushed, behind every single call; so epochs of any length are covered, not short
/// ones alone.
struct PowerCutModel {
  /// One version of each sector that survives for certain, and those that may.
  private var durable: [UInt64]
  private var later: [[UInt64]]
  /// Moments at which the power went, and states of single sectors that it could leave there.
  private(set) var cuts = 0, states = 0

  init(sectorCount: Int) {
    durable = Array(repeating: 0, count: sectorCount)
    later = Array(repeating: [], count: sectorCount)
  }

  /// Takes a call into account, and lets the power go behind it.
  /// - Returns: a sentence about a sector that may hold what it must not.
  mutating func apply(_ change: pv_change, _ promise: PowerCutPromise) -> String? {
    let first = unsafe Int(change.offset / 512), count = unsafe Int(change.byte_count / 512)
    for index in 0..<count {
      var stamp: UInt64 = 0
      if let bytes = unsafe change.bytes {
        stamp = unsafe UnsafeRawPointer(bytes).loadUnaligned(fromByteOffset: index * 512, as: UInt64.self)
      }
      later[first + index].append(stamp)
    }
    switch unsafe change.kind {
    case PV_CHANGE_SYNC: settle(durable.indices)
    case PV_CHANGE_FORCED: settle(first..<first + count)
    default: break
    }
    return check(promise)
  }

  private mutating func settle(_ sectors: Range<Int>) {
    for sector in sectors {
      durable[sector] = later[sector].last ?? durable[sector]
      later[sector] = []
    }
  }

  /// Lets the power go.
  mutating func check(_ promise: PowerCutPromise) -> String? {
    cuts += 1
    for sector in durable.indices {
      states += 1 + later[sector].count
      for stamp in [durable[sector]] + later[sector] where !promise.allows(stamp, in: sector) {
        return
          "sector \(sector) may hold \(stamp), which was replaced and flushed; promised: \(promise.versions[sector])"
      }
    }
    return nil
  }
}

/// What each sector may hold after a power cut, by what was acknowledged.
struct PowerCutPromise {
  /// The version that was flushed last, and all that were asked for after it.
  private(set) var versions: [[UInt64]]
  /// The place of the last acknowledged one among them.
  private var acknowledged: [Int]

  init(sectorCount: Int) {
    versions = Array(repeating: [0], count: sectorCount)
    acknowledged = Array(repeating: 0, count: sectorCount)
  }

  func allows(_ stamp: UInt64, in sector: Int) -> Bool { versions[sector].contains(stamp) }

  mutating func asked(_ stamp: UInt64, of sector: Int) { versions[sector].append(stamp) }

  mutating func acknowledge(_ sectors: Range<Int>) {
    for sector in sectors { acknowledged[sector] = versions[sector].count - 1 }
  }

  /// The stamps below which nothing may be left once a flush that is asked for now has succeeded.
  func flushStarts() -> [UInt64] { versions.indices.map { versions[$0][acknowledged[$0]] } }

  mutating func flushEnded(_ floor: [UInt64], _ sectors: Range<Int>? = nil) {
    for sector in sectors ?? versions.indices {
      guard let place = versions[sector].lastIndex(of: floor[sector]) else { continue }
      versions[sector].removeSubrange(0..<place)
      acknowledged[sector] = max(0, acknowledged[sector] - place)
    }
  }
}

@Suite("A power cut")
struct PowerCutTests {
  /// What the world does wrong on purpose, to be found out.
  enum Defect { case none, syncsDoNothing, forcedWritesAreNot }

  static let sectorCount = 96

  /// One random workload on one image.
  struct Workload {
    var random: SeededGenerator
    var model = PowerCutModel(sectorCount: sectorCount)
    var promise = PowerCutPromise(sectorCount: sectorCount)
    var stamp: UInt64 = 0
    let defect: Defect
    private var busy = Set<Int>()
    private var open: [UInt64: (request: IORequest, sectors: Range<Int>, floor: [UInt64], memory: ScatteredMemory?)] =
      [:]
    private var nextTag: UInt64 = 1

    init(seed: UInt64, defect: Defect) {
      random = SeededGenerator(seed: seed)
      self.defect = defect
    }

    mutating func run(_ driver: inout QueueDriver<RawImageQueue>) throws -> String? {
      for _ in 0..<14 {
        for _ in 0..<Int.random(in: 1...5, using: &random) { try submit(&driver) }
        while !open.isEmpty {
          guard let completion = driver.nextCompletion() else { return "no completion came" }
          if let complaint = look() { return complaint }
          if completion.errorCode != 0 { return "request \(completion.tag) failed: \(completion.errorCode)" }
          ended(completion.tag)
          if let complaint = model.check(promise) { return complaint }
        }
        busy = []
      }
      return nil
    }

    private mutating func submit(_ driver: inout QueueDriver<RawImageQueue>) throws {
      let kind = Int.random(in: 0..<10, using: &random)
      let count = kind < 8 ? Int.random(in: 1...(kind < 3 ? 3 : 16), using: &random) : 0
      let start = Int.random(in: 0...(PowerCutTests.sectorCount - count), using: &random)
      let sectors = start..<start + count
      guard busy.isDisjoint(with: sectors) else { return }
      busy.formUnion(sectors)
      let kinds: [IOOperation] = [
        .write, .write, .write, .write, .write, .writeZeroes, .discard, .read, .flush, .flush,
      ]
      let operation = kinds[kind]
      let isMoving = operation == .write || operation == .read
      let memory = isMoving ? try ScatteredMemory(byteCount: count * 512) : nil
      let floor = operation == .flush ? promise.flushStarts() : []
      if operation != .read {
        var bytes: [UInt8] = []
        for sector in sectors {
          let left = operation == .write ? stamp + 1 : 0
          if operation == .write {
            stamp += 1
            for _ in 0..<64 {
              for shift in 0..<8 { bytes.append(UInt8(truncatingIfNeeded: left >> UInt64(shift * 8))) }
            }
          }
          promise.asked(left, of: sector)
        }
        if operation == .write { memory?.bytes = bytes }
      }
      let request = IORequest.at(
        start * 512, count * 512, operation, memory, forceUnitAccess: kind == 4, tag: nextTag)
      nextTag += 1
      open[request.tag] = (request, sectors, floor, memory)
      guard case .accepted = driver.queue.submit(request) else { throw SystemError("submit", code: EAGAIN) }
    }

    /// Takes the calls that were made into account.
    // SAFETY: a note is taken once, and freed before the next is taken.
    private mutating func look() -> String? {
      var change = unsafe pv_change()
      while unsafe pv_log_take(&change) {
        defer { unsafe pv_change_free(&change) }
        if defect == .syncsDoNothing, unsafe change.kind == PV_CHANGE_SYNC { continue }
        if defect == .forcedWritesAreNot, unsafe change.kind == PV_CHANGE_FORCED {
          unsafe change.kind = PV_CHANGE_WRITE
        }
        if let complaint = unsafe model.apply(change, promise) { return complaint }
      }
      return nil
    }

    private mutating func ended(_ tag: UInt64) {
      guard let (request, sectors, floor, _) = open.removeValue(forKey: tag) else { return }
      switch request.operation {
      case .flush: promise.flushEnded(floor)
      case .read: break
      default:
        promise.acknowledge(sectors)
        if request.forceUnitAccess { promise.flushEnded(promise.flushStarts(), sectors) }
      }
    }
  }

  /// Runs one workload; a complaint, and how many states were looked at.
  static func run(seed: UInt64, cache: ImageOptions.CacheMode, defect: Defect = .none) throws -> (
    String?, PowerCutModel
  ) {
    let scratch = try ScratchDirectory(inMemory: true)
    try RawImage.create(path: scratch.file(), byteCount: UInt64(sectorCount * 512))
    let image = try RawImage.open(path: scratch.file(), options: ImageOptions(cache: cache, engine: .blocking))
    var workload = Workload(seed: seed, defect: defect)
    let complaint: String?
    do {
      var driver = try image.driver()
      pv_log_start()
      defer { pv_log_end() }
      complaint = try workload.run(&driver)
    }
    try image.close()
    return (complaint, workload.model)
  }

  @Test(
    "behind every call of 1000 workloads it leaves nothing older than what was flushed, in any order, torn at any sector"
  )
  func everywhere() throws {
    var cuts = 0, states = 0
    for seed in 1...1000 as ClosedRange<UInt64> {
      let (complaint, model) = try Self.run(seed: seed, cache: seed % 4 == 0 ? .none : .writeback)
      #expect(complaint == nil, "seed \(seed)")
      cuts += model.cuts
      states += model.states
    }
    #expect(cuts > 50_000 && states > 5_000_000, "\(cuts) cuts, \(states) states of sectors")
  }

  @Test("of a disk that lies is told", arguments: [Defect.syncsDoNothing, .forcedWritesAreNot])
  func lies(defect: Defect) throws {
    let found = try (1...20 as ClosedRange<UInt64>).filter {
      try Self.run(seed: $0, cache: .writeback, defect: defect).0 != nil
    }
    #expect(found.count >= 18, "found in \(found)")
  }
}
