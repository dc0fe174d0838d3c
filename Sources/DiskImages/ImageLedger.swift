// SPDX-License-Identifier: MIT

public import Synchronization

/// What the queues of one image share: its size, and what has become of the writes.
///
/// The rules for `dirty` and `syncsInFlight`, which together let a flush be skipped only when there is nothing to flush:
/// a write sets `dirty` when it has been made and before it is reported; a sync counts itself in, then clears `dirty`,
/// then asks the kernel; it counts itself out when the kernel has answered. So when `dirty` is clear and afterwards no
/// sync is in flight, every write that had been reported has been synced.
@usableFromInline
final class ImageLedger: Sendable {
  /// The disk's size in 512-byte sectors.
  @usableFromInline let sectorCount: Atomic<UInt64>
  /// Whether something may have been written since the last sync began.
  ///
  /// Starts set: others may have written the file.
  @usableFromInline let dirty = Atomic<Bool>(true)
  private let syncsInFlight = Atomic<Int>(0)
  /// The number of failed syncs in the upper half, the last one's `errno` in the lower.
  private let failures = Atomic<UInt64>(0)
  /// Whether the file has turned out to be unable to punch holes.
  let discardIsUnsupported = Atomic<Bool>(false)

  init(sectorCount: UInt64) { self.sectorCount = Atomic(sectorCount) }

  /// Notes a write that has been made and is not reported yet.
  @inlinable
  func noteWrite() {
    if !dirty.load(ordering: .relaxed) { dirty.store(true, ordering: .sequentiallyConsistent) }
  }

  /// Whether a flush would find nothing to do.
  var isClean: Bool {
    !dirty.load(ordering: .sequentiallyConsistent) && syncsInFlight.load(ordering: .sequentiallyConsistent) == 0
  }

  /// Notes a sync that is about to be asked for.
  func beginSync() {
    syncsInFlight.add(1, ordering: .sequentiallyConsistent)
    dirty.store(false, ordering: .sequentiallyConsistent)
  }

  /// Notes a sync that the kernel has answered; `errorCode` is 0 or a positive `errno`.
  func endSync(errorCode: CInt) {
    if errorCode != 0 { noteFailure(errorCode) }
    syncsInFlight.subtract(1, ordering: .sequentiallyConsistent)
  }

  /// Notes that written data may have been lost.
  ///
  /// Every queue's next flush will fail.
  func noteFailure(_ errorCode: CInt) {
    dirty.store(true, ordering: .sequentiallyConsistent)
    var seen = failures.load(ordering: .relaxed)
    while true {
      let next = ((seen >> 32) + 1) << 32 | UInt64(UInt32(bitPattern: errorCode))
      let (exchanged, original) = failures.compareExchange(
        expected: seen, desired: next, ordering: .sequentiallyConsistent)
      if exchanged { return }
      seen = original
    }
  }

  /// The number of failed syncs so far, and the last one's `errno`.
  var writebackFailures: (generation: UInt32, errorCode: CInt) {
    let packed = failures.load(ordering: .sequentiallyConsistent)
    return (UInt32(truncatingIfNeeded: packed >> 32), CInt(truncatingIfNeeded: packed))
  }
}
