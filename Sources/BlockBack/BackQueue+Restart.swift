// SPDX-License-Identifier: MIT

import SharedRing
import XenHypervisor
import XenWire

/// The end of a process that serves a ring, and the beginning of the next.
extension BackQueue where Image: ~Copyable {
  /// Serves what a former process had taken off this ring and not answered; call it once, before the first ``advance()``.
  /// - Returns: how many requests that were.
  @discardableResult
  public mutating func takeUp() -> Int {
    guard taken.isKept else { return 0 }
    let alive: [Int]
    do {
      let waiting = try ring.unconsumedRequests()
      alive = taken.recover(published: ring.privateResponseProducer, waiting: waiting)
      try ring.passOver(UInt32(alive.count))
    } catch {
      breakOff()
      return 0
    }
    switch format {
    case .classic64: replay(alive, ABI64.self)
    case .classic32: replay(alive, ABI32.self)
    case .wide64: replay(alive, WideFormat<ABI64>.self)
    case .wide32: replay(alive, WideFormat<ABI32>.self)
    case .segmentRing64: replay(alive, SegmentRingFormat<ABI64>.self)
    case .segmentRing32: replay(alive, SegmentRingFormat<ABI32>.self)
    case .slim64: replay(alive, Slim64Format<ABI64>.self)
    case .slim64On32: replay(alive, Slim64Format<ABI32>.self)
    case .slim32: replay(alive, Slim32Format.self)
    }
    return alive.count
  }

  private mutating func replay<Format: RingFormat>(_ entries: [Int], _ format: Format.Type) {
    // SAFETY: the memory is this queue's and stays.
    var slot = unsafe RequestSlot<Format>(unsafeIn: slotMemory)
    for entry in entries {
      guard let request = pending.take() else { preconditionFailure("as many requests as the ring has slots") }
      taken.restore(entry, as: request, into: &slot)
      dispatch(request, slot)
    }
  }

  /// Takes no further requests; those that were taken are answered.
  ///
  /// A frontend that keeps its ring full could keep its backend from ending for ever. What stays in the ring is the next
  /// backend's.
  public mutating func drain() { isDraining = true }
}
