// SPDX-License-Identifier: MIT

import GuestMemory
import XenWire

/// All that one domain holds of others' pages; guarded by one lock.
struct MapperState {
  var maptrack: Maptrack
  var windows: [ForeignWindow] = []
  /// Pages that are mapped in contiguous areas.
  var areaPageCount = 0
  /// Set when the domain is destroyed: nothing is mapped any more from then on.
  var isDead = false

  init(frames: Int, faults: PlantedFaults) { maptrack = Maptrack(frames: frames, faults: faults) }

  var mappedPageCount: Int { windows.reduce(areaPageCount) { $0 + $1.mappedPageCount } }

  /// The window on a granter's memory, made when there is none.
  mutating func window(
    on table: GrantTable, memory: DomainMemory, strategy: MappingStrategy
  ) throws(SystemError) -> ForeignWindow {
    for index in 0..<windows.count where windows[index].table === table { return windows[index] }
    let window = try ForeignWindow(table: table, memory: memory, strategy: strategy)
    windows.append(window)
    return window
  }

  /// Drops a window that nothing names and nothing will: its granter is gone.
  mutating func dropWindow(on table: GrantTable) {
    windows.removeAll { $0.table === table && $0.handleCount == 0 }
  }

  /// Puts a handle back whose grant is not pinned (any more).
  mutating func release(_ handle: GrantHandle) {
    if let window = maptrack[handle].window { window.handleCount -= 1 }
    maptrack.give(handle)
  }
}

// MARK: Mapping

extension MapperState {
  /// Takes a handle for each result; elements that get none are refused.
  mutating func reserve(_ results: inout MutableSpan<GrantMapping>, count: Int) {
    for index in 0..<count {
      if isDead {
        results[index] = GrantMapping(status: .generalError)
      } else if let handle = maptrack.take() {
        results[index] = GrantMapping(status: .okay, handle: handle)
      } else {
        results[index] = GrantMapping(status: .noSpace)
      }
    }
  }

  /// Gives back the handles of elements whose grant could not be pinned.
  mutating func releaseRefused(_ results: inout MutableSpan<GrantMapping>, count: Int) {
    for index in 0..<count where results[index].status != .okay && results[index].handle != .invalid {
      maptrack.give(results[index].handle)
      results[index] = GrantMapping(status: results[index].status)
    }
  }

  /// Whether no element is pinned without being reachable.
  func isWhole(_ results: borrowing MutableSpan<GrantMapping>, count: Int) -> Bool {
    for index in 0..<count where results[index].status != .okay && results[index].handle != .invalid { return false }
    return true
  }

  /// Makes pinned pages reachable in the window on the granter, or refuses them all when there can be no window.
  mutating func openOrRefuse(
    _ results: inout MutableSpan<GrantMapping>, of references: Span<GrantReference>, flags: GrantMapFlags,
    granter: Domain, strategy: MappingStrategy
  ) {
    if !isDead, let window = try? window(on: granter.grantTable, memory: granter.memory, strategy: strategy) {
      open(&results, of: references, flags: flags, in: window)
    } else {
      for index in references.indices where results[index].status == .okay { results[index].status = .noSpace }
    }
  }

  /// Makes pinned pages reachable: each okay element comes in with its frame in `address` and goes out with its address.
  ///
  /// Elements that the system refused come out with another status and their handle, still to be unpinned.
  mutating func open(
    _ results: inout MutableSpan<GrantMapping>, of references: Span<GrantReference>, flags: GrantMapFlags,
    in window: ForeignWindow
  ) {
    var run = PageRun()
    var runStart = 0
    for index in references.indices where results[index].status == .okay {
      let frame = Int(results[index].address)
      let handle = results[index].handle
      var entry = maptrack[handle]
      entry.state = .live
      entry.flags = flags
      entry.reference = references[index]
      entry.page = frame
      entry.window = window
      maptrack[handle] = entry
      window.handleCount += 1
      guard flags.contains(.host) else { continue }
      guard let access = window.count(1, of: frame, isReadOnly: flags.contains(.readOnly)) else { continue }
      if !run.extend(by: frame, needing: access) {
        finish(run, &results, from: runStart, to: index, flags: flags, in: window)
        run = PageRun(start: frame, count: 1, access: access)
        runStart = index
      } else if run.count == 1 {
        runStart = index
      }
    }
    finish(run, &results, from: runStart, to: references.count, flags: flags, in: window)
    for index in references.indices where results[index].status == .okay {
      results[index].address =
        flags.contains(.host) ? window.address + (results[index].address << UInt(PageGeometry.pageShift)) : 0
    }
  }

