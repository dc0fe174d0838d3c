// SPDX-License-Identifier: MIT

import GuestMemory
import Synchronization
import XenWire

/// What a pinned entry lets its holder reach.
struct PinnedRange: Sendable {
  var frame: UInt64
  var start: Int
  var end: Int
}

/// What a pin wants of an entry.
struct EntryUse {
  /// Who asks.
  var mapper: DomainID
  /// Whether it will only read.
  var isReadOnly: Bool
  /// Whether the entry is pinned already: its type and domain were judged then.
  var isPinned: Bool
  /// Whether it is for a copy, which a sub-page grant allows.
  var isCopy: Bool

  /// The marks that it sets.
  var marks: GrantFlags { isReadOnly ? .reading : .inUse }
}

extension GrantTable {
  /// How often the flag word is tried before the granter is called unstable.
  static let compareExchangeTries = 5

  /// Entries that are pinned by somebody.
  public var pinnedEntryCount: Int { active.withLock { $0.pinnedCount } }

  /// The number of live pins on one entry, of all kinds.
  func pinCount(of reference: GrantReference) -> Int {
    active.withLock { state in
      let index = Int(reference.rawValue)
      return index < state.entries.count ? state.entries[index].pins.count : 0
    }
  }

  /// Makes the table at least so many frames long (`GNTTABOP_setup_table`).
  func grow(toFrames count: Int) -> GrantStatus {
    active.withLock { state in
      guard count <= maximumFrameCount else { return .generalError }
      guard count > frameCount else { return .okay }
      let length = count * entriesPerFrame
      state.entries.append(contentsOf: repeatElement(ActiveEntry(), count: length - state.entries.count))
      currentFrameCount.store(count, ordering: .releasing)
      return .okay
    }
  }

  /// Pins one entry for a mapping or a copy, and marks the shared entry accordingly.
  ///
  /// Runs under the table's lock; the checks come in the order of Xen's `map_grant_ref`.
  func pin(
    _ reference: GrantReference, by mapper: DomainID, increment: UInt32, isReadOnly: Bool, isCopy: Bool = false,
    in state: inout ActiveEntries
  ) -> Result<PinnedRange, GrantStatus> {
    guard !state.isDead || faults.has(.deadTableUsed) else { return .failure(.badDomain) }
    let end = faults.has(.rangeOfFutureTable) ? referenceLimit : state.entries.count
    guard reference.rawValue < UInt32(end) else { return .failure(.badReference) }
    let index = Int(reference.rawValue)
    var entry = state.entries[index]
    if entry.pins.isPinned {
      guard entry.domain == mapper, !entry.pins.refuses(increment), isCopy || !entry.isSubPage else {
        return .failure(.generalError)
      }
    }
    if !entry.pins.isPinned || (!isReadOnly && !entry.pins.isPinnedForWriting) {
      let use = EntryUse(
        mapper: mapper, isReadOnly: isReadOnly, isPinned: entry.pins.isPinned, isCopy: isCopy)
      let flags: GrantFlags
      switch mark(index, for: use) {
      case .success(let seen): flags = seen
      case .failure(let refusal):
        guard faults.has(.failedMarkIsOkay) else { return .failure(refusal) }
        flags = .permitAccess
      }
      if !entry.pins.isPinned {
        entry = latch(index, flags: flags, for: mapper)
        guard entry.frame < UInt64(memoryPageCount) else {
          clearMarks([.reading, .writing], of: index)
          return .failure(.badPage)
        }
        state.pinnedCount += 1
      }
    }
    entry.pins.word += increment
    state.entries[index] = entry
    return .success(
      PinnedRange(frame: entry.frame, start: Int(entry.start), end: Int(entry.start) + Int(entry.length)))
  }

  /// Takes one pin back: the exact inverse of ``pin(_:by:increment:isReadOnly:isCopy:in:)``.
  ///
  /// Marks go last, under the lock.
  func unpin(_ reference: GrantReference, increment: UInt32, in state: inout ActiveEntries) {
    let index = Int(reference.rawValue)
    precondition(index < state.entries.count && state.entries[index].pins.isPinned, "an unpin without its pin")
    let wasWriting = state.entries[index].pins.isPinnedForWriting
    state.entries[index].pins.word -= increment
    let pins = state.entries[index].pins
    var cleared = GrantFlags(rawValue: 0)
    if wasWriting && !pins.isPinnedForWriting { cleared.insert(.writing) }
    if !pins.isPinned {
      cleared.insert(.reading)
      state.pinnedCount -= 1
    }
    if faults.has(.marksGoWithFirstUnmap) { cleared = .inUse }
    if !cleared.isEmpty { clearMarks(cleared, of: index) }
  }

  /// Reads what the entry names, each field once; `flags` are those that were judged, whatever stands there now.
  private func latch(_ index: Int, flags: GrantFlags, for mapper: DomainID) -> ActiveEntry {
    guard version == 1 else { return latchVersion2(index, flags: flags, for: mapper) }
    let frame = entries.word32(at: index * GrantEntryV1.byteCount + GrantEntryV1.frameOffset).loadAcquiring()
    return ActiveEntry(domain: mapper, frame: UInt64(frame))
  }

  /// Sets the hypervisor's marks for an entry; answers the flags that it judged, or why the entry does not allow it.
  private func mark(_ index: Int, for use: EntryUse) -> Result<GrantFlags, GrantStatus> {
    version == 1 ? markVersion1(index, for: use) : markVersion2(index, for: use)
  }

  /// Version 1: flags and domid are one 32-bit word, changed by a compare-exchange that notices a change of either.
  private func markVersion1(_ index: Int, for use: EntryUse) -> Result<GrantFlags, GrantStatus> {
    let word = entries.word32(at: index * GrantEntryV1.byteCount)
    var seen = word.loadAcquiring()
    for _ in 0..<(faults.has(.unboundedTries) ? 100_000 : Self.compareExchangeTries) {
      let flags = GrantFlags(rawValue: UInt16(truncatingIfNeeded: seen))
      if !use.isPinned {
        guard flags.type == GrantFlags.permitAccess.rawValue, UInt16(seen >> 16) == use.mapper.rawValue else {
          return .failure(.generalError)
        }
      }
      if !use.isReadOnly && flags.contains(.readOnly) { return .failure(.generalError) }
      faults.reach(.marking)
      let result = word.compareExchange(expected: seen, desired: seen | UInt32(use.marks.rawValue))
      if result.exchanged { return .success(flags) }
      seen = result.original
    }
    return .failure(.generalError)
  }

  func clearMarks(_ marks: GrantFlags, of index: Int) {
    guard version == 1 else { return clearMarksVersion2(marks, of: index) }
    // The domid shares the 32-bit word; an and-mask leaves it alone.
    entries.word32(at: index * GrantEntryV1.byteCount).fetchAnd(~UInt32(marks.rawValue))
  }
}

extension GrantTable {
  /// Ends the table's use: what is pinned stays so until it is unmapped, and nothing more is pinned.
  func retire() { active.withLock { $0.isDead = true } }
}
