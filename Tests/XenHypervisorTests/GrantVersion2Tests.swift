// SPDX-License-Identifier: MIT

import CLinux
import GuestMemory
import Testing
import XenWire

@testable import XenHypervisor

@Suite("Grant tables of version 2")
struct GrantVersion2Tests {
  private static let limits = DomainLimits(grantTableVersion: 2)

  private func machine(mapping: MappingStrategy = .remap, limits: DomainLimits = limits) throws -> Machine {
    let machine = try Machine(mapping: mapping, limits: limits)
    try machine.guest.grantTable.setVersion(2)
    return machine
  }

  private func bytes(_ region: SharedRegion, _ offset: Int, _ count: Int) -> [UInt8] {
    (0..<count).map { region.load(UInt8.self, at: offset + $0) }
  }

  @Test("the layout is chosen only where the limits allow it, and while nothing is in use")
  func choosing() throws {
    let first = try Machine()
    #expect(throws: GrantVersionError.notAllowed) { try first.guest.grantTable.setVersion(2) }
    for unknown in [0, 3, -1] {
      #expect(throws: GrantVersionError.unknownVersion) { try first.guest.grantTable.setVersion(unknown) }
    }
    let second = try Machine(limits: Self.limits)
    let table = second.guest.grantTable
    let (_, references) = try second.grant(1)
    #expect(throws: GrantVersionError.inUse) { try table.setVersion(2) }
    let mappings = second.map(references)
    #expect(throws: GrantVersionError.inUse) { try table.setVersion(2) }
    second.unmap(mappings)
    #expect(table.endAccess(references[0]))
    table.freeReferences(references)
    // A reserved reference is not on the free list: only the pin tells that it is in use.
    table.grantAccess(.xenStore, to: .control, frame: FrameNumber(rawValue: 5), isReadOnly: false)
    let store = second.map([.xenStore])
    #expect(throws: GrantVersionError.inUse) { try table.setVersion(2) }
    second.unmap(store)
    try table.setVersion(2)
    #expect(table.version == 2)
  }

  @Test("a change of layout keeps the reserved entries and forgets all others", arguments: [1, 2])
  func converting(from: Int) throws {
    let machine = try Machine(limits: Self.limits)
    let table = machine.guest.grantTable
    try table.setVersion(from)
    table.grantAccess(.xenStore, to: .control, frame: FrameNumber(rawValue: 5), isReadOnly: true)
    machine.guest.memory.region.store(UInt32(0xBEEF), at: 5 * 4096)
    let stale = GrantReference(rawValue: 40)
    table.grantAccess(stale, to: .control, frame: FrameNumber(rawValue: 6), isReadOnly: false)
    try table.setVersion(3 - from)
    let mappings = machine.map([.xenStore, stale], writable: false)
    #expect(mappings.map(\.status) == [.okay, .generalError])
    #expect(page(at: mappings[0]).load(UInt32.self, at: 0) == 0xBEEF)
    #expect(machine.map([.xenStore])[0].status == .generalError)
    machine.unmap([mappings[0]])
    #expect(table.endAccess(.xenStore))
  }

