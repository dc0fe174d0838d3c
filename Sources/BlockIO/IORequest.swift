// SPDX-License-Identifier: MIT

public import GuestMemory

/// What a request does.
public enum IOOperation: UInt8, Sendable, CaseIterable {
  /// Moves sectors into memory.
  case read
  /// Moves memory into sectors.
  case write
  /// Makes every write that completed before it durable.
  case flush
  /// Says that the sectors' contents no longer matter.
  case discard
  /// Like discard, and the old contents must be gone.
  case secureDiscard
  /// Makes the sectors read as zeros.
  case writeZeroes
}

/// A run of 512-byte sectors.
public struct SectorRange: Equatable, Hashable, Sendable {
  /// The first sector.
  public var start: UInt64
  /// The number of sectors.
  public var count: UInt64

  /// Names `count` sectors from `start`.
  @inlinable
  public init(start: UInt64, count: UInt64) {
    self.start = start
    self.count = count
  }

  /// Whether the range lies within a disk of `sectorCount` sectors; a sum that wraps does not.
  @inlinable
  public func fits(in sectorCount: UInt64) -> Bool { start <= sectorCount && count <= sectorCount - start }

  /// The first byte.
  @inlinable public var byteOffset: UInt64 { start << UInt64(PageGeometry.sectorShift) }
  /// The length in bytes.
  @inlinable public var byteCount: UInt64 { count << UInt64(PageGeometry.sectorShift) }
}

/// One request to a ``BlockQueue``.
public struct IORequest: Sendable {
  /// The submitter's own number for it, handed back in the completion.
  public var tag: UInt64
  /// What to do.
  public var operation: IOOperation
  /// Whether a write must be durable when it completes.
  public var forceUnitAccess: Bool
  /// Where; ignored by flush.
  public var sectors: SectorRange
  /// The memory, as long as the sectors, for read and write; kept by the submitter until completion.
  public var memory: MemoryExtentList?

  /// Makes a request.
  @inlinable
  public init(
    tag: UInt64, operation: IOOperation, sectors: SectorRange, memory: MemoryExtentList? = nil,
    forceUnitAccess: Bool = false
  ) {
    self.tag = tag
    self.operation = operation
    self.sectors = sectors
    self.memory = memory
    self.forceUnitAccess = forceUnitAccess
  }
}

/// A finished request.
public struct IOCompletion: Equatable, Sendable {
  /// The submitter's number.
  public var tag: UInt64
  /// 0, or a positive `errno`.
  public var errorCode: CInt

  /// Reports `tag` done, with an `errno` if it failed.
  @inlinable
  public init(tag: UInt64, errorCode: CInt = 0) {
    self.tag = tag
    self.errorCode = errorCode
  }
}
