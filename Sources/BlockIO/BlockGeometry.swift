// SPDX-License-Identifier: MIT

public import GuestMemory

/// A disk's size and abilities.
public struct BlockGeometry: Equatable, Sendable {
  /// The capacity in 512-byte sectors, whatever the logical sector size.
  public var sectorCount: UInt64
  /// Bytes in a logical sector: every request is a multiple of it, at a multiple of it.
  ///
  /// A power of two, at least 512.
  public var logicalSectorSize: Int
  /// Bytes in a physical sector, a multiple of the logical size.
  public var physicalSectorSize: Int
  /// Whether writes are refused.
  public var isReadOnly: Bool
  /// Whether completed writes may be lost until a flush completes.
  public var hasVolatileCache: Bool
  /// What discard can do, or nil when it cannot.
  public var discard: DiscardAbility?

  /// Describes a disk.
  public init(
    sectorCount: UInt64, logicalSectorSize: Int = 512, physicalSectorSize: Int = 512, isReadOnly: Bool = false,
    hasVolatileCache: Bool = true, discard: DiscardAbility? = nil
  ) {
    self.sectorCount = sectorCount
    self.logicalSectorSize = logicalSectorSize
    self.physicalSectorSize = physicalSectorSize
    self.isReadOnly = isReadOnly
    self.hasVolatileCache = hasVolatileCache
    self.discard = discard
  }

  /// The capacity in bytes.
  @inlinable public var byteCount: UInt64 { sectorCount << UInt64(PageGeometry.sectorShift) }
}

/// How a disk discards.
public struct DiscardAbility: Equatable, Sendable {
  /// The smallest run that really frees space, in bytes.
  public var granularity: Int
  /// The offset of the first such run, in bytes.
  public var alignment: Int
  /// Whether the old contents can be destroyed on request.
  public var isSecureSupported: Bool
  /// Whether a discarded range reads as zeros afterwards, every byte of it and for good.
  public var leavesZeros: Bool

  /// Describes discard.
  public init(granularity: Int = 4096, alignment: Int = 0, isSecureSupported: Bool = false, leavesZeros: Bool = false) {
    self.granularity = granularity
    self.alignment = alignment
    self.isSecureSupported = isSecureSupported
    self.leavesZeros = leavesZeros
  }
}

/// Why a disk cannot be opened or used.
public enum BlockError: Error, Equatable, Sendable {
  /// The name does not lead to anything.
  case notFound(path: String)
  /// It is there, and is not a regular file or block device.
  case notADisk(path: String, kind: String)
  /// It has no whole sector.
  case empty(path: String)
  /// Somebody else holds it; `holder` names them where the system tells.
  case locked(path: String, holder: String?)
  /// The system forbids it.
  case permissionDenied(path: String)
  /// A system call failed.
  case system(call: String, path: String, code: CInt)
  /// A parameter that the disk cannot follow.
  case unsupported(String)
  /// The device on the other side has gone, or refused to connect; the sentence says why.
  case disconnected(String)
}
