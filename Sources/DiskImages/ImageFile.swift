// SPDX-License-Identifier: MIT

import BlockIO
import CLinux
import Glibc
import GuestMemory

/// An open image file: its descriptor and what has been found out about it.
@usableFromInline
struct ImageFile: Sendable {
  @usableFromInline let descriptor: CInt
  @usableFromInline let isReadOnly: Bool
  /// The logical sector size in 512-byte sectors, less one.
  @usableFromInline let alignmentMask: UInt64
  let isBlockDevice: Bool
  let cache: ImageOptions.CacheMode
  let logicalSectorSize: Int
  let physicalSectorSize: Int
  /// What discard can do; nil on read-only images and where nothing can be freed.
  let discard: DiscardAbility?
  /// What reads are copied from first.
  @usableFromInline let mapped: MappedBytes
  let cachedReads: CachedAccess
  let cachedWrites: CachedAccess
  /// Zeros to write, shared by all queues; nobody ever writes them.
  let zeros: MemoryExtent

  var isSecureDiscardSupported: Bool { discard?.isSecureSupported ?? false }

  /// Whole logical sectors in `byteCount` bytes, counted in 512-byte sectors.
  func sectorCount(in byteCount: UInt64) -> UInt64 {
    byteCount / UInt64(logicalSectorSize) * UInt64(logicalSectorSize / PageGeometry.sectorSize)
  }
}
