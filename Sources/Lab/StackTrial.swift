// SPDX-License-Identifier: MIT

import BlockIO
import CLinux
import DiskImages
import PVMachine
import XenHypervisor
import XenWire

/// One run of the whole stack in process: a machine, a disk, a benchmark, and what both ends counted.
struct StackTrial: Sendable {
  /// How it is called in tables.
  var name: String
  var configuration = DiskConfiguration()
  var mapping = MappingStrategy.remap
  var benchmark = StackBenchmark(access: .randomRead, blockByteCount: 4096, depth: 1, duration: 0)

  init(_ name: String, _ change: (inout StackTrial) -> Void = { _ in }) {
    self.name = name
    change(&self)
  }

  /// What came out.
  struct Result: Sendable {
    var nanoseconds: Double
    var processorNanoseconds: Double
    var ios: Double
    var totals: StackTotals

    var nanosecondsPerIO: Double { nanoseconds / ios }
    var processorPerIO: Double { processorNanoseconds / ios }
    var perSecond: Double { ios * 1e9 / nanoseconds }
    func each(_ count: UInt64) -> Double { Double(count) / ios }
  }

  /// Runs on a disk for the effort's time, after a tenth of it to warm up.
  func run<Image: BlockDevice>(on image: Image, _ effort: LabEffort) throws(MachineError) -> Result {
    var machineConfiguration = MachineConfiguration()
    machineConfiguration.mapping = mapping
    let machine = try Machine(machineConfiguration)
    let disk = try machine.attach(image, as: configuration)
    defer { disk.detach() }
    return try measure(disk, effort)
  }

  private func measure<Image: BlockDevice>(
    _ disk: AttachedDisk<Image>, _ effort: LabEffort
  ) throws(MachineError) -> Result {
    var benchmark = benchmark
    benchmark.armsBetween = benchmark.depth == 1
    let sectors = disk.geometry.sectorCount
    do throws(BlockError) {
      var queue = try disk.makeQueue(0, buffers: benchmark.demand)
      benchmark.duration = effort.duration / 10
      _ = benchmark.run(on: &queue, sectorCount: sectors)
      let before = disk.totals
      let processor = Lab.processorNanoseconds()
      benchmark.duration = effort.duration
      let outcome = benchmark.run(on: &queue, sectorCount: sectors)
      let used = Lab.processorNanoseconds() - processor
      let totals = disk.totals - before
      // A figure of requests that failed would be a figure of nothing.
      if totals.refusals > 0 {
        throw BlockError.unsupported("the backend refused \(totals.refusals) requests of '\(name)'")
      }
      return Result(
        nanoseconds: Double(outcome.nanoseconds), processorNanoseconds: Double(used),
        ios: Double(max(outcome.requests, 1)), totals: totals)
    } catch { throw .disk(error) }
  }
}

extension LabEffort {
  /// Runs trials by turns; each trial's results in a list.
  func run(_ trials: [StackTrial], on image: some BlockDevice) throws(MachineError) -> [[StackTrial.Result]] {
    try interleaved(trials) { (trial) throws(MachineError) in try trial.run(on: image, self) }
  }
}

extension [StackTrial.Result] {
  /// One number of each run, summed up.
  func sample(_ number: (StackTrial.Result) -> Double) -> Sample { Sample(map(number)) }
}
