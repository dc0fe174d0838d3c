// SPDX-License-Identifier: MIT

import BlockBack
import BlockFront
public import BlockIO

/// One ring request's way from the frontend's slot to its response and back, put together from both ends' logs.
public struct RequestTimeline: Equatable, Sendable {
  /// A point on the way.
  public struct Step: Equatable, Sendable {
    /// Nanoseconds since the request was placed.
    public var nanoseconds: UInt64
    /// `frontend` or `backend`.
    public var end: String
    /// The stage's name: ``FrontStage`` or ``BackStage``.
    public var stage: String
    /// What the stage says beside it.
    public var detail: UInt64
  }

  /// The queue's number.
  public var queue: Int
  /// The slot's id.
  public var id: UInt64
  /// The opcode of what was asked; for an indirect request the inner one.
  public var operation: UInt64
  /// The opcode as the backend read it in the slot.
  public var slotOperation: UInt64
  /// The first sector that the image was asked for.
  public var sector: UInt64
  /// Pages that it named.
  public var segmentCount: Int
  /// When it was placed, in nanoseconds of the monotonic clock.
  public var start: UInt64
  /// Everything that happened to it, in order.
  public var steps: [Step]

  /// Whether its response has been taken.
  public var isWhole: Bool { steps.last?.stage == FrontStage.taken.name }
  /// From the slot to the response, in nanoseconds.
  public var duration: UInt64 { steps.last?.nanoseconds ?? 0 }

  /// Puts the events of one queue's two ends together; requests that are not whole are left out.
  ///
  /// A publication belongs to every request that was placed or answered, and not yet published, when it happened.
  public static func timelines(queue: Int, front: [QueueEvent], back: [QueueEvent]) -> [RequestTimeline] {
    var open: [UInt64: RequestTimeline] = [:]
    var placed: Set<UInt64> = []
    var answered: Set<UInt64> = []
    var finished: [RequestTimeline] = []
    let all = front.map { ($0, true) } + back.map { ($0, false) }
    // Of two events at one instant the frontend's is the earlier on the way there, the later on the way back.
    let ordered = all.enumerated().sorted { ($0.element.0.time, $0.offset) < ($1.element.0.time, $1.offset) }
    for (event, isFront) in ordered.map(\.element) {
      if isFront {
        guard let stage = FrontStage(rawValue: Int(event.stage)) else { continue }
        switch stage {
        case .accepted, .finished: break
        case .placed:
          open[event.request] = RequestTimeline(
            queue: queue, id: event.request, operation: event.detail >> 24 & 0xFF, slotOperation: 0, sector: 0,
            segmentCount: Int(event.detail & 0xFF_FFFF), start: event.time, steps: [])
          open[event.request]?.add(event, "frontend", stage.name)
          placed.insert(event.request)
        case .published:
          for id in placed { open[id]?.add(event, "frontend", stage.name) }
          placed = []
        case .taken:
          open[event.request]?.add(event, "frontend", stage.name)
          if let timeline = open.removeValue(forKey: event.request) { finished.append(timeline) }
        }
      } else {
        guard let stage = BackStage(rawValue: Int(event.stage)) else { continue }
        if stage == .published {
          for id in answered { open[id]?.add(event, "backend", stage.name) }
          answered = []
          continue
        }
        if stage == .copied { open[event.request]?.slotOperation = event.detail }
        if stage == .submitted { open[event.request]?.sector = event.detail }
        if stage == .answered { answered.insert(event.request) }
        open[event.request]?.add(event, "backend", stage.name)
      }
    }
    return finished
  }

  private mutating func add(_ event: QueueEvent, _ end: String, _ stage: String) {
    steps.append(
      Step(nanoseconds: event.time > start ? event.time - start : 0, end: end, stage: stage, detail: event.detail))
  }
}

extension AttachedDisk {
  /// Begins to write down what happens to each request; ends when the answer is let go.
  public func trace() -> DiskTrace { DiskTrace(counters) }
}

/// Writes down what happens in every queue of a disk, for as long as it lives.
///
/// While nobody traces, an event costs the queues one load and one branch.
public final class DiskTrace: Sendable {
  private let tables: [(front: CounterTable, back: CounterTable)]
  private let starts: [(front: UInt64, back: UInt64)]

  init(_ tables: [(front: CounterTable, back: CounterTable)]) {
    self.tables = tables
    starts = tables.map { ($0.front.events.position, $0.back.events.position) }
    set(true)
  }

  deinit { set(false) }

  private func set(_ isOn: Bool) {
    for table in tables {
      table.front.events.isOn = isOn
      table.back.events.isOn = isOn
    }
  }

  /// The requests whose responses were taken since the trace began, as far as the logs reach, by their start.
  public func timelines() -> [RequestTimeline] {
    zip(tables, starts).enumerated().flatMap { index, pair in
      let (table, start) = pair
      return RequestTimeline.timelines(
        queue: index, front: table.front.events.events(from: start.front).events,
        back: table.back.events.events(from: start.back).events)
    }.sorted { $0.start < $1.start }
  }
}
