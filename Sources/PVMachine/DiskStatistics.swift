// SPDX-License-Identifier: MIT

import BlockBack
import BlockFront
import BlockIO
public import FuseExport
import XenHypervisor
import XenWire

/// What a disk's two ends and its file have done: sums over the queues, and each queue apart.
public struct DiskStatistics: Equatable, Sendable {
  /// The backend's counters of one queue by name (Linux blkback's names where it has one).
  public var backend: [[String: UInt64]]
  /// The frontend's counters of one queue by name.
  public var frontend: [[String: UInt64]]
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
