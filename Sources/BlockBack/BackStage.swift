// SPDX-License-Identifier: MIT

public import BlockIO

/// What happens to a request in a backend queue, as its event log has it.
public enum BackStage: Int, CaseIterable, Sendable {
  /// It was copied out of the ring: its id; the operation.
  case copied = 0
  /// Pages of it that were not mapped before have been mapped: its id; how many.
  case mapped
  /// The image was asked: its id; the first sector.
  case submitted
  /// The image has done its part: its id; the `errno`.
  case moved
  /// The response stands in a slot: the id; the status.
  case answered
  /// The responses were shown to the frontend: nothing; 1 when it had to be notified.
  case published

  /// The name as it is reported.
  public var name: String { "\(self)" }
}

extension BackQueue where Image: ~Copyable {
  @inlinable @inline(__always)
  func note(_ stage: BackStage, _ id: UInt64, _ detail: UInt64) {
    counters.events.record(stage.rawValue, id, detail)
  }
}
