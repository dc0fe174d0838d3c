// SPDX-License-Identifier: MIT

import Glibc
import GuestMemory

/// A node's owner, mode and times, kept in memory only: a disk has nowhere to put them.
struct FuseAttributes: Equatable, Sendable {
  /// Seconds and nanoseconds since 1970.
  struct Time: Equatable, Sendable {
    var seconds: UInt64
    var nanoseconds: UInt32

    static func now() -> Time {
      var time = timespec()
      // SAFETY: the kernel fills the local structure.
      unsafe clock_gettime(CLOCK_REALTIME, &time)
      return Time(seconds: UInt64(bitPattern: Int64(time.tv_sec)), nanoseconds: UInt32(time.tv_nsec))
    }
  }

  /// The node's kind and permission bits, as `st_mode` has them.
  var mode: UInt32
  var user: UInt32
  var group: UInt32
  var accessTime: Time
  var modificationTime: Time
  var changeTime: Time

  init(mode: UInt32, user: UInt32, group: UInt32) {
    self.mode = mode
    self.user = user
    self.group = group
    let now = Time.now()
    accessTime = now
    modificationTime = now
    changeTime = now
  }

  /// Takes over what a SETATTR names, size aside.
  mutating func apply(_ request: SharedRegion) {
    let valid = request.load(UInt32.self, at: 0)
    let now = Time.now()
    if valid & FuseSetattrBits.mode != 0 {
      mode = (mode & S_IFMT) | (request.load(UInt32.self, at: 68) & 0o7777)
    }
    if valid & FuseSetattrBits.user != 0 { user = request.load(UInt32.self, at: 76) }
    if valid & FuseSetattrBits.group != 0 { group = request.load(UInt32.self, at: 80) }
    if valid & FuseSetattrBits.accessTimeNow != 0 {
      accessTime = now
    } else if valid & FuseSetattrBits.accessTime != 0 {
      accessTime = Time(
        seconds: request.load(UInt64.self, at: 32), nanoseconds: request.load(UInt32.self, at: 56))
    }
    if valid & FuseSetattrBits.modificationTimeNow != 0 {
      modificationTime = now
    } else if valid & FuseSetattrBits.modificationTime != 0 {
      modificationTime = Time(
        seconds: request.load(UInt64.self, at: 40), nanoseconds: request.load(UInt32.self, at: 60))
    }
    changeTime = now
  }

  /// Writes struct fuse_attr.
  func encode(node: UInt64, disk: DiskExtent?, into area: SharedRegion) {
    area.fill(0, at: 0, byteCount: FuseSize.attributes)
    area.store(node, at: 0)
    area.store(disk?.byteCount ?? 0, at: 8)
    area.store(disk?.allocatedSectors ?? 0, at: 16)
    area.store(accessTime.seconds, at: 24)
    area.store(modificationTime.seconds, at: 32)
    area.store(changeTime.seconds, at: 40)
    area.store(accessTime.nanoseconds, at: 48)
    area.store(modificationTime.nanoseconds, at: 52)
    area.store(changeTime.nanoseconds, at: 56)
    area.store(mode, at: 60)
    area.store(UInt32(disk == nil ? 2 : 1), at: 64)
    area.store(user, at: 68)
    area.store(group, at: 72)
    area.store(UInt32(PageGeometry.pageSize), at: 80)
  }
}

/// What the disk's attributes say of the disk itself.
@usableFromInline
struct DiskExtent: Equatable, Sendable {
  /// The size in bytes: whole logical sectors.
  @usableFromInline var byteCount: UInt64
  /// 512-byte sectors that are not known to be holes.
  @usableFromInline var allocatedSectors: UInt64
  /// Grows whenever something was written.
  @usableFromInline var generation: UInt64

  @inlinable
  init(byteCount: UInt64, allocatedSectors: UInt64, generation: UInt64) {
    self.byteCount = byteCount
    self.allocatedSectors = allocatedSectors
    self.generation = generation
  }
}