  @Test("entries have the bytes that Xen's header prescribes")
  func entryBytes() throws {
    let table = try machine().guest.grantTable
    let frame = FrameNumber(rawValue: 0x1122_3344_5566)
    table.grantAccess(GrantReference(rawValue: 8), to: DomainID(rawValue: 3), frame: frame, isReadOnly: true)
    #expect(
      bytes(table.entries, 128, 16) == [5, 0, 3, 0, 0, 0, 0, 0, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 0, 0])
    table.grantSubPage(
      GrantReference(rawValue: 9), to: DomainID(rawValue: 3), frame: frame, offset: 0x123, byteCount: 0x456,
      isReadOnly: false)
    #expect(
      bytes(table.entries, 144, 16)
        == [1, 1, 3, 0, 0x23, 0x01, 0x56, 0x04, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 0, 0])
  }

  @Test("the marks stand in the status words, and the entry stays the granter's")
  func marks() throws {
    let machine = try machine()
    let table = machine.guest.grantTable
    let (_, references) = try machine.grant(2)
    let status = table.statusWords
    let writer = machine.map([references[1]])
    #expect(status.load(UInt16.self, at: 18) == 24 && status.load(UInt16.self, at: 16) == 0)
    #expect(table.flags(of: references[1]) == .permitAccess)
    let reader = machine.map([references[1]], writable: false)
    machine.unmap(writer)
    #expect(status.load(UInt16.self, at: 18) == 8)
    machine.unmap(reader)
    #expect(status.load(UInt16.self, at: 18) == 0)
  }

  @Test("ending access kills the grant at once, and tells whether the page may be reused")
  func ending() throws {
    let machine = try machine()
    let table = machine.guest.grantTable
    let (_, references) = try machine.grant(1)
    let mappings = machine.map(references)
    #expect(!table.endAccess(references[0]))
    #expect(machine.map(references, writable: false)[0].status == .okay, "a pinned entry is not judged again")
    #expect(table.isMappedByPeer(references[0]))
    machine.unmap(mappings)
    #expect(!table.endAccess(references[0]))
  }

  @Test("a full page is mapped, and the table and its limits are those of 16-byte entries")
  func sizes() throws {
    let machine = try machine(limits: DomainLimits(grantFrames: 9, grantTableVersion: 2))
    let table = machine.guest.grantTable
    #expect(table.referenceCount == 256 && table.statusFrameCount == 1 && table.referenceLimit == 9 * 256)
    _ = try table.allocateReferences(9 * 256 - 8 - 1)
    #expect(table.frameCount == 9 && table.statusFrameCount == 2)
    let (pages, references) = try machine.grant(1)
    #expect(throws: GrantStatus.noSpace) { try table.allocateReferences(1) }
    pages.region.store(UInt16(77), at: 9)
    let mappings = machine.map(references)
    #expect(page(at: mappings[0]).load(UInt16.self, at: 9) == 77)
    #expect(table.statusWords.load(UInt16.self, at: Int(references[0].rawValue) * 2) == 24)
    #expect(machine.map([GrantReference(rawValue: 9 * 256)])[0].status == .badReference)
    #expect(machine.unmap(mappings))
  }

  @Test("a frame beyond 32 bits is a bad page, not its low half")
  func wideFrame() throws {
    let machine = try machine()
    let (_, references) = try machine.grant(1)
    machine.guest.grantTable.grantAccess(
      references[0], to: .control, frame: FrameNumber(rawValue: 1 << 32), isReadOnly: false)
    #expect(machine.map(references)[0].status == .badPage)
    #expect(machine.guest.grantTable.statusWords.load(UInt16.self, at: 16) == 0)
  }

  @Test("a sub-page grant is never mapped, and copied only within its part")
  func subPage() throws {
    let machine = try machine()
    let table = machine.guest.grantTable
    let (pages, references) = try machine.grant(1)
    pages.region.fill(9)
    table.grantSubPage(
      references[0], to: .control, frame: pages.firstFrame, offset: 100, byteCount: 50, isReadOnly: true)
    #expect(machine.map(references, writable: false)[0].status == .generalError)
    let own = try machine.control.memory.allocate(1)
    func copy(_ offset: Int, _ count: Int) -> GrantStatus {
      var list = [
        GrantCopyOperation(
          from: GrantCopyEnd(.reference(references[0]), of: machine.guest.id, offset: offset),
          to: GrantCopyEnd(.frame(own.firstFrame), of: .ownSelf), byteCount: count)
      ]
      var span = list.mutableSpan
      machine.hypervisor.copy(&span, for: machine.control)
      return list[0].status
    }
    #expect(copy(100, 50) == .okay)
    #expect(own.region.load(UInt8.self, at: 49) == 9 && own.region.load(UInt8.self, at: 50) == 0)
    #expect(copy(99, 1) == .generalError)
    #expect(copy(149, 2) == .generalError)
    #expect(copy(150, 1) == .generalError)
    #expect(copy(4000, 97) == .badCopyArgument)
    #expect(table.statusWords.load(UInt16.self, at: 16) == 0)
    // Nonsense in the entry: a part that leaves its page still cannot be read beyond the page.
    table.entries.store(UInt16(4090), at: 8 * 16 + 4)
    table.entries.store(UInt16.max, at: 8 * 16 + 6)
    #expect(copy(4090, 7) == .badCopyArgument)
    #expect(copy(4090, 6) == .okay)
  }

  @Test("a transitive grant is refused, for mapping and for copying")
  func transitive() throws {
    let machine = try machine()
    let (_, references) = try machine.grant(1)
    let own = try machine.control.memory.allocate(1)
    machine.guest.grantTable.entries.store(UInt16(3), at: 8 * 16)
    #expect(machine.map(references)[0].status == .generalError)
    var list = [
      GrantCopyOperation(
        from: GrantCopyEnd(.reference(references[0]), of: machine.guest.id),
        to: GrantCopyEnd(.frame(own.firstFrame), of: .ownSelf), byteCount: 1)
    ]
    var span = list.mutableSpan
    machine.hypervisor.copy(&span, for: machine.control)
    #expect(list[0].status == .generalError)
    #expect(machine.guest.grantTable.pinnedEntryCount == 0)
  }

  @Test("a page is never both ended and mapped")
  func race() throws {
    let machine = try machine(mapping: .alias)
    let (pages, references) = try machine.grant(1)
    let table = machine.guest.grantTable
    let ended = Tally()
    let violations = Tally()
    let mapped = Tally()
    let done = Tally()
    onThreads([
      {
        while mapped.count < 5000 {
          while !table.endAccess(references[0]) {}
          ended.raise()
          ended.raise()
          table.grantAccess(references[0], to: .control, frame: pages.firstFrame, isReadOnly: false)
          for _ in 0..<(ended.count & 127) { _ = table.isMappedByPeer(references[0]) }
        }
        done.raise()
      },
      {
        while done.count == 0 {
          let mappings = machine.map(references)
          guard mappings[0].status == .okay else { continue }
          mapped.raise()
          let before = ended.count
          if before & 1 == 1 || ended.count != before { violations.raise() }
          machine.unmap(mappings)
        }
      },
    ])
    #expect(violations.count == 0)
    #expect(table.pinnedEntryCount == 0)
  }
}

