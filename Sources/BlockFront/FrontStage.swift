// SPDX-License-Identifier: MIT

public import BlockIO
public import XenWire

/// What happens to an I/O in a frontend queue, as its event log has it.
public enum FrontStage: Int, CaseIterable, Sendable {
  /// The user's request came: I/O number; its first sector.
  case accepted = 0
  /// A ring request for it stands in a slot: slot id; ``placed(_:_:_:)``.
  case placed
  /// The slots were shown to the backend: nothing; 1 when it had to be notified.
  case published
  /// A response was taken and found good: slot id; the status.
  case taken
  /// The user can have the outcome: I/O number; its `errno`.
  case finished

  /// The name as it is reported.
  public var name: String { "\(self)" }

  /// The detail of ``placed``: the I/O's number in bits 63...32, the opcode in 31...24, the segments in 23...0.
  @inlinable
  static func placed(_ io: Int, _ operation: BlockOperation, _ segmentCount: Int) -> UInt64 {
    UInt64(truncatingIfNeeded: io) << 32 | UInt64(operation.rawValue) << 24 | UInt64(truncatingIfNeeded: segmentCount)
  }
}

extension FrontQueue {
  @inlinable @inline(__always)
  func note(_ stage: FrontStage, _ request: Int, _ detail: UInt64) {
    counters.events.record(stage.rawValue, UInt64(truncatingIfNeeded: request), detail)
  }
}
