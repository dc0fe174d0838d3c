// SPDX-License-Identifier: MIT

import XenWire

/// How often an entry is pinned, by kind: four 8-bit counters in one word (Xen grant_table.c, `GNTPIN_*`).
struct GrantPins: Equatable, Sendable {
  /// host-write @0, host-read @8, device-write @16, device-read @24.
  var word: UInt32 = 0

  static let hostWrite: UInt32 = 1
  static let hostRead: UInt32 = 1 << 8
  static let deviceWrite: UInt32 = 1 << 16
  static let deviceRead: UInt32 = 1 << 24
  private static let writeMask: UInt32 = 0x00FF_00FF

  var isPinned: Bool { word != 0 }
  var isPinnedForWriting: Bool { word & Self.writeMask != 0 }
  /// The sum of the four counters.
  var count: Int { (0..<4).reduce(0) { $0 + Int((word >> (UInt32($1) * 8)) & 0xFF) } }

  /// What a map with these flags adds: one in the host's counter, the device's, or both.
  static func increment(for flags: GrantMapFlags) -> UInt32 {
    let isReadOnly = flags.contains(.readOnly)
    var increment: UInt32 = 0
    if flags.contains(.host) { increment += isReadOnly ? hostRead : hostWrite }
    if flags.contains(.device) { increment += isReadOnly ? deviceRead : deviceWrite }
    return increment
  }

  /// Whether a counter that the increment touches has its top bit set: it then stands at 128 and takes no more.
  func refuses(_ increment: UInt32) -> Bool { word & (increment << 7) != 0 }
}

/// What the hypervisor remembers of an entry that is in use: latched at the first pin, good until the last is gone.
struct ActiveEntry: Sendable {
  var pins = GrantPins()
  /// The domain that was let in.
  var domain = DomainID.control
  /// Whether only a part of the page may be copied.
  var isSubPage = false
  /// The first byte and the length in bytes of what may be copied.
  var start: UInt16 = 0
  var length: UInt16 = 4096
  /// The page.
  var frame: UInt64 = 0
}

/// The hypervisor's half of a grant table; everything in it changes under one lock.
struct ActiveEntries: Sendable {
  var entries: [ActiveEntry]
  /// Entries with at least one pin.
  var pinnedCount = 0
  /// Set when the domain is destroyed: nothing is pinned any more from then on.
  var isDead = false

  init(count: Int) { entries = Array(repeating: ActiveEntry(), count: count) }
}
