// SPDX-License-Identifier: MIT

import GuestMemory
import XenWire

/// One granter's memory as one mapper sees it: address space as large as that memory, in which granted pages appear.
///
/// ```
///   granter's memory  | 0 | 1 | 2 | 3 | 4 | 5 |
///   window            | - | - | 2 | 3 | - | - |      2 and 3 are mapped; every other access faults
/// ```
/// Frame f appears at byte f * 4096, so frames that are adjacent there are adjacent here. A page is readable while any
/// mapping of it lives, writable while a writable one does, and gone after the last.
///
/// **Invariants.** Guarded by the mapper's lock, but for the constants.
final class ForeignWindow: @unchecked Sendable {
  // SAFETY: mutable state is reached only under the mapper's lock; addresses handed out stay reserved while mapped.

  let table: GrantTable
  let memory: DomainMemory
  /// Two 32-bit counts a frame: live read-only mappings, live writable mappings.
  ///
  /// Untouched pages of it cost nothing.
  private let uses: MappedMemory
  /// The window itself; nothing when addresses are the granter's own.
  private let reserved: ReservedArea?
  /// Handles that name this window.
  var handleCount = 0
  /// Pages that are mapped at this moment.
  private(set) var mappedPageCount = 0

  init(table: GrantTable, memory: DomainMemory, strategy: MappingStrategy) throws(SystemError) {
    self.table = table
    self.memory = memory
    uses = try MappedMemory(anonymousByteCount: memory.pageCount * 8)
    switch strategy {
    case .remap: reserved = try ReservedArea(pageCount: memory.pageCount)
    case .alias: reserved = nil
    }
  }

  /// Where the window starts.
  var address: UInt { reserved?.memory.region.address ?? memory.region.address }

  /// What the page's live mappings allow.
  private func access(of frame: Int) -> PageAccess {
    if uses.region.load(UInt32.self, at: frame * 8 + 4) > 0 { return .writable }
    return uses.region.load(UInt32.self, at: frame * 8) > 0 ? .readable : .none
  }

  /// System calls that placed or cleared pages so far.
  private(set) var placementCount = 0

  /// Counts one mapping more or less; answers the access that the page now needs when that is not what it had.
  func count(_ change: Int, of frame: Int, isReadOnly: Bool) -> PageAccess? {
    let before = access(of: frame)
    let offset = frame * 8 + (isReadOnly ? 0 : 4)
    let count = Int(uses.region.load(UInt32.self, at: offset)) + change
    precondition(count >= 0, "a page unmapped more often than mapped")
    uses.region.store(UInt32(count), at: offset)
    let after = access(of: frame)
    if before == .none && after != .none { mappedPageCount += 1 }
    if before != .none && after == .none { mappedPageCount -= 1 }
    return before == after ? nil : after
  }

  /// Makes a run of pages as accessible as their mappings need, in one system call.
  func place(_ run: PageRun) throws(SystemError) {
    guard run.count > 0, let reserved else { return }
    placementCount += 1
    let offset = run.start << PageGeometry.pageShift
    let length = run.count << PageGeometry.pageShift
    switch run.access {
    case .none: try reserved.memory.clear(at: offset, byteCount: length)
    case .readable:
      try reserved.memory.place(memory.file, fileOffset: offset, at: offset, byteCount: length, writable: false)
    case .writable:
      try reserved.memory.place(memory.file, fileOffset: offset, at: offset, byteCount: length, writable: true)
    }
  }
}

/// What a page in a window allows.
enum PageAccess: Equatable, Sendable {
  case none
  case readable
  case writable
}

/// Adjacent pages that need the same system call.
struct PageRun: Equatable, Sendable {
  var start = 0
  var count = 0
  var access = PageAccess.none

  /// Takes a page in, at either end; false when it is not adjacent or needs something else.
  mutating func extend(by frame: Int, needing access: PageAccess) -> Bool {
    if count == 0 {
      self = PageRun(start: frame, count: 1, access: access)
      return true
    }
    guard access == self.access else { return false }
    if frame == start + count {
      count += 1
      return true
    }
    if frame == start - 1 {
      start -= 1
      count += 1
      return true
    }
    return false
  }
}

/// Address space that is kept for foreign pages to appear in.
final class ReservedArea: Sendable {
  let memory: MappedMemory

  init(pageCount: Int) throws(SystemError) {
    memory = try MappedMemory(reservingByteCount: pageCount << PageGeometry.pageShift)
  }
}
