// SPDX-License-Identifier: MIT

import CLinux
import Synchronization

/// The order in which one thread may take locks: each after the ones above it, none twice.
enum LockRank: UInt32, Sendable {
  /// Making a domain.
  case creation
  /// The list of domains.
  case domains
  /// A guest's pages for FIFO events.
  case eventPages
  /// Who is bound to whom.
  case topology
  /// A guest's free references.
  case references
  /// A granter's pins.
  case granterTable
  /// A mapper's handles and windows.
  case mapperTable
  /// A domain's free pages.
  case memory
}

/// A mutex that knows its place: debug builds stop when a thread takes locks out of order (Xen advisory 73).
struct RankedLock<Value: ~Copyable>: ~Copyable, Sendable {
  private let mutex: Mutex<Value>
  private let rank: LockRank

  init(_ rank: LockRank, _ value: consuming sending Value) {
    mutex = Mutex(value)
    self.rank = rank
  }

  /// Runs `body` with the value, alone.
  @inline(__always)
  func withLock<Answer: ~Copyable, Failure: Error>(
    _ body: (inout sending Value) throws(Failure) -> sending Answer
  ) throws(Failure) -> sending Answer {
    #if DEBUG
      precondition(pv_held_lock_ranks() >> rank.rawValue == 0, "locks are taken out of order")
      pv_set_held_lock_ranks(pv_held_lock_ranks() | 1 << rank.rawValue)
      defer { pv_set_held_lock_ranks(pv_held_lock_ranks() & ~(1 << rank.rawValue)) }
    #endif
    return try mutex.withLock(body)
  }
}