  /// Places a run; when the system refuses, takes back what the elements of the run had counted.
  private mutating func finish(
    _ run: PageRun, _ results: inout MutableSpan<GrantMapping>, from first: Int, to end: Int, flags: GrantMapFlags,
    in window: ForeignWindow
  ) {
    do {
      try window.place(run)
    } catch {
      for index in first..<end where results[index].status == .okay {
        let frame = Int(results[index].address)
        guard frame >= run.start, frame < run.start + run.count else { continue }
        results[index].status = .noSpace
        maptrack[results[index].handle].state = .opening
        if let access = window.count(-1, of: frame, isReadOnly: flags.contains(.readOnly)) {
          try? window.place(PageRun(start: frame, count: 1, access: access))
        }
      }
    }
  }
}

// MARK: Unmapping

/// Mappings that a batch has undone but not yet unpinned: a list threaded through their maptrack entries.
struct ClosingList {
  var first = GrantHandle.invalid
  var last = GrantHandle.invalid
  /// Whether every handle of the batch could be undone.
  var isComplete = true
}

extension MapperState {
  /// Makes pages unreachable and lists their handles; what is not live is left alone and noted.
  mutating func close(_ handles: Span<GrantHandle>) -> ClosingList {
    var list = ClosingList()
    var run = ClosingRun()
    for index in handles.indices {
      let handle = handles[index]
      guard maptrack.isLive(handle) else {
        list.isComplete = false
        continue
      }
      var entry = maptrack[handle]
      let access = countDown(entry)
      if let access {
        if !(run.isIn(entry) && run.pages.extend(by: entry.page, needing: access)) {
          finish(run, in: &list)
          run = ClosingRun(entry, access: access, after: list.last)
        }
      }
      entry.state = .closing
      entry.next = .invalid
      maptrack[handle] = entry
      if list.last == .invalid { list.first = handle } else { maptrack[list.last].next = handle }
      list.last = handle
    }
    finish(run, in: &list)
    return list
  }

  /// Counts a mapping less; answers the access that its page needs when that changes.
  private mutating func countDown(_ entry: MaptrackEntry) -> PageAccess? {
    guard entry.flags.contains(.host) else { return nil }
    if entry.area != nil {
      areaPageCount -= 1
      return PageAccess.none
    }
    return entry.window?.count(-1, of: entry.page, isReadOnly: entry.flags.contains(.readOnly))
  }

  /// Undoes a run of pages; when the system refuses, its mappings are live again and their pages stay pinned.
  private mutating func finish(_ run: ClosingRun, in list: inout ClosingList) {
    guard run.pages.count > 0 else { return }
    do {
      if let area = run.area {
        try area.memory.clear(
          at: run.pages.start << PageGeometry.pageShift, byteCount: run.pages.count << PageGeometry.pageShift)
      } else {
        try run.window?.place(run.pages)
      }
    } catch {
      list.isComplete = false
      var handle = run.before == .invalid ? list.first : maptrack[run.before].next
      while handle != .invalid {
        let next = maptrack[handle].next
        let entry = maptrack[handle]
        maptrack[handle].state = .live
        maptrack[handle].next = .invalid
        if entry.area != nil {
          areaPageCount += 1
        } else if entry.flags.contains(.host) {
          _ = entry.window?.count(1, of: entry.page, isReadOnly: entry.flags.contains(.readOnly))
        }
        handle = next
      }
      if run.before == .invalid { list.first = .invalid } else { maptrack[run.before].next = .invalid }
      list.last = run.before
    }
  }
}

/// Adjacent pages of one window or area that one system call undoes.
private struct ClosingRun {
  var pages = PageRun()
  var window: ForeignWindow?
  var area: ReservedArea?
  /// The last handle of the list before the run began.
  var before = GrantHandle.invalid

  init() {}

  init(_ entry: MaptrackEntry, access: PageAccess, after before: GrantHandle) {
    pages = PageRun(start: entry.page, count: 1, access: access)
    window = entry.window
    area = entry.area
    self.before = before
  }

  func isIn(_ entry: MaptrackEntry) -> Bool { window === entry.window && area === entry.area }
}
