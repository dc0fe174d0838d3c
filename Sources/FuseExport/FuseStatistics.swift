// SPDX-License-Identifier: MIT

public import GuestMemory
public import Synchronization

/// What a mount has done so far; read while it works, so the figures need not agree to the last request.
public struct FuseStatistics: Equatable, Sendable {
  /// READ requests.
  public var reads: UInt64 = 0
  /// WRITE requests.
  public var writes: UInt64 = 0
  /// WRITE requests that began or ended inside a sector.
  public var partialSectorWrites: UInt64 = 0
  /// FSYNC requests.
  public var flushes: UInt64 = 0
  /// FALLOCATE requests.
  public var allocations: UInt64 = 0
  /// Every other request.
  public var others: UInt64 = 0
  /// Bytes that READ answered.
  public var bytesRead: UInt64 = 0
  /// Bytes that WRITE answered.
  public var bytesWritten: UInt64 = 0
  /// READ, WRITE, FSYNC and FALLOCATE requests that were answered with an error.
  public var failures: UInt64 = 0
  /// Requests that made no sense, and were refused or dropped.
  public var malformed: UInt64 = 0
  /// Times that a reactor slept and was woken.
  public var wakeUps: UInt64 = 0
  /// Sleeps in the very call that fetches the next request; counted under ``wakeUps`` and ``receiveCalls``, too.
  public var sleepsInRead: UInt64 = 0
  /// System calls that fetched requests, with and without success.
  public var receiveCalls: UInt64 = 0
  /// System calls that fetched requests and found none.
  public var emptyReceiveCalls: UInt64 = 0
  /// System calls that sent answers.
  public var answerCalls: UInt64 = 0
  /// Answers that the kernel did not take: the asker had gone, or the file system had.
  public var lostAnswers: UInt64 = 0

  /// Requests over io_uring that one reactor gave to its neighbour: large ones to share them, small ones to send them home.
  public var shared: UInt64 = 0

  /// Requests of all kinds.
  public var requests: UInt64 { reads &+ writes &+ flushes &+ allocations &+ others }
}

/// One reactor's counters: written by its thread alone, read by anybody.
@usableFromInline
struct ReactorCounters {
  /// The places of the counters.
  @usableFromInline
  enum Kind: Int, CaseIterable {
    case reads, writes, partialSectorWrites, flushes, allocations, others, bytesRead, bytesWritten
    case failures, malformed, wakeUps, receiveCalls, emptyReceiveCalls, answerCalls, lostAnswers
    case sleepsInRead, shared
  }

  @usableFromInline let memory: SharedRegion

  static var byteCount: Int { 256 }

  init(memory: SharedRegion) {
    precondition(memory.byteCount >= Self.byteCount, "a reactor's counters need \(Self.byteCount) bytes")
    self.memory = memory
  }

  /// Adds to a counter; only the reactor's own thread may.
  @inlinable @inline(__always)
  func add(_ amount: UInt64 = 1, to kind: Kind) {
    let word = memory.word64(at: kind.rawValue &* 8)
    word.storeReleasing(word.loadRelaxed() &+ amount)
  }

  subscript(kind: Kind) -> UInt64 { memory.word64(at: kind.rawValue &* 8).loadRelaxed() }

  /// Adds these counters to a sum.
  func accumulate(into sum: inout FuseStatistics) {
    sum.reads &+= self[.reads]
    sum.writes &+= self[.writes]
    sum.partialSectorWrites &+= self[.partialSectorWrites]
    sum.flushes &+= self[.flushes]
    sum.allocations &+= self[.allocations]
    sum.others &+= self[.others]
    sum.bytesRead &+= self[.bytesRead]
    sum.bytesWritten &+= self[.bytesWritten]
    sum.failures &+= self[.failures]
    sum.malformed &+= self[.malformed]
    sum.wakeUps &+= self[.wakeUps]
    sum.receiveCalls &+= self[.receiveCalls]
    sum.emptyReceiveCalls &+= self[.emptyReceiveCalls]
    sum.answerCalls &+= self[.answerCalls]
    sum.sleepsInRead &+= self[.sleepsInRead]
    sum.lostAnswers &+= self[.lostAnswers]
    sum.shared &+= self[.shared]
  }
}
