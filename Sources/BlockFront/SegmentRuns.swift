// SPDX-License-Identifier: MIT

/// Which entries of the segment ring are taken (variant B): the frontend's own book, the peer never sees it.
///
/// Runs are taken one behind the other and go round the end of the ring. They are given back in any order; an entry is free
/// again when its run and all older ones were given back, so the free entries are always one run themselves.
@safe @usableFromInline
struct SegmentRuns: ~Copyable {
  // SAFETY: `lengths` addresses `entries` and `places` `slots` initialised elements (one of each at least) until deinit; a run
  // uses at least one entry, so no more than `entries` runs exist; slot ids come from the shadow table, which has as many.
  /// Runs in a ring of places, oldest first; a run that was given back and waits for older ones is negative.
  private let lengths: UnsafeMutablePointer<Int32>
  /// Each slot's run.
  private let places: UnsafeMutablePointer<Int32>
  private let slots: Int
  /// Entries of the ring; 0 where there is none.
  @usableFromInline let entries: Int
  private var oldest = 0
  private var count = 0
  private var next = 0
  /// Entries that can be taken.
  @usableFromInline private(set) var freeCount: Int

  init(entries: UInt32, slots: Int) {
    self.entries = Int(entries)
    self.slots = slots
    unsafe places = .allocate(capacity: slots)
    unsafe places.initialize(repeating: 0, count: slots)
    freeCount = Int(entries)
    unsafe lengths = .allocate(capacity: max(1, self.entries))
    unsafe lengths.initialize(repeating: 0, count: max(1, self.entries))
  }

  @usableFromInline
  deinit {
    unsafe lengths.deallocate()
    unsafe places.deallocate()
  }

  /// Takes `length` entries for a slot.
  /// - Returns: the first one's index.
  mutating func take(_ length: Int, for slot: Int) -> UInt32 {
    precondition(length > 0 && length <= freeCount && slot < slots, "more entries than are free, or no such slot")
    let start = UInt32(next)
    next = (next + length) % entries
    freeCount -= length
    let run = (oldest + count) % entries
    unsafe lengths[run] = Int32(length)
    unsafe places[slot] = Int32(run)
    count += 1
    return start
  }

  /// Gives a slot's entries back.
  @usableFromInline
  mutating func giveBack(of slot: Int) {
    precondition(slot < slots, "no such slot")
    let run = unsafe Int(places[slot])
    unsafe lengths[run] = -lengths[run]
    while count > 0 {
      let length = unsafe lengths[oldest]
      guard length < 0 else { return }
      freeCount -= Int(length)
      oldest = (oldest + 1) % entries
      count -= 1
    }
  }
}
