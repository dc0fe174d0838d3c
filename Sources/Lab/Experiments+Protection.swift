// SPDX-License-Identifier: MIT

import BlockIO
import DiskImages
import Figures
import Glibc
import GuestMemory
import PVMachine
import Protection
import XenBus
import XenWire

extension Experiment {
  /// G: what protection information costs, and what it catches.
  static let protectionCost = Experiment(
    "G", "DIF and DIX",
    claim: "Protection information needs 8 bytes for each I/O, so that room for them in each request would do."
  ) { (effort) throws(MachineError) in
    var findings = Findings()
    findings.parameters = [
      ("form", "type 1, a tuple for each 512 bytes"), ("runs", "\(effort.repeats), by turns"),
      ("run", "\(effort.duration / 1_000_000) ms"),
    ]
    let speed = guardTable(effort)
    let disk = try diskTable(effort)
    let ring = try ringTable(effort)
    let catches = try catchTable(effort)
    findings.tables = [speed.table, ring, disk, sizeTable(), catches]
    findings.plots = [speed.plot]
    findings.outcome = [
      speed.sentence,
      "Every planted flip and every misdirected sector was reported with its number; a guard of 16 bits alone would let one "
        + "of 65 536 random changes pass, whatever the I/O's size.",
    ]
    findings.corrections = [
      "8 bytes are needed for each protection interval, a sector as a rule, not for each I/O: 4 KiB take 64 bytes, 1 MiB "
        + "takes 16 KiB, four pages.",
      "One guard for a whole I/O is not DIF: it says that something in it is wrong, not which sector.",
    ]
    return findings
  }

  private static func guardTable(_ effort: LabEffort) -> (table: LabTable, plot: Plot, sentence: String) {
    let kinds: [(String, ProtectionForm, Bool)] = [
      ("CRC by tables", ProtectionForm(), false), ("CRC by multiplication", ProtectionForm(), true),
      ("Internet checksum", ProtectionForm(guardKind: .internetChecksum), false),
    ]
    let runs = effort.interleaved(kinds) { kind in
      let scanner = ProtectionScanner(form: kind.1, tables: GuardTables(multiplies: kind.2))
      return GuardBench(scanner).nanosecondsPerSector(duration: effort.duration / 4)
    }
    var table = LabTable("Making tuples", columns: ["guard", "CPU ns a sector", "GB a CPU second", "CPU us a MiB"])
    var points: [Plot.Point] = []
    for (index, run) in runs.enumerated() {
      let time = Sample(run)
      table.add(
        LabCell(stringLiteral: kinds[index].0), LabCell(time), LabCell(Sample(run.map { 512 / $0 })),
        LabCell(Sample(run.map { $0 * 2048 / 1000 })))
      points.append(.init(x: Double(index), y: 512 / time.median))
    }
    let hasMultiply = GuardTables().multiplies
    let plot = Plot(
      bars: "Guards", yTitle: "GB/s", categories: kinds.map(\.0), series: [Plot.Series("GB/s", points)])
    let sentence =
      hasMultiply
      ? "Folding by carry-less multiplication makes the CRC "
        + "\(Digits.rounded(Sample(runs[0]).median / Sample(runs[1]).median)) times as fast as tables do: a 4 KiB I/O is "
        + "vouched for in \(Digits.rounded(Sample(runs[1]).median * 8)) ns."
      : "This CPU does not multiply without carries: both CRC rows are made by tables."
    return (table, plot, sentence)
  }

  /// What it costs to carry tuples over the ring: made and checked at both ends.
  private static func ringTable(_ effort: LabEffort) throws(MachineError) -> LabTable {
    var table = LabTable(
      "On the ring (slim64, no data to move, 4 in flight), CPU us an I/O",
      columns: ["I/O", "without", "slot: 8 bytes a request", "sector: 8 bytes a sector", "segments with sector"])
    for (name, bytes) in [("4 KiB", 4096), ("64 KiB", 65_536), ("1 MiB", 1 << 20)] {
      let trials = RingProtection.allCases.map { protection in
        StackTrial("\(name), \(protection)") {
          $0.speak(.slim64, segments: 256)
          $0.configuration.rings.protection = protection
          $0.configuration.maxPersistentGrants = 20_000
          $0.benchmark.blockByteCount = bytes
          $0.benchmark.depth = 4
        }
      }
      let results = try effort.run(trials, on: nullImage())
      let times = results.map { $0.sample { $0.processorPerIO / 1000 } }
      table.add(
        LabCell(stringLiteral: name), LabCell(times[0]), LabCell(times[1]), LabCell(times[2]),
        LabCell(results[2].sample { $0.each($0.totals.segments) }))
    }
    return table
  }

