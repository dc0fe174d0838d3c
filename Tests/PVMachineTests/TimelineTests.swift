// SPDX-License-Identifier: MIT

import BlockBack
import BlockFront
import BlockIO
import DiskImages
import PVMachine
import Testing

@Suite("What happened to each request")
struct TimelineTests {
  private func event(_ time: UInt64, _ stage: FrontStage, _ request: UInt64, _ detail: UInt64 = 0) -> QueueEvent {
    QueueEvent(time: time, request: request, detail: detail, stage: UInt64(stage.rawValue))
  }
  private func event(_ time: UInt64, _ stage: BackStage, _ request: UInt64, _ detail: UInt64 = 0) -> QueueEvent {
    QueueEvent(time: time, request: request, detail: detail, stage: UInt64(stage.rawValue))
  }

  @Test("two requests in one batch are told apart, and share their publications")
  func batch() {
    let front: [QueueEvent] = [
      event(10, .placed, 3, 1 << 24 | 20), event(11, .placed, 4, 1), event(12, FrontStage.published, 0, 1),
      event(30, .taken, 4), event(31, .taken, 3),
    ]
    let back: [QueueEvent] = [
      event(15, .copied, 3, 6), event(16, .mapped, 3, 20), event(17, .submitted, 3, 800), event(18, .copied, 4, 0),
      event(19, .submitted, 4, 8), event(20, .moved, 4), event(21, .answered, 4), event(22, .moved, 3),
      event(23, .answered, 3), event(24, BackStage.published, 0, 0),
    ]
    let lines = RequestTimeline.timelines(queue: 5, front: front, back: back).sorted { $0.id < $1.id }
    #expect(lines.map(\.id) == [3, 4])
    #expect(lines.allSatisfy { $0.isWhole && $0.queue == 5 })
    #expect(
      lines[0].steps.map(\.stage) == [
        "placed", "published", "copied", "mapped", "submitted", "moved", "answered", "published", "taken",
      ])
    #expect(lines[0].steps.map(\.nanoseconds) == [0, 2, 5, 6, 7, 12, 13, 14, 21])
    #expect(lines[0].operation == 1 && lines[0].slotOperation == 6 && lines[0].segmentCount == 20)
    #expect(lines[0].sector == 800 && lines[1].sector == 8 && lines[1].duration == 19)
  }

  @Test("a slot that is used again is another request; one without a response is left out")
  func reuse() {
    let front: [QueueEvent] = [
      event(1, .placed, 0, 1), event(4, .taken, 0), event(5, .placed, 0, 1), event(8, .taken, 0),
      event(9, .placed, 1, 1),
    ]
    let lines = RequestTimeline.timelines(queue: 0, front: front, back: [event(2, .copied, 0), event(6, .copied, 0)])
    #expect(lines.map(\.start) == [1, 5])
    #expect(lines.map(\.duration) == [3, 3])
  }

  @Test("a log keeps the last events whole, says where it stands, and writes nothing while it is off")
  func log() throws {
    let log = try EventLog()
    log.writer.record(1, 2, 3)
    #expect(log.position == 0)
    log.isOn = true
    for index in 0..<UInt64(EventLog.capacity + 100) { log.writer.record(7, index, index * 2) }
    let (events, next) = log.events(from: 0)
    #expect(next == UInt64(EventLog.capacity + 100))
    #expect(events.count == EventLog.capacity - 1)
    #expect(events.first?.request == 101 && events.last?.request == next - 1)
    #expect(events.allSatisfy { $0.detail == $0.request * 2 && $0.stage == 7 && $0.time > 0 })
    log.isOn = false
    log.writer.record(1, 2, 3)
    #expect(log.events(from: next).events.isEmpty)
  }

  @Test(
    "every request of a disk that is traced has a timeline from its slot to its response", arguments: Placement.allCases
  )
  func traced(placement: Placement) throws {
    var configuration = DiskConfiguration()
    configuration.placement = placement
    let disk = try Machine().attach(NullImage(sectorCount: 4096), as: configuration)
    var queue = try disk.blockingQueue(bufferByteCount: 65_536)
    _ = try queue.read(512, at: 0)
    let trace = disk.trace()
    for index in 0..<20 {
      try queue.write(Array(repeating: 1, count: index == 7 ? 65_536 : 4096), at: UInt64(index) * 4096)
    }
    try queue.flush()
    let lines = trace.timelines()
    #expect(lines.count == 21)
    #expect(lines.allSatisfy { $0.isWhole && $0.steps.contains { $0.stage == "copied" } })
    #expect(lines[3].sector == 24 && lines[3].operation == 1 && lines[3].segmentCount == 1)
    #expect(lines[7].segmentCount == 16 && lines[7].slotOperation == 6)
    #expect(lines[20].operation == 3)
    for line in lines { #expect(line.steps.map(\.nanoseconds) == line.steps.map(\.nanoseconds).sorted()) }
    _ = consume queue
    disk.detach()
  }
}
