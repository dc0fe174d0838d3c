// SPDX-License-Identifier: MIT

import XenWire

/// One mapping that a domain holds of a foreign page (Xen grant_table.c, `struct grant_mapping`).
struct MaptrackEntry {
  enum State: UInt8 {
    /// On the free list.
    case free
    /// Handed out, not mapped yet; belongs to the batch that took it.
    case opening
    /// Mapped.
    case live
    /// Being unmapped; belongs to the batch that found it live.
    case closing
  }

  var state = State.free
  var flags = GrantMapFlags(rawValue: 0)
  var reference = GrantReference(rawValue: 0)
  /// The next entry of the list that this one is on: the free list, or a batch's own.
  var next = GrantHandle.invalid
  /// The page in the granter's memory, or in the area for contiguous mappings.
  var page = 0
  var window: ForeignWindow?
  /// Set for a page of a ring that was mapped contiguously.
  var area: ReservedArea?
}

/// A domain's table of the foreign pages that it has mapped, indexed by handle.
///
/// ```
///   handle     0       1       2       3      ...  limit
///           +-------+-------+-------+-------+
///           | live  | free  | live  | free  |        256 handles a frame, frames added when the free list is empty
///           +-------+-------+-------+-------+
///                      |               ^
///   first free --------+---- next -----+
/// ```
///
/// **Invariants.** An entry is on the free list exactly when it is `.free`; only the batch that moved an entry to `.opening`
/// or `.closing` moves it on, so each handle is freed once.
struct Maptrack {
  static let handlesPerFrame = 256

  private(set) var entries: [MaptrackEntry] = []
  /// One past the highest handle that was ever taken.
  var handleEnd: Int { entries.count }
  private var firstFree = GrantHandle.invalid
  private(set) var takenCount = 0
  let limit: Int

  private let faults: PlantedFaults

  init(frames: Int, faults: PlantedFaults) {
    self.faults = faults
    limit = faults.has(.capacityInFrames) ? frames : frames * Self.handlesPerFrame
  }

  subscript(handle: GrantHandle) -> MaptrackEntry {
    get { entries[Int(handle.rawValue)] }
    set { entries[Int(handle.rawValue)] = newValue }
  }

  /// Whether the handle names a mapping.
  func isLive(_ handle: GrantHandle) -> Bool {
    guard handle.rawValue < UInt32(entries.count) else { return false }
    let state = entries[Int(handle.rawValue)].state
    return state == .live || state == .closing && faults.has(.closingHandleIsLive)
  }

  /// Takes a free handle; nothing when the table is full.
  mutating func take() -> GrantHandle? {
    if firstFree == .invalid {
      guard entries.count < limit else { return nil }
      let first = entries.count
      for index in first..<(first + Self.handlesPerFrame) {
        var entry = MaptrackEntry()
        entry.next =
          index == first + Self.handlesPerFrame - 1 ? .invalid : GrantHandle(rawValue: UInt32(index + 1))
        entries.append(entry)
      }
      firstFree = GrantHandle(rawValue: UInt32(first))
    }
    let handle = firstFree
    if !faults.has(.handleStaysFree) { firstFree = self[handle].next }
    var entry = self[handle]
    entry.state = .opening
    entry.next = .invalid
    self[handle] = entry
    takenCount += 1
    return handle
  }

  /// Puts a handle back on the free list.
  mutating func give(_ handle: GrantHandle) {
    precondition(self[handle].state == .opening || self[handle].state == .closing, "a handle freed twice")
    var entry = MaptrackEntry()
    entry.next = firstFree
    self[handle] = entry
    firstFree = handle
    takenCount -= 1
  }
}
