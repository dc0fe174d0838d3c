// SPDX-License-Identifier: MIT

import PVMachine

/// A trace as it is printed: the form of `trace --json`.
struct TraceReport: Codable {
  struct Step: Codable {
    /// Nanoseconds since the request was placed in its slot.
    var nanoseconds: UInt64
    /// `frontend` or `backend`.
    var end: String
    var stage: String
    var detail: UInt64
  }

  struct Request: Codable {
    var queue: Int
    var slot: UInt64
    var operation: String
    /// Whether the slot named its segments elsewhere.
    var indirect: Bool
    var sector: UInt64
    var segments: Int
    /// Nanoseconds of the monotonic clock.
    var start: UInt64
    var nanoseconds: UInt64
    var steps: [Step]
  }

  /// From one stage to the next, over all requests that have both.
  struct Leg: Codable {
    var from: String
    var to: String
    var medianNanoseconds: UInt64
    var requests: Int
  }

  var requests: [Request]
  var legs: [Leg]

  init(_ timelines: [RequestTimeline]) {
    requests = timelines.map { timeline in
      Request(
        queue: timeline.queue, slot: timeline.id, operation: Self.name(ofOperation: timeline.operation),
        indirect: timeline.slotOperation != timeline.operation,
        sector: timeline.sector, segments: timeline.segmentCount, start: timeline.start,
        nanoseconds: timeline.duration,
        steps: timeline.steps.map { Step(nanoseconds: $0.nanoseconds, end: $0.end, stage: $0.stage, detail: $0.detail) }
      )
    }
    legs = Self.legs(of: requests)
  }

  /// blkif.h's name of an opcode.
  private static func name(ofOperation operation: UInt64) -> String {
    let names = ["READ", "WRITE", "WRITE_BARRIER", "FLUSH_DISKCACHE", "RESERVED_1", "DISCARD", "INDIRECT"]
    return operation < UInt64(names.count) ? names[Int(operation)] : "\(operation)"
  }

  /// What every request passes, in this order; other steps come between in some.
  private static let milestones = [
    "frontend placed", "frontend published", "backend copied", "backend submitted", "backend moved", "backend answered",
    "frontend taken",
  ]

  private static func legs(of requests: [Request]) -> [Leg] {
    let times = requests.map { request in
      Dictionary(
        request.steps.map { ("\($0.end) \($0.stage)", $0.nanoseconds) }, uniquingKeysWith: { first, _ in first })
    }
    return zip(milestones, milestones.dropFirst()).compactMap { from, to in
      let lengths = times.compactMap { step -> UInt64? in
        guard let start = step[from], let end = step[to] else { return nil }
        return end > start ? end - start : 0
      }.sorted()
      guard !lengths.isEmpty else { return nil }
      return Leg(from: from, to: to, medianNanoseconds: lengths[lengths.count / 2], requests: lengths.count)
    }
  }
}

extension TraceReport {
  /// The last requests in full, then the medians of all.
  func text(last count: Int) -> String {
    guard !requests.isEmpty else { return "no request came by" }
    var lines: [String] = []
    for request in requests.suffix(count) {
      let place = request.operation == "FLUSH_DISKCACHE" ? "" : " sector \(request.sector)"
      lines.append(
        "\(request.operation)\(place), \(request.indirect ? "indirect, " : "")\(request.segments) segment\(request.segments == 1 ? "" : "s"), queue "
          + "\(request.queue), slot \(request.slot)")
      lines += request.steps.map { "\(Self.microseconds($0.nanoseconds)) us  \($0.end)  \(Self.sentence($0))" }
      lines.append("")
    }
    lines.append("median over \(requests.count) request\(requests.count == 1 ? "" : "s")")
    lines += legs.map { "\(Self.microseconds($0.medianNanoseconds)) us  \($0.from) -> \($0.to)" }
    return lines.joined(separator: "\n")
  }

  /// Microseconds with two decimals, in nine places.
  private static func microseconds(_ nanoseconds: UInt64) -> String {
    let hundredths = (nanoseconds + 5) / 10
    let text = "\(hundredths / 100).\(hundredths % 100 < 10 ? "0" : "")\(hundredths % 100)"
    return String(repeating: " ", count: max(0, 9 - text.count)) + text
  }

  private static func sentence(_ step: Step) -> String {
    switch "\(step.end) \(step.stage)" {
    case "frontend placed": "wrote the request into its slot"
    case "frontend published":
      step.detail == 0 ? "published it; the backend is awake" : "published it, notified the backend"
    case "frontend taken": "took the response: \(status(step.detail))"
    case "backend copied": "copied the request out of the ring"
    case "backend mapped": "mapped \(step.detail) page\(step.detail == 1 ? "" : "s")"
    case "backend submitted": "asked the image"
    case "backend moved":
      step.detail == 0 ? "has the data where it belongs" : "was told by the image: errno \(step.detail)"
    case "backend answered": "wrote the response into a slot: \(status(step.detail))"
    case "backend published":
      step.detail == 0 ? "published it; the frontend is awake" : "published it, notified the frontend"
    default: step.stage
    }
  }

  /// blkif.h's name of a status.
  private static func status(_ detail: UInt64) -> String {
    switch detail {
    case 0: "OKAY"
    case 0xFFFF: "ERROR"
    case 0xFFFE: "EOPNOTSUPP"
    default: "\(detail)"
    }
  }

  /// The Trace Event Format: a span for each request in its queue's track, and an instant for each step.
  var perfetto: String {
    let events = requests.flatMap { request -> [PerfettoEvent] in
      let start = Double(request.start) / 1000
      let span = PerfettoEvent(
        name: "\(request.operation) \(request.sector)", ph: "X", ts: start, dur: Double(request.nanoseconds) / 1000,
        pid: request.queue, tid: Int(request.slot))
      return [span]
        + request.steps.map { step in
          PerfettoEvent(
            name: "\(step.end) \(step.stage)", ph: "i", ts: start + Double(step.nanoseconds) / 1000, dur: nil,
            pid: request.queue, tid: Int(request.slot))
        }
    }
    return json(["traceEvents": events], pretty: false) + "\n"
  }

  private struct PerfettoEvent: Codable {
    var name: String
    var ph: String
    /// Microseconds.
    var ts: Double
    var dur: Double?
    /// The queue.
    var pid: Int
    /// The slot.
    var tid: Int
  }
}