  /// The stack on a disk of nothing, with and without protection around that disk.
  private static func diskTable(_ effort: LabEffort) throws(MachineError) -> LabTable {
    var table = LabTable(
      "What a protected image costs under the whole stack (cached reads), CPU us an I/O",
      columns: ["I/O", "bare", "protected", "more"])
    let scratch = try ScratchImage(byteCount: effort.isQuick ? 4 << 20 : 64 << 20)
    defer { scratch.remove() }
    for (name, bytes) in [("4 KiB", 4096), ("64 KiB", 65_536), ("1 MiB", 1 << 20)] {
      let trial = StackTrial(name) {
        $0.benchmark.blockByteCount = bytes
        $0.benchmark.depth = 4
      }
      let results = try effort.interleaved([false, true]) { (isProtected) throws(MachineError) in
        isProtected ? try trial.run(on: scratch.protected, effort) : try trial.run(on: scratch.image, effort)
      }
      let bare = results[0].sample { $0.processorPerIO / 1000 }
      let protected = results[1].sample { $0.processorPerIO / 1000 }
      table.add(
        LabCell(stringLiteral: name), LabCell(bare), LabCell(protected), LabCell(protected.median - bare.median))
    }
    return table
  }

  private static func sizeTable() -> LabTable {
    var table = LabTable(
      "Bytes of protection information",
      columns: ["I/O", "tuples at 512", "bytes", "tuples at 4096", "bytes ", "thread's"])
    for (name, bytes) in [("512 bytes", 512), ("4 KiB", 4096), ("44 KiB", 45_056), ("1 MiB", 1 << 20)] {
      table.add(
        LabCell(stringLiteral: name), LabCell(bytes / 512), LabCell(bytes / 512 * 8), LabCell(bytes / 4096),
        LabCell(bytes / 4096 * 8), LabCell(8))
    }
    return table
  }

  /// Plants errors in an image and counts what is caught.
  private static func catchTable(_ effort: LabEffort) throws(MachineError) -> LabTable {
    var table = LabTable(
      "Planted errors", columns: ["what", "planted", "reported", "with the right sector", "reads that were right"])
    let plants = effort.isQuick ? 8 : 200
    let scratch = try ScratchImage(byteCount: 4 << 20)
    defer { scratch.remove() }
    let sabotage = try Sabotage(scratch)
    for kind in Sabotage.Kind.allCases {
      let result = try sabotage.plant(kind, count: plants)
      table.add(
        LabCell(stringLiteral: kind.rawValue), LabCell(plants), LabCell(result.reported), LabCell(result.named),
        LabCell(result.sound))
    }
    return table
  }
}

/// Makes tuples of a mebibyte again and again.
private struct GuardBench: ~Copyable {
  let scanner: ProtectionScanner
  let data: MappedMemory
  let tuples: MappedMemory

  init(_ scanner: ProtectionScanner) {
    self.scanner = scanner
    guard let data = try? MappedMemory(anonymousByteCount: 1 << 20),
      let tuples = try? MappedMemory(anonymousByteCount: 1 << 14)
    else { preconditionFailure("a mebibyte of memory") }
    self.data = data
    self.tuples = tuples
  }

  func nanosecondsPerSector(duration: UInt64) -> Double {
    data.region.fill(0xA5)
    let extents = [MemoryExtent(address: data.region.address, byteCount: data.byteCount)]
    let start = processorNanoseconds()
    var elapsed: UInt64 = 0
    var sectors = 0
    repeat {
      unsafe extents.withUnsafeBufferPointer { extents in
        guard let base = extents.baseAddress else { return }
        var cursor = TupleCursor(tuples.region)
        unsafe scanner.generate(
          MemoryExtentList(unsafeStart: base, count: 1), sector: UInt64(sectors), into: &cursor)
      }
      sectors += 2048
      elapsed = processorNanoseconds() - start
    } while elapsed < duration
    return Double(elapsed) / Double(sectors)
  }
}
