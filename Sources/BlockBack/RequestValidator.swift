// SPDX-License-Identifier: MIT

public import BlockIO
import GuestMemory

/// A run of sectors that was checked against the disk: the only thing from which an I/O is made.
public struct ValidatedRange: Sendable {
  /// The sectors, all of them on the disk.
  public let sectors: SectorRange

  @usableFromInline
  init(checked sectors: SectorRange) { self.sectors = sectors }
}

/// Judges what a frontend asked for against the disk as it is, as blkback's `xen_vbd_translate` does.
public struct RequestValidator: Sendable {
  @usableFromInline var sectorCount: UInt64
  @usableFromInline let sectorMask: UInt64
  /// Whether everything but reading is refused.
  public let isReadOnly: Bool

  /// Judges for a disk.
  public init(geometry: BlockGeometry, isReadOnly: Bool) {
    sectorCount = geometry.sectorCount
    sectorMask = UInt64(geometry.logicalSectorSize / PageGeometry.sectorSize) - 1
    self.isReadOnly = isReadOnly || geometry.isReadOnly
  }

  /// Follows a disk that changed its size.
  public mutating func resize(to sectorCount: UInt64) { self.sectorCount = sectorCount }

  /// The range if it lies on the disk, neither wraps, and keeps to logical sectors; nil otherwise.
  @inlinable
  public func validate(start: UInt64, count: UInt64) -> ValidatedRange? {
    let sectors = SectorRange(start: start, count: count)
    guard sectors.fits(in: sectorCount), (start | count) & sectorMask == 0 else { return nil }
    return ValidatedRange(checked: sectors)
  }
}