@Suite("Changing grants that exist", .serialized)
struct GrantChangeTests {
  private func machine(_ version: Int) throws -> Machine {
    let machine = try Machine(limits: DomainLimits(grantTableVersion: 2))
    try machine.guest.grantTable.setVersion(version)
    return machine
  }

  @Test("the right to write goes only while nobody has the page for writing", arguments: [1, 2])
  func restricting(version: Int) throws {
    let machine = try machine(version)
    let table = machine.guest.grantTable
    let (_, references) = try machine.grant(1)
    let writer = machine.map(references)
    #expect(!table.restrictToReading(references[0]))
    #expect(!table.flags(of: references[0]).contains(.readOnly))
    machine.unmap(writer)
    let reader = machine.map(references, writable: false)
    #expect(table.restrictToReading(references[0]))
    #expect(machine.map(references)[0].status == .generalError)
    table.allowWriting(references[0])
    let again = machine.map(references)
    #expect(again[0].status == .okay)
    machine.unmap(reader + again)
    #expect(table.endAccess(references[0]))
  }

  @Test("two entries change places, unless one is pinned or is none", arguments: [1, 2])
  func swapping(version: Int) throws {
    let machine = try machine(version)
    let table = machine.guest.grantTable
    let (pages, references) = try machine.grant(2)
    pages.region.store(UInt8(1), at: 0)
    pages.region.store(UInt8(2), at: 4096)
    let mappings = machine.map([references[0]])
    #expect(table.swap(references[0], references[1]) == .again)
    #expect(table.swap(references[1], references[0]) == .again)
    machine.unmap(mappings)
    #expect(table.swap(references[0], references[1]) == .okay)
    #expect(table.swap(references[0], references[0]) == .okay)
    let swapped = machine.map(references)
    #expect(page(at: swapped[0]).load(UInt8.self, at: 0) == 2)
    #expect(page(at: swapped[1]).load(UInt8.self, at: 0) == 1)
    for wild: UInt32 in [UInt32(table.referenceCount), 1 << 31, UInt32.max] {
      #expect(table.swap(GrantReference(rawValue: wild), references[0]) == .badReference)
      #expect(table.swap(references[0], GrantReference(rawValue: wild)) == .badReference)
    }
    machine.unmap(swapped)
  }
}
