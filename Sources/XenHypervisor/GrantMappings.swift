// SPDX-License-Identifier: MIT

import GuestMemory
import Synchronization
import XenWire

/// What a domain has mapped of other domains' pages: its maptrack table and the address space where they appear.
///
/// One map goes through four short critical sections, never holding a lock while it asks the system or another table:
///
/// ```
///   mapper's lock     take handles (noSpace)
///   granter's lock    check, pin, mark, latch the frame (badReference, generalError, badPage)
///   mapper's lock     make pages reachable, neighbours in one system call
///   both              only if the system refused: unpin, give handles back
/// ```
/// An unmap runs backwards: unreachable first, then pins and marks, the handle last. Where both locks are held the granter's
/// is taken first.
public final class GrantMappings: Sendable {
  let domain: DomainID
  let strategy: MappingStrategy
  let faults: PlantedFaults
  let state: RankedLock<MapperState>

  init(domain: DomainID, strategy: MappingStrategy, limits: DomainLimits, faults: PlantedFaults) {
    self.domain = domain
    self.strategy = strategy
    self.faults = faults
    state = RankedLock(.mapperTable, MapperState(frames: limits.maptrackFrames, faults: faults))
  }

  /// The number of live mappings.
  public var count: Int { state.withLock { $0.maptrack.takenCount } }
  /// The bytes of foreign pages that are reachable at this moment; a page counts once however often it is mapped.
  public var mappedByteCount: Int { state.withLock { $0.mappedPageCount } << PageGeometry.pageShift }

  /// Maps references of one granter; every element of `results` is written.
  func map(
    _ references: Span<GrantReference>, of granter: Domain, flags: GrantMapFlags,
    into results: inout MutableSpan<GrantMapping>
  ) {
    state.withLock { $0.reserve(&results, count: references.count) }
    pin(references, in: granter.grantTable, flags: flags, results: &results)
    var isWhole = true
    state.withLock { state in
      state.releaseRefused(&results, count: references.count)
      state.openOrRefuse(&results, of: references, flags: flags, granter: granter, strategy: strategy)
      isWhole = state.isWhole(results, count: references.count)
    }
    if !isWhole { undo(references, in: granter.grantTable, flags: flags, results: &results) }
  }

  /// Pins what has a handle; the frame goes into `address` for the next step.
  func pin(
    _ references: Span<GrantReference>, in table: GrantTable, flags: GrantMapFlags,
    results: inout MutableSpan<GrantMapping>
  ) {
    let increment = GrantPins.increment(for: flags)
    table.active.withLock { active in
      for index in references.indices where results[index].status == .okay {
        if faults.has(.batchEndsEarly), index > 0, index == references.count - 1 {
          results[index].status = .generalError
          break
        }
        switch table.pin(
          references[index], by: domain, increment: increment, isReadOnly: flags.contains(.readOnly), in: &active)
        {
        case .success(let range): results[index].address = UInt(range.frame)
        case .failure(let status): results[index].status = status
        }
      }
    }
  }

  /// Unpins what was pinned and could not be made reachable.
  func undo(
    _ references: Span<GrantReference>, in table: GrantTable, flags: GrantMapFlags,
    results: inout MutableSpan<GrantMapping>
  ) {
    table.active.withLock { active in
      state.withLock { state in
        for index in references.indices where results[index].status != .okay && results[index].handle != .invalid {
          table.unpin(references[index], increment: GrantPins.increment(for: flags), in: &active)
          state.release(results[index].handle)
          results[index] = GrantMapping(status: results[index].status)
        }
      }
    }
  }

  /// Undoes mappings; what is not mapped is left alone, and makes the answer false.
  func unmap(_ handles: Span<GrantHandle>) -> Bool {
    if faults.has(.unpinnedBeforeUnmapped) { clearMarksEarly(handles) }
    let list = state.withLock { $0.close(handles) }
    faults.reach(.unmapped)
    release(list)
    return list.isComplete
  }

  /// Unpins the mappings of a list, one granter after the other, and gives their handles back.
  func release(_ list: ClosingList) {
    var next = list.first
    while next != .invalid {
      guard let table = state.withLock({ $0.maptrack[next].window?.table }) else { return }
      if faults.has(.lockOrderInverted) { state.withLock { _ in table.active.withLock { _ in } } }
      table.active.withLock { active in
        state.withLock { state in
          while next != .invalid {
            let handle = next
            let entry = state.maptrack[handle]
            guard entry.window?.table === table else { return }
            next = entry.next
            var flags = entry.flags
            if faults.has(.devicePinForgotten), flags.contains(.host) { flags.remove(.device) }
            table.unpin(entry.reference, increment: GrantPins.increment(for: flags), in: &active)
            state.release(handle)
          }
          if active.isDead { state.dropWindow(on: table) }
        }
      }
    }
  }
}

extension GrantMappings {
  /// How many mappings are undone before another thread gets its turn at the locks.
  static let mappingsPerSlice = 256

  /// Undoes every mapping, a slice at a time, and maps nothing any more.
  func retire() {
    state.withLock { $0.isDead = true }
    var next = 0
    let step = faults.has(.teardownInOnePiece) ? Int.max / 2 : Self.mappingsPerSlice
    while true {
      let (list, end) = state.withLock { state -> (ClosingList, Int) in
        let end = min(next + step, state.maptrack.handleEnd)
        faults.reach(.mappingSlice(end - next))
        let live = (next..<end).map { GrantHandle(rawValue: UInt32($0)) }.filter { state.maptrack.isLive($0) }
        return (state.close(live.span), end)
      }
      release(list)
      if end == next { break }
      next = end
    }
    state.withLock { state in state.windows.removeAll { $0.handleCount == 0 } }
  }

  /// Drops the window on a domain that is gone, unless something in it is still mapped.
  func forget(_ table: GrantTable) { state.withLock { $0.dropWindow(on: table) } }

  /// The bug of XSA-230: the granter is told that its pages are free while they can still be reached.
  private func clearMarksEarly(_ handles: Span<GrantHandle>) {
    state.withLock { state in
      for index in handles.indices where state.maptrack.isLive(handles[index]) {
        let entry = state.maptrack[handles[index]]
        entry.window?.table.clearMarks([.reading, .writing], of: Int(entry.reference.rawValue))
      }
    }
  }
}
