// SPDX-License-Identifier: MIT

import BlockBack
import BlockFront
public import BlockIO
public import FuseExport
import XenHypervisor
import XenWire

/// What a disk's two ends and its file have done: sums over the queues, and each queue apart.
public struct DiskStatistics: Sendable {
  /// The backend's counters of one queue by name (Linux blkback's names where it has one).
  public var backend: [[String: UInt64]]
  /// The frontend's counters of one queue by name.
  public var frontend: [[String: UInt64]]
  /// One queue's times by kind of I/O: for each bucket that holds some, the time that all in it stayed below, and how many.
  public var latencies: [[LatencyKind: [(below: UInt64, count: UInt64)]]]
  /// One queue's sums of times by kind of I/O, in nanoseconds.
  public var latencySums: [[LatencyKind: UInt64]]
  /// What the file's reactors did.
  public var fuse: FuseStatistics
  /// Virtual CPUs that slept and had to be woken for an event, in both domains.
  public var kicksSent: UInt64
  /// Events whose receiver was awake.
  public var kicksSaved: UInt64

  init<Image: BlockDevice>(disk: AttachedDisk<Image>, fuse: FuseStatistics) {
    backend = disk.counters.map { tables in
      Dictionary(uniqueKeysWithValues: QueueCounter.allCases.map { ($0.name, tables.back[$0.rawValue]) })
    }
    frontend = disk.counters.map { tables in
      Dictionary(uniqueKeysWithValues: FrontCounter.allCases.map { ($0.name, tables.front[$0.rawValue]) })
    }
    latencies = disk.latencies.map { table in
      Dictionary(
        uniqueKeysWithValues: LatencyKind.allCases.map { kind in
          let counts = (0..<LatencyTable.bucketCount).map {
            (LatencyTable.limit(ofBucket: $0), table.count(kind, bucket: $0))
          }
          return (kind, counts.filter { $0.1 > 0 }.map { (below: $0.0, count: $0.1) })
        })
    }
    latencySums = disk.latencies.map { table in
      Dictionary(uniqueKeysWithValues: LatencyKind.allCases.map { ($0, table.sum($0)) })
    }
    self.fuse = fuse
    let cpus = disk.cpus.flatMap { [disk.machine.guest.virtualCPUs[$0], disk.machine.control.virtualCPUs[$0]] }
    kicksSent = cpus.reduce(0) { $0 + $1.kicksSent }
    kicksSaved = cpus.reduce(0) { $0 + $1.kicksSaved }
  }

  /// A backend counter's sum over the queues.
  public func backendSum(_ name: String) -> UInt64 { backend.reduce(0) { $0 + ($1[name] ?? 0) } }
  /// A frontend counter's sum over the queues.
  public func frontendSum(_ name: String) -> UInt64 { frontend.reduce(0) { $0 + ($1[name] ?? 0) } }
}
