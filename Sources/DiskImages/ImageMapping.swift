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
  let bytes: MappedBytes

  /// Maps a file's first `byteCount` bytes; nothing when the system will not.
  init?(descriptor: CInt, byteCount: UInt64) {
    guard byteCount > 0, let length = Int(exactly: byteCount), pv_mapped_read_prepare() == 0 else { return nil }
    let address = unsafe mmap(nil, length, PROT_READ, MAP_SHARED, descriptor, 0)
    guard let address = unsafe address, unsafe address != MAP_FAILED else { return nil }
    unsafe base = address
    bytes = MappedBytes(address: UInt(bitPattern: address), byteCount: byteCount)
  }

  deinit { unsafe _ = munmap(base, Int(bytes.byteCount)) }
}

/// Where a mapping is, for those who know that it lives.
@usableFromInline
struct MappedBytes: Sendable {
  @usableFromInline let address: UInt
  /// 0 for no mapping.
  @usableFromInline let byteCount: UInt64

  static let none = MappedBytes(address: 0, byteCount: 0)

  /// Copies from the mapping: the number of bytes, or a negative `errno` for what it has not, or has lost.
  @inlinable
  func read(_ memory: MemoryExtentList, offset: UInt64, byteCount count: UInt64) -> Int {
    guard offset < byteCount, count <= byteCount &- offset else { return -1 }
    // SAFETY: the range lies in the mapping; the submitter keeps the extents, which are as long as the range.
    return unsafe memory.withVectors {
      unsafe pv_mapped_read(UnsafeRawPointer(bitPattern: address), byteCount, offset, $0, CInt($1))
    }
  }
}
