// SPDX-License-Identifier: MIT

import CLinux
public import GuestMemory
public import Synchronization

/// Which parts of a file were in the page cache when somebody looked; shared by all queues of an image.
///
/// A part is 2 MiB, and a word of the table stands for it:
///
///     UInt32.max   all of it was there
///     else         the pages that have been read from it since somebody looked
///
/// A look comes after a quarter of a part has been read: a page that is touched in the mapping for the first time costs a fault, which only
/// pays where more reads follow.
///
/// The kernel drops pages without telling. A copy from the mapping then waits for the device on the spot, which counts as a major
/// fault of the thread; a queue that sees one forgets everything, and what is still there is found again. Words are read and
/// written by any queue without order: one that is wrong costs such a wait, or a system call.
@usableFromInline
struct CachedParts: Sendable {
  @inlinable static var shift: UInt64 { 21 }
  static var pagesBetweenLooks: UInt32 { 128 }

  @usableFromInline let words: SharedRegion
  private let byteCount: UInt64

  /// Bytes of zeroed memory that the table for a file takes.
  static func tableByteCount(for byteCount: UInt64) -> Int {
    PageGeometry.pages(for: Int((byteCount &- 1) >> shift &+ 1) * 4) * PageGeometry.pageSize
  }

  init(words: SharedRegion, byteCount: UInt64) {
    self.words = words
    self.byteCount = byteCount
  }

  @inlinable
  func word(_ part: UInt64) -> SharedWord<UInt32> { words.word32(at: Int(part) &* 4) }

  /// Whether all of a range, which is not empty and lies in the file, was there.
  @inlinable
  func areCached(_ offset: UInt64, byteCount count: UInt64) -> Bool {
    let last = (offset &+ count &- 1) >> Self.shift
    var part = offset >> Self.shift
    while part <= last {
      guard word(part).loadRelaxed() == .max else { return false }
      part &+= 1
    }
    return true
  }

  /// Takes note of a read that the page cache served, and looks at its parts now and then.
  @usableFromInline
  func noteRead(_ descriptor: CInt, _ offset: UInt64, byteCount count: UInt64) {
    guard count > 0, offset < byteCount, count <= byteCount &- offset else { return }
    let end = offset &+ count
    for part in offset >> Self.shift...(end &- 1) >> Self.shift {
      let word = word(part)
      let known = word.loadRelaxed()
      if known == .max { continue }
      let start = max(offset, part << Self.shift)
      let pages = known &+ UInt32(PageGeometry.pages(for: Int(min(end, (part &+ 1) << Self.shift) &- start)))
      if pages < Self.pagesBetweenLooks {
        word.storeRelaxed(pages)
      } else {
        word.storeRelaxed(isCached(part, descriptor) ? .max : 0)
      }
    }
  }

  private func isCached(_ part: UInt64, _ descriptor: CInt) -> Bool {
    let start = part << Self.shift
    let count = min(1 << Self.shift, byteCount - start)
    return pv_cached_pages(descriptor, start, count) == Int64(PageGeometry.pages(for: Int(count)))
  }

  /// Forgets what is known.
  func forget() {
    for part in 0...(byteCount - 1) >> Self.shift { word(part).storeRelaxed(0) }
  }
}

/// A queue's count of the times that a copy from the mapping had to wait.
@usableFromInline
struct FaultWatch {
  /// Copies between two looks, each a getrusage(2).
  @inlinable static var interval: UInt32 { 32 }

  @usableFromInline var copies: UInt32 = 0
  private var faults: Int64 = -1

  init() {}

  /// Takes note of a copy; forgets the parts if one has waited lately.
  @inlinable @inline(__always)
  mutating func noteCopy(of parts: CachedParts?) {
    guard let parts else { return }
    copies &+= 1
    if copies & (Self.interval &- 1) == 0 { look(parts) }
  }

  @usableFromInline @inline(never)
  mutating func look(_ parts: CachedParts) {
    let now = pv_major_faults_of_thread()
    if faults >= 0 && now != faults { parts.forget() }
    faults = now
  }
}
