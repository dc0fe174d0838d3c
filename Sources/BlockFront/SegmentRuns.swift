// SPDX-License-Identifier: MIT

/// Which entries of the segment ring are taken (variant B): the frontend's own book, the peer never sees it.
///
/// Runs are taken one behind the other and go round the end of the ring. They are given back in any order; an entry is free
/// again when its run and all older ones were given back, so the free entries are always one run themselves.
@safe @usableFromInline
struct SegmentRuns: ~Copyable {
  // SAFETY: `lengths` addresses `capacity` initialised elements until deinit; a run uses at least one entry, so no more than
  // `entries` = `capacity` runs exist; numbers of runs come from `take`.
  /// Runs in a ring of places, oldest first; a run that was given back and waits for older ones is negative.
  private let lengths: UnsafeMutablePointer<Int32>
  private let entries: Int
  private var oldest = 0
  private var count = 0
  private var next = 0
  /// Entries that can be taken.
  @usableFromInline private(set) var freeCount: Int

  init(entries: UInt32) {
    self.entries = Int(entries)
    freeCount = Int(entries)
    unsafe lengths = .allocate(capacity: max(1, self.entries))
    unsafe lengths.initialize(repeating: 0, count: max(1, self.entries))
  }

  @usableFromInline
  deinit { unsafe lengths.deallocate() }

  /// Takes `length` entries.
  /// - Returns: the first one's index, and the run's number for ``giveBack(_:)``.
  mutating func take(_ length: Int) -> (start: UInt32, run: Int32) {
    precondition(length > 0 && length <= freeCount, "more entries than are free")
    let start = UInt32(next)
    next = (next + length) % entries
    freeCount -= length
    let run = (oldest + count) % entries
    unsafe lengths[run] = Int32(length)
    count += 1
    return (start, Int32(run))
  }

  /// Gives a run's entries back.
  @usableFromInline
  mutating func giveBack(_ run: Int32) {
    unsafe lengths[Int(run)] = -lengths[Int(run)]
    while count > 0 {
      let length = unsafe lengths[oldest]
      guard length < 0 else { return }
      freeCount -= Int(length)
      oldest = (oldest + 1) % entries
      count -= 1
    }
  }
}
