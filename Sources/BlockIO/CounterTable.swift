// SPDX-License-Identifier: MIT

public import GuestMemory
public import Synchronization

/// What one end of a queue reports: counters, and a log of events.
///
/// One thread writes, any thread may read.
///
/// The writer pays a plain load and store; nobody locks. Readers see each counter whole, but not all at one instant.
public final class CounterTable: Sendable {
  private let memory: MappedMemory
  /// The number of counters.
  public let count: Int
  /// The events; off until somebody wants them.
  public let events: EventLog

  /// Makes `count` counters at zero.
  /// - Throws: ``SystemError`` when there is no memory.
  public init(count: Int) throws(SystemError) {
    self.count = count
    events = try EventLog()
    memory = try MappedMemory(anonymousByteCount: PageGeometry.pages(for: count * 8) * PageGeometry.pageSize)
  }

  /// A counter's value.
  public subscript(index: Int) -> UInt64 {
    precondition(index < count, "no such counter")
    return memory.region.word64(at: index * 8).loadRelaxed()
  }

  /// The writer's view; for one thread at a time, and no longer than this table lives.
  public var writer: CounterWriter { CounterWriter(region: memory.region, events: events.writer) }
}

/// The end of a ``CounterTable`` that its one writer holds.
public struct CounterWriter: Sendable {
  @usableFromInline let region: SharedRegion
  /// Where this end's events go.
  public let events: EventWriter

  init(region: SharedRegion, events: EventWriter) {
    self.region = region
    self.events = events
  }

  /// Adds to a counter.
  @inlinable @inline(__always)
  public func add(_ amount: UInt64, to index: Int) {
    let word = region.word64(at: index &* 8)
    word.storeRelaxed(word.loadRelaxed() &+ amount)
  }

  /// Sets a counter that is a level rather than a sum.
  @inlinable @inline(__always)
  public func set(_ value: UInt64, at index: Int) { region.word64(at: index &* 8).storeRelaxed(value) }
}
