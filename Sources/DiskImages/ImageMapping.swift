// SPDX-License-Identifier: MIT

public import CLinux
import Glibc
public import GuestMemory

/// An image file mapped for reading, so that what is in the page cache is read without a system call.
///
/// A page that the file has lost, because somebody truncated it or because its device failed, ends the copy and not the
/// process: `SIGBUS` is caught for addresses in the mapping while a thread copies from it. The read then goes by the file,
/// and meets the error there.
@safe final class ImageMapping: @unchecked Sendable {
  // SAFETY: the mapping is read only, through `MappedBytes`, and lives as long as this object.
  private let base: UnsafeMutableRawPointer
  private let table: MappedMemory?
  let bytes: MappedBytes

  /// Maps a file's first `byteCount` bytes, to read all of them from, or what is found in the page cache; nothing when the system
  /// will not.
  init?(descriptor: CInt, byteCount: UInt64, onlyCached: Bool = false) {
    guard byteCount > 0, let length = Int(exactly: byteCount), pv_mapped_read_prepare() == 0 else { return nil }
    var parts: CachedParts?
    var table: MappedMemory?
    if onlyCached {
      let count = CachedParts.tableByteCount(for: byteCount)
      guard let made = try? MappedMemory(anonymousByteCount: count) else { return nil }
      parts = CachedParts(words: made.region, byteCount: byteCount)
      table = consume made
    }
    let address = unsafe mmap(nil, length, PROT_READ, MAP_SHARED, descriptor, 0)
    guard let address = unsafe address, unsafe address != MAP_FAILED else { return nil }
    unsafe base = address
    bytes = MappedBytes(address: UInt(bitPattern: address), byteCount: byteCount, parts: parts)
    self.table = table
  }

  deinit { unsafe _ = munmap(base, Int(bytes.byteCount)) }
}

/// Where a mapping is, for those who know that it lives.
@usableFromInline
struct MappedBytes: Sendable {
  @usableFromInline let address: UInt
  /// 0 for no mapping.
  @usableFromInline let byteCount: UInt64
  /// What may be read from it; nil for everything.
  @usableFromInline let parts: CachedParts?

  static let none = MappedBytes(address: 0, byteCount: 0, parts: nil)

  /// Whether a range lies in the mapping, and may be read from it.
  @inlinable
  func offers(_ offset: UInt64, byteCount count: UInt64) -> Bool {
    guard count > 0, offset < byteCount, count <= byteCount &- offset else { return false }
    guard let parts else { return true }
    return parts.areCached(offset, byteCount: count)
  }

  /// Copies a range that is offered: the number of bytes, or a negative `errno` when the file has lost it.
  @inlinable
  func read(_ memory: MemoryExtentList, offset: UInt64) -> Int {
    // SAFETY: the range lies in the mapping; the submitter keeps the extents, which are as long as the range.
    unsafe memory.withVectors {
      unsafe pv_mapped_read(UnsafeRawPointer(bitPattern: address), byteCount, offset, $0, CInt($1))
    }
  }
}
