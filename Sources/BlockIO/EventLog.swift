// SPDX-License-Identifier: MIT

import CLinux
public import GuestMemory
import Synchronization

/// One thing that happened to a request, as one end of a queue saw it.
public struct QueueEvent: Equatable, Sendable, BitwiseCopyable {
  /// When: nanoseconds of the monotonic clock.
  public var time: UInt64
  /// What it happened to: a slot's id or an I/O's number, as the stage says.
  public var request: UInt64
  /// What else there is to say, as the stage says.
  public var detail: UInt64
  /// What happened: a number of the end that reports it.
  public var stage: UInt64

  /// Describes an event.
  public init(time: UInt64, request: UInt64, detail: UInt64, stage: UInt64) {
    self.time = time
    self.request = request
    self.detail = detail
    self.stage = stage
  }
}

/// The last events of one end of a queue: one thread writes them, any thread may read, nobody locks.
///
/// ```
///   0       8       64
///   | head  | on    | record 0 | record 1 | ... | record n-1 |      32 bytes each: time, request, detail, stage
/// ```
/// `head` counts all records ever written; record k stands at k mod n. While the log is off an event costs one load and one
/// branch, and the memory does not exist.
public final class EventLog: Sendable {
  private let memory: MappedMemory
  /// Records that the log holds, a power of two.
  public static let capacity = 8192

  /// Makes an empty log that is off.
  /// - Throws: ``SystemError`` when there is no address space.
  public init() throws(SystemError) {
    let byteCount = EventWriter.recordsOffset + Self.capacity * EventWriter.recordSize
    memory = try MappedMemory(anonymousByteCount: PageGeometry.pages(for: byteCount) * PageGeometry.pageSize)
  }

  /// Whether events are written down.
  public var isOn: Bool {
    get { memory.region.word32(at: EventWriter.switchOffset).loadRelaxed() != 0 }
    set { memory.region.word32(at: EventWriter.switchOffset).storeRelaxed(newValue ? 1 : 0) }
  }

  /// How many events were ever written down.
  public var position: UInt64 { memory.region.word64(at: 0).loadAcquiring() }

  /// The events from a position on that are still there, and the position behind them.
  public func events(from start: UInt64) -> (events: [QueueEvent], next: UInt64) {
    let end = position
    let capacity = UInt64(Self.capacity)
    let first = max(start, end > capacity ? end - capacity : 0)
    guard first < end else { return ([], end) }
    let copies = (first..<end).map { event(at: $0) }
    // The writer went on meanwhile: what it may have written over is not what it was.
    pv_full_barrier()
    let now = position + 1
    let intact = max(first, now > capacity ? now - capacity : 0)
    return (intact < end ? Array(copies[Int(intact - first)...]) : [], end)
  }

  private func event(at index: UInt64) -> QueueEvent {
    let place = EventWriter.place(of: index)
    func word(_ offset: Int) -> UInt64 { memory.region.load(UInt64.self, at: place + offset) }
    return QueueEvent(time: word(0), request: word(8), detail: word(16), stage: word(24))
  }

  /// The writer's view; for one thread at a time, and no longer than this log lives.
  public var writer: EventWriter { EventWriter(region: memory.region) }
}

/// The end of an ``EventLog`` that its one writer holds.
public struct EventWriter: Sendable {
  @usableFromInline let region: SharedRegion

  init(region: SharedRegion) { self.region = region }

  @usableFromInline static let switchOffset = 8
  static let recordsOffset = 64
  static let recordSize = 32

  static func place(of index: UInt64) -> Int {
    recordsOffset + Int(truncatingIfNeeded: index & UInt64(EventLog.capacity - 1)) * recordSize
  }

  /// Writes an event down if the log is on.
  @inlinable @inline(__always)
  public func record(_ stage: Int, _ request: UInt64, _ detail: UInt64) {
    if region.word32(at: EventWriter.switchOffset).loadRelaxed() != 0 { write(stage, request, detail) }
  }

  @usableFromInline
  func write(_ stage: Int, _ request: UInt64, _ detail: UInt64) {
    let head = region.word64(at: 0)
    let index = head.loadRelaxed()
    let place = Self.place(of: index)
    region.store(pv_monotonic_nanoseconds(), at: place)
    region.store(request, at: place + 8)
    region.store(detail, at: place + 16)
    region.store(UInt64(stage), at: place + 24)
    head.storeReleasing(index &+ 1)
  }
}
