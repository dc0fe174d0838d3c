// SPDX-License-Identifier: MIT

import GuestMemory
import Synchronization
import XenWire

extension GrantMappings {
  /// Maps pages one behind the other, whatever their frames; all or nothing.
  func mapContiguously(_ references: [GrantReference], of granter: Domain) throws(GrantStatus) -> ContiguousMapping {
    guard !references.isEmpty else { throw .badReference }
    var elements = Array(repeating: GrantMapping(status: .generalError), count: references.count)
    var results = elements.mutableSpan
    state.withLock { $0.reserve(&results, count: references.count) }
    pin(references.span, in: granter.grantTable, flags: .host, results: &results)
    var region: SharedRegion?
    if !references.indices.contains(where: { results[$0].status != .okay }) {
      region = state.withLock { $0.openContiguously(&results, of: references, granter: granter, strategy: strategy) }
    }
    guard let region else {
      let refusal = references.indices.first { results[$0].status != .okay }.map { results[$0].status } ?? .noSpace
      abandon(references.span, in: granter.grantTable, results: &results)
      throw refusal
    }
    return ContiguousMapping(region: region, handles: references.indices.map { results[$0].handle })
  }

  /// Undoes a batch of which not every page could be had.
  private func abandon(
    _ references: Span<GrantReference>, in table: GrantTable, results: inout MutableSpan<GrantMapping>
  ) {
    state.withLock { $0.releaseRefused(&results, count: references.count) }
    for index in references.indices where results[index].status == .okay { results[index].status = .noSpace }
    undo(references, in: table, flags: .host, results: &results)
  }
}

extension MapperState {
  /// Makes pinned pages reachable behind one another; nothing when the system refuses, and then nothing changed.
  mutating func openContiguously(
    _ results: inout MutableSpan<GrantMapping>, of references: [GrantReference], granter: Domain,
    strategy: MappingStrategy
  ) -> SharedRegion? {
    guard !isDead, let window = try? window(on: granter.grantTable, memory: granter.memory, strategy: strategy) else {
      return nil
    }
    let first = Int(results[0].address)
    let isAdjacent = references.indices.allSatisfy { Int(results[$0].address) == first + $0 }
    var area: ReservedArea?
    if strategy == .remap || !isAdjacent {
      area = try? ReservedArea(pageCount: references.count)
      guard let area, fill(area, from: window, results) else { return nil }
    }
    for index in references.indices {
      let handle = results[index].handle
      let frame = Int(results[index].address)
      maptrack[handle].state = .live
      maptrack[handle].flags = .host
      maptrack[handle].reference = references[index]
      maptrack[handle].window = window
      maptrack[handle].area = area
      maptrack[handle].page = area == nil ? frame : index
      window.handleCount += 1
      if area == nil { _ = window.count(1, of: frame, isReadOnly: false) } else { areaPageCount += 1 }
    }
    let byteCount = references.count << PageGeometry.pageShift
    return area?.memory.region
      ?? window.memory.region.slice(at: first << PageGeometry.pageShift, byteCount: byteCount)
  }

  /// Maps each page into its place in the area, neighbours in one system call.
  private func fill(_ area: ReservedArea, from window: ForeignWindow, _ results: borrowing MutableSpan<GrantMapping>)
    -> Bool
  {
    var start = 0
    for index in 1...results.count {
      let isNeighbour = index < results.count && results[index].address == results[index - 1].address + 1
      if isNeighbour { continue }
      do {
        try area.memory.place(
          window.memory.file, fileOffset: Int(results[start].address) << PageGeometry.pageShift,
          at: start << PageGeometry.pageShift, byteCount: (index - start) << PageGeometry.pageShift, writable: true)
      } catch {
        return false
      }
      start = index
    }
    return true
  }
}
