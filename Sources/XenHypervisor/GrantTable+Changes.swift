// SPDX-License-Identifier: MIT

import GuestMemory
import Synchronization
public import XenWire

extension GrantTable {
  /// Takes the right to write from a grant, unless a peer has the page mapped for writing; false then.
  public func restrictToReading(_ reference: GrantReference) -> Bool {
    let index = Int(reference.rawValue)
    if version == 2 {
      let flags = entries.word16(at: index * GrantEntryV2.byteCount)
      let before = flags.loadAcquiring()
      _ = flags.compareExchange(expected: before, desired: before | GrantFlags.readOnly.rawValue)
      let isWriting = statusWords.word16(at: index * 2).loadAcquiring() & GrantFlags.writing.rawValue != 0
      if isWriting { allowWriting(reference) }
      return !isWriting
    }
    let word = entries.word16(at: index * GrantEntryV1.byteCount)
    var flags = word.loadAcquiring()
    while flags & GrantFlags.writing.rawValue == 0 {
      let result = word.compareExchange(expected: flags, desired: flags | GrantFlags.readOnly.rawValue)
      if result.exchanged { return true }
      flags = result.original
    }
    return false
  }

  /// Gives the right to write to a grant, whether or not it is in use.
  public func allowWriting(_ reference: GrantReference) {
    let word = entries.word16(
      at: Int(reference.rawValue) * (version == 1 ? GrantEntryV1.byteCount : GrantEntryV2.byteCount))
    var flags = word.loadAcquiring()
    while true {
      let result = word.compareExchange(expected: flags, desired: flags & ~GrantFlags.readOnly.rawValue)
      if result.exchanged { return }
      flags = result.original
    }
  }

  /// Exchanges two entries (`GNTTABOP_swap_grant_ref`).
  ///
  /// Answers `.badReference` for one outside the table and `.again` while either is pinned; nothing changes then.
  public func swap(_ first: GrantReference, _ second: GrantReference) -> GrantStatus {
    active.withLock { state in
      let count = UInt32(state.entries.count)
      guard !state.isDead, first.rawValue < count, second.rawValue < count else { return .badReference }
      guard !state.entries[Int(first.rawValue)].pins.isPinned, !state.entries[Int(second.rawValue)].pins.isPinned
      else { return .again }
      let words = version == 1 ? 1 : 2
      for word in 0..<words {
        let one = (Int(first.rawValue) * words + word) * 8
        let other = (Int(second.rawValue) * words + word) * 8
        let kept = entries.word64(at: one).exchange(entries.word64(at: other).loadAcquiring())
        entries.word64(at: other).storeReleasing(kept)
      }
      return .okay
    }
  }
}
