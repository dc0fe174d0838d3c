// SPDX-License-Identifier: MIT

import BlockIO
import GuestMemory

/// What a mount looks like and how it is served.
public struct FuseOptions: Sendable {
  /// An empty directory, which then shows ``fileName``; or a regular file, which then *is* the disk.
  public var mountPoint: String
  /// The file's name in a directory mount.
  public var fileName: String
  /// What `mount` and `/proc/mounts` show as the source, for example `pvdisk:/images/a.img`.
  public var fileSystemName: String
  /// What follows `fuse.` in the type column of `/proc/mounts`.
  public var subtype: String
  /// Whether writes are refused even if the device takes them.
  public var isReadOnly: Bool
  /// Whether other users reach the mount; the file's mode and owner still rule.
  ///
  /// Needs `user_allow_other` in `/etc/fuse.conf` unless the caller is root.
  public var allowsOtherUsers: Bool
  /// Further mount options as `-o` takes them, one or several separated by commas in each element.
  public var mountOptions: [String]
  /// Reactors to start: at most the device's queue count, which is also the default.
  public var reactorCount: Int?
  /// Requests that each reactor can hold at once.
  public var depth: Int
  /// The most bytes in one request: a whole number of pages, at most 1 MiB without a raised `fs.fuse.max_pages_limit`.
  public var maximumTransfer: Int
  /// The CPUs to pin reactors to, one after the other; empty leaves them to the scheduler.
  public var cpus: [Int]
  /// Nanoseconds to look for the next request before sleeping; 0 never spins.
  public var spinNanoseconds: UInt64
  /// How requests travel.
  public var transport: FuseTransportChoice

  /// Makes options for a mount point, with everything else at its default.
  public init(mountPoint: String) {
    self.mountPoint = mountPoint
    fileName = "xvda"
    fileSystemName = "pvdisk"
    subtype = "pvdisk"
    isReadOnly = false
    allowsOtherUsers = false
    mountOptions = []
    reactorCount = nil
    depth = 64
    maximumTransfer = 1 << 20
    cpus = []
    spinNanoseconds = 0
    transport = .device
  }

  /// The buffers that a queue is asked for: one for each slot, and one more as scratch space; each takes a transfer with
  /// both of its ends rounded out to sectors.
  func bufferDemand(slotCount: Int, sectorSize: Int, neighbour: Int?) -> BufferDemand {
    let page = PageGeometry.pageSize
    let edge = max(sectorSize, page)
    return BufferDemand(
      count: slotCount + 1, byteCount: PageGeometry.pages(for: maximumTransfer) * page + 2 * edge, neighbour: neighbour)
  }
}

/// How requests travel between the kernel and the reactors.
public enum FuseTransportChoice: String, Sendable, CaseIterable {
  /// io_uring where the kernel offers it, /dev/fuse otherwise.
  case automatic
  /// read(2) and writev(2) on /dev/fuse.
  case device
  /// fuse-over-io_uring (Linux 6.14), a queue for each CPU; an error where the kernel does not offer it.
  case ring
}
