// SPDX-License-Identifier: MIT

public import GuestMemory

/// What kinds of I/O have their times counted apart.
public enum LatencyKind: Int, CaseIterable, Sendable {
  case read = 0
  case write
  case flush
  /// Discards, and zeroes that are written.
  case discard

  /// The name as it is reported.
  public var name: String { "\(self)" }

  /// The kind of an operation.
  @inlinable
  public init(_ operation: IOOperation) {
    switch operation {
    case .read: self = .read
    case .write: self = .write
    case .flush: self = .flush
    case .discard, .secureDiscard, .writeZeroes: self = .discard
    }
  }
}

/// Times in nanoseconds, counted in buckets as HdrHistogram lays them out: eight to each power of two, so that a bucket is
/// never wider than an eighth of what it holds.
///
/// ```
/// bucket   0 1 ... 7 | 8 ... 15 | 16 ... 23 | ...
/// from ns  0 1 ... 7 | 8 ... 15 | 16,18..30 | 32,36..60 ...       up to 2^40 ns, eighteen minutes
/// ```
///
/// One thread writes, any may read: see ``CounterTable``.
public final class LatencyTable: Sendable {
  private let table: CounterTable

  /// Buckets of one kind.
  public static let bucketCount = (40 - 2) * 8

  /// Makes a table without times.
  /// - Throws: ``SystemError`` when there is no memory.
  public init() throws(SystemError) {
    table = try CounterTable(count: LatencyKind.allCases.count * (Self.bucketCount + 1))
  }

  /// The end that the one writer holds.
  public var recorder: LatencyRecorder { LatencyRecorder(counters: table.writer) }

  /// How many times fell into a bucket.
  public func count(_ kind: LatencyKind, bucket: Int) -> UInt64 {
    table[kind.rawValue * (Self.bucketCount + 1) + bucket]
  }

  /// The sum of the times of a kind, in nanoseconds.
  public func sum(_ kind: LatencyKind) -> UInt64 { count(kind, bucket: Self.bucketCount) }

  /// The first time that is too long for a bucket, in nanoseconds.
  public static func limit(ofBucket bucket: Int) -> UInt64 {
    if bucket < 8 { return UInt64(bucket) + 1 }
    let octave = UInt64(bucket / 8) - 1
    return (UInt64(bucket % 8) + 9) << octave
  }
}

/// The end of a ``LatencyTable`` that its one writer holds; recording is a load and a store.
public struct LatencyRecorder: Sendable {
  @usableFromInline let counters: CounterWriter

  init(counters: CounterWriter) { self.counters = counters }

  /// The bucket of a time.
  @inlinable
  static func bucket(of nanoseconds: UInt64) -> Int {
    if nanoseconds < 8 { return Int(truncatingIfNeeded: nanoseconds) }
    let exponent = 63 &- nanoseconds.leadingZeroBitCount
    let eighth = Int(truncatingIfNeeded: nanoseconds &>> UInt64(truncatingIfNeeded: exponent &- 3)) & 7
    return min((exponent &- 2) &* 8 &+ eighth, LatencyRecorder.lastBucket)
  }

  @usableFromInline static var lastBucket: Int { (40 - 2) * 8 - 1 }

  /// Counts a time.
  @inlinable
  public func record(_ kind: LatencyKind, nanoseconds: UInt64) {
    let first = kind.rawValue &* (LatencyRecorder.lastBucket &+ 2)
    counters.add(1, to: first &+ LatencyRecorder.bucket(of: nanoseconds))
    counters.add(nanoseconds, to: first &+ LatencyRecorder.lastBucket &+ 1)
  }
}
