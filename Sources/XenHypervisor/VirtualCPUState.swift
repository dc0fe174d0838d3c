// SPDX-License-Identifier: MIT

import CLinux
import Glibc
public import Synchronization

/// One virtual CPU's part in being woken; senders on any thread use it.
///
/// It stays in memory for the hypervisor's life, so that a late sender is harmless, and in cache lines of its own.
@usableFromInline
struct WakeState: ~Copyable {
  @usableFromInline static let awake: UInt32 = 0
  @usableFromInline static let sleeping: UInt32 = 1
  @usableFromInline static let kicked: UInt32 = 2

  /// Whether the thread sleeps, or is being woken.
  @usableFromInline let sleep = Atomic<UInt32>(awake)
  /// The eventfd that wakes it; -1 until the CPU is first used.
  @usableFromInline var descriptor: CInt = -1
  @usableFromInline let kicksSent = Atomic<UInt64>(0)
  @usableFromInline let kicksSaved = Atomic<UInt64>(0)
  private let gap = InlineArray<12, UInt64>(repeating: 0)

  @inlinable init() {}

  /// Wakes the thread if it said that it sleeps; a thread that is awake will look by itself.
  @inlinable
  func kick() {
    if sleep.load(ordering: .sequentiallyConsistent) == Self.sleeping,
      sleep.compareExchange(
        expected: Self.sleeping, desired: Self.kicked, ordering: .sequentiallyConsistent
      ).exchanged
    {
      kicksSent.wrappingAdd(1, ordering: .relaxed)
      signal()
    } else {
      kicksSaved.wrappingAdd(1, ordering: .relaxed)
    }
  }

  /// Makes the eventfd readable; fails only when it is already as full as can be.
  @usableFromInline
  func signal() { _ = eventfd_write(descriptor, 1) }

  /// Ends a sleep; answers whether somebody kicked.
  @inlinable
  func end() -> Bool { sleep.exchange(Self.awake, ordering: .sequentiallyConsistent) == Self.kicked }
}

/// Where a virtual CPU's thread stands in taking its events; nobody else touches it, nor a cache line of it.
@usableFromInline
struct DeliveryCursor {
  /// Kicks whose token has not been read from the eventfd yet.
  @usableFromInline var owedTokens: UInt64 = 0
  /// Where the scan of pending ports goes on, so that every port has its turn.
  @usableFromInline var resumeWord = 0
  @usableFromInline var resumeBit = 0
  /// The next port of each FIFO queue that was begun and not finished.
  @usableFromInline var localHeads = InlineArray<16, UInt32>(repeating: 0)
  /// The FIFO queues that are known not to be empty, one bit each.
  @usableFromInline var readyQueues: UInt32 = 0
  private let gap = InlineArray<12, UInt64>(repeating: 0)

  @inlinable init() {}

  /// Takes back the token of a kick.
  ///
  /// A kick that is still on its way stays owed, and is read after the next sleep that it cuts short.
  @inlinable
  mutating func settle(wasKicked: Bool, descriptor: CInt) {
    if wasKicked { owedTokens += 1 }
    if owedTokens > 0 { readTokens(descriptor) }
  }

  @usableFromInline
  mutating func readTokens(_ descriptor: CInt) {
    var value: UInt64 = 0
    // SAFETY: an eventfd gives exactly the eight bytes of `value`.
    guard unsafe read(descriptor, &value, 8) == 8 else { return }
    owedTokens -= min(owedTokens, value)
  }

  /// Forgets where the scan stood; what is owed stays owed.
  mutating func restart() {
    let owed = owedTokens
    self = DeliveryCursor()
    owedTokens = owed
  }
}
