// SPDX-License-Identifier: MIT

import SharedRing
import XenWire

/// What planted bugs do; nothing here runs unless a test has planted one.
extension BackQueue where Image: ~Copyable {
  @usableFromInline
  mutating func readSlotAgain(segmentCount: Int) {
    guard format == .classic64, segmentCount <= BlockLimits.directSegments else { return }
    var slot = RequestSlot<ABI64>()
    ring.copyLastRequestAgain(into: &slot)
    for index in 0..<segmentCount { unsafe scratch.segments[index] = slot.directSegment(index).bits }
  }

  @usableFromInline
  mutating func mergeStranger(_ index: Int) {
    unsafe scratch.addresses[index] = scratch.addresses[index - 1] &+ 4096
  }
}
