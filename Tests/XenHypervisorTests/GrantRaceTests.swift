// SPDX-License-Identifier: MIT

import GuestMemory
import Testing
import XenWire

@testable import XenHypervisor

@Suite("Grants under two threads")
struct GrantRaceTests {
  @Test("a page is never both ended and mapped", arguments: [MappingStrategy.remap, .alias])
  func endAgainstMap(mapping: MappingStrategy) throws {
    let machine = try Machine(mapping: mapping)
    let (pages, references) = try machine.grant(1)
    let table = machine.guest.grantTable
    let enough = mapping == .alias ? 5000 : 1000
    // Odd: the granter believes that nobody can have the page.
    let ended = Tally()
    let violations = Tally()
    let done = Tally()
    let mapped = Tally()
    let granter: @Sendable () -> Void = {
      while mapped.count < enough {
        while !table.endAccess(references[0]) {}
        ended.raise()
        ended.raise()
        table.grantAccess(references[0], to: .control, frame: pages.firstFrame, isReadOnly: false)
        for _ in 0..<(ended.count & 127) { _ = table.isMappedByPeer(references[0]) }
      }
      done.raise()
    }
    let mapper: @Sendable () -> Void = {
      while done.count == 0 {
        let mappings = machine.map(references)
        guard mappings[0].status == .okay else { continue }
        mapped.raise()
        let before = ended.count
        if before & 1 == 1 { violations.raise() }
        if table.flags(of: references[0]).isDisjoint(with: .inUse) { violations.raise() }
        if ended.count != before { violations.raise() }
        machine.unmap(mappings)
      }
    }
    onThreads([granter, mapper])
    #expect(violations.count == 0)
    #expect(mapped.count >= enough)
    #expect(table.pinnedEntryCount == 0)
  }

  @Test("a granter that never leaves its flag word alone cannot keep the hypervisor busy")
  func unstableEntry() throws {
    let machine = try Machine(mapping: .alias)
    let (_, references) = try machine.grant(1)
    let word = machine.guest.grantTable.entries.word16(at: Int(references[0].rawValue) * 8)
    let done = Tally()
    let results = Tally()
    onThreads([
      {
        while done.count == 0 {
          word.storeReleasing(GrantFlags.permitAccess.rawValue)
          word.storeReleasing(GrantFlags.permitAccess.rawValue | 32)
        }
      },
      {
        for _ in 0..<20_000 {
          let mappings = machine.map(references)
          if mappings[0].status == .okay { machine.unmap(mappings) }
          if [.okay, .generalError].contains(mappings[0].status) { results.raise() }
        }
        done.raise()
      },
    ])
    #expect(results.count == 20_000)
    #expect(machine.control.ledger == ResourceLedger())
    #expect(machine.guest.grantTable.pinnedEntryCount == 0)
  }

  @Test("two threads that unmap the same handles undo each of them once")
  func doubleUnmap() throws {
    let machine = try Machine(mapping: .alias)
    let (_, references) = try machine.grant(8)
    for _ in 0..<500 {
      let mappings = machine.map(references)
      let succeeded = Tally()
      let unmap: @Sendable () -> Void = {
        for mapping in mappings where machine.unmap([mapping]) { succeeded.raise() }
      }
      onThreads([unmap, unmap])
      #expect(succeeded.count == 8)
    }
    #expect(machine.control.ledger == ResourceLedger())
    #expect(references.allSatisfy { machine.guest.grantTable.endAccess($0) })
  }
}
