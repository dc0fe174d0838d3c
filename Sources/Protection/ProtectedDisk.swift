// SPDX-License-Identifier: MIT

public import BlockIO
import GuestMemory
import Synchronization

/// A disk whose every interval is vouched for: writes store a tuple beside the image, reads are checked against it.
///
/// A bit that flips in the image, and a write that lands elsewhere, come out at the next read as `EILSEQ` and as a
/// ``ProtectionViolation`` that names the sector. An interval that was never written through here is not checked.
public final class ProtectedDisk<Base: BlockDevice>: BlockDevice {
  /// The data plane.
  public typealias Queue = ProtectedQueue<Base.Queue>

  /// The disk under it.
  public let base: Base
  /// Where the tuples are.
  public let tags: TagFile
  /// What was found.
  public let findings = ProtectionFindings()

  /// Puts protection on a disk.
  public init(_ base: Base, tags: TagFile) {
    precondition(
      base.geometry.logicalSectorSize <= tags.form.intervalByteCount || tags.form.intervalShift == 9,
      "an interval is at least a logical sector")
    self.base = base
    self.tags = tags
  }

  /// The base's, with logical sectors at least as long as an interval.
  public var geometry: BlockGeometry {
    var geometry = base.geometry
    geometry.logicalSectorSize = max(geometry.logicalSectorSize, tags.form.intervalByteCount)
    geometry.physicalSectorSize = max(geometry.physicalSectorSize, geometry.logicalSectorSize)
    return geometry
  }
  /// The base's.
  public var queueCount: Int { base.queueCount }
  /// The base's.
  public func nextData(from offset: UInt64) -> UInt64? { base.nextData(from: offset) }
  /// The base's.
  public func nextHole(from offset: UInt64) -> UInt64 { base.nextHole(from: offset) }

  /// Makes a queue over one of the base's.
  public func makeQueue(_ index: Int, buffers: BufferDemand) throws(BlockError) -> ProtectedQueue<Base.Queue> {
    let queue = try base.makeQueue(index, buffers: buffers)
    do throws(SystemError) {
      return try ProtectedQueue(queue, tags: tags, findings: findings)
    } catch { throw .system(call: "\(error.call)", path: "the queue's tuples", code: error.code) }
  }
}

/// The violations that a disk has seen: how many, and the first ones.
public final class ProtectionFindings: Sendable {
  private struct State {
    var count = 0
    var first: [ProtectionViolation] = []
    var last: ProtectionViolation?
    var handler: (@Sendable (ProtectionViolation) -> Void)?
  }

  private let state = Mutex(State())
  /// The most that are kept.
  public static let kept = 64

  /// Starts without findings.
  public init() {}

  /// How many there were.
  public var count: Int { state.withLock { $0.count } }
  /// The first ones.
  public var violations: [ProtectionViolation] { state.withLock { $0.first } }

  /// The last one.
  public var last: ProtectionViolation? { state.withLock { $0.last } }

  /// Has each of them told to `handler`, on the thread that found it.
  public func onViolation(_ handler: (@Sendable (ProtectionViolation) -> Void)?) {
    state.withLock { $0.handler = handler }
  }

  /// Notes one: the end of a request that has failed, where a lock does no harm.
  public func note(_ violation: ProtectionViolation) {
    let handler = state.withLock { state in
      state.count += 1
      state.last = violation
      if state.first.count < ProtectionFindings.kept { state.first.append(violation) }
      return state.handler
    }
    handler?(violation)
  }
}
