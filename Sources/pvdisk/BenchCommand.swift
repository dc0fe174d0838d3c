// SPDX-License-Identifier: MIT

import ArgumentParser
import BlockIO
import DiskImages
import Glibc
import PVMachine
import XenHypervisor
import XenWire

/// `pvdisk bench`: the stack in process, without FUSE; beside it the bare image through the same loop.
struct BenchCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "bench", abstract: "Measure the stack in process, without FUSE, against the bare image.",
    discussion: """
      Without IMAGE the disk moves no data, so that what is left is the ring, the grants and the events. Rows are medians
      of interleaved runs with their least and most.
      """)

  @Argument(help: ArgumentHelp("An image to read, cached.", valueName: "image"))
  var image: String?

  @Option(help: ArgumentHelp("Runs of each row.", valueName: "N"))
  var repeats = 5

  @Option(help: ArgumentHelp("Milliseconds of each run.", valueName: "N"))
  var milliseconds = 300

  @Option(help: ArgumentHelp("Without an image: only this placement, inline or threads.", valueName: "where"))
  var placement: Placement?

  @Flag(inversion: .prefixedNo, help: "With an image: copy all reads, or none, from a mapping.")
  var mapImage: Bool?

  @OptionGroup var rings: RingArguments

  @Option(help: ArgumentHelp("Pages in each ring: 1, 2, 4, 8 or 16.", valueName: "N"))
  var ringPages = 1

  @Option(help: ArgumentHelp("Pages that one request may name.", valueName: "N"))
  var indirectSegments = 256

  @Flag(name: .customLong("json"), help: "Print JSON.")
  var isJSON = false

  func run() throws {
    let rows = try image.map(imageRows) ?? nullRows()
    if isJSON { return print(json(rows)) }
    print("what                                            median ns      least       most    requests/s")
    for row in rows {
      let name = row.name.padding(toWidth: 44)
      print("\(name)\(row.median.cell) \(row.least.cell) \(row.most.cell) \(row.perSecond.cell)")
    }
  }

  private var duration: UInt64 { UInt64(milliseconds) * 1_000_000 }

  private func nullRows() throws -> [BenchRow] {
    let null = NullImage(sectorCount: 1 << 21)
    var rows: [BenchRow] = []
    for (name, depth) in [("round trip, queue depth 1", 1), ("batches of 32", 32)] {
      let benchmark = StackBenchmark(access: .randomRead, blockByteCount: 4096, depth: depth, duration: duration)
      for placement in Placement.allCases where self.placement.map({ $0 == placement }) ?? true {
        rows.append(try measure("null, \(placement), \(name)", null, benchmark, placement))
      }
    }
    return rows
  }

  private func imageRows(_ path: String) throws -> [BenchRow] {
    let image = try open(path, DiskOptions.mappedReads(mapImage))
    // Several readers may hold an image.
    let plain = try open(path, .never)
    var rows: [BenchRow] = []
    let kinds: [(String, StackBenchmark.Access, Int, Int)] = [
      ("4 KiB random reads, depth 1", .randomRead, 4096, 1), ("4 KiB random reads, depth 32", .randomRead, 4096, 32),
      ("1 MiB reads, depth 4", .sequentialRead, 1 << 20, 4),
    ]
    for (name, access, byteCount, depth) in kinds {
      let benchmark = StackBenchmark(access: access, blockByteCount: byteCount, depth: depth, duration: duration)
      rows += try compare(name, image, plain, benchmark)
    }
    try? image.close()
    try? plain.close()
    return rows
  }

  private func open(_ path: String, _ mappedReads: ImageOptions.MappedReads) throws -> RawImage {
    do throws(BlockError) {
      return try RawImage.open(path: path, options: ImageOptions(access: .readOnly, mappedReads: mappedReads))
    } catch { throw Refusal(error.sentence, status: ExitStatus.image) }
  }

  /// The stack beside the image alone, and beside one that asks the kernel for each read.
  private func compare(
    _ name: String, _ image: RawImage, _ plain: RawImage, _ benchmark: StackBenchmark
  ) throws -> [BenchRow] {
    var calls: [StackBenchmark.Result] = []
    var bare: [StackBenchmark.Result] = []
    var stack: [StackBenchmark.Result] = []
    for _ in 0..<repeats {
      calls.append(try runAlone(plain, benchmark))
      bare.append(try runAlone(image, benchmark))
      stack.append(try runOnce(image, benchmark, .inline))
    }
    return [
      BenchRow("preadv2 loop, \(name)", calls), BenchRow("bare image, \(name)", bare),
      BenchRow("whole stack, \(name)", stack),
    ]
  }

  private func runAlone(_ image: RawImage, _ benchmark: StackBenchmark) throws -> StackBenchmark.Result {
    var queue = try image.makeQueue(0, buffers: benchmark.demand)
    return benchmark.run(on: &queue, sectorCount: image.geometry.sectorCount)
  }

  private func measure<Image: BlockDevice>(
    _ name: String, _ image: Image, _ benchmark: StackBenchmark, _ placement: Placement
  ) throws -> BenchRow {
    var results: [StackBenchmark.Result] = []
    for _ in 0..<repeats { results.append(try runOnce(image, benchmark, placement)) }
    return BenchRow(name, results)
  }

  private func runOnce<Image: BlockDevice>(
    _ image: Image, _ benchmark: StackBenchmark, _ placement: Placement
  ) throws -> StackBenchmark.Result {
    var configuration = DiskConfiguration()
    configuration.placement = placement
    configuration.ringPages = ringPages
    configuration.indirectSegments = indirectSegments
    try rings.apply(to: &configuration)
    if let complaint = configuration.complaint { throw ValidationError(complaint) }
    do throws(MachineError) {
      // As small as one disk needs: callgrind has no room for the address space of 64.
      var small = MachineConfiguration()
      small.guestMemoryByteCount = 8 << 30
      small.guestLimits.grantFrames = 1024
      let machine = try Machine(small)
      let disk = try machine.attach(image, as: configuration)
      defer { disk.detach() }
      do throws(BlockError) {
        var queue = try disk.makeQueue(0, buffers: benchmark.demand)
        return benchmark.run(on: &queue, sectorCount: disk.geometry.sectorCount)
      } catch { throw .disk(error) }
    } catch { throw Refusal(error.sentence) }
  }
}

/// One line of the table.
struct BenchRow: Codable {
  var name: String
  var median: Double
  var least: Double
  var most: Double
  var perSecond: Double
  /// The requests of all runs.
  var requests: UInt64

  init(_ name: String, _ results: [StackBenchmark.Result]) {
    self.name = name
    let times = results.map(\.nanosecondsPerRequest).sorted()
    median = times[times.count / 2]
    least = times.first ?? 0
    most = times.last ?? 0
    perSecond = 1e9 / median
    requests = results.reduce(0) { $0 + $1.requests }
  }
}

extension Double {
  /// A whole number, right-aligned in ten places.
  var cell: String {
    let text = "\(Int(rounded()))"
    return String(repeating: " ", count: max(0, 12 - text.count)) + text
  }
}

extension String {
  func padding(toWidth width: Int) -> String { self + String(repeating: " ", count: max(0, width - count)) }
}
