// SPDX-License-Identifier: MIT

import Glibc
import GuestMemory
import Synchronization
import Testing
import XenWire

@testable import XenHypervisor

@Suite("Mapping granted pages")
struct GrantMappingTests {
  @Test("a mapped page is the granter's page, in both directions", arguments: [MappingStrategy.remap, .alias])
  func sharesBytes(mapping: MappingStrategy) throws {
    let machine = try Machine(mapping: mapping)
    let (pages, references) = try machine.grant(1)
    let mappings = machine.map(references)
    try #require(mappings[0].status == .okay)
    pages.region.store(UInt64(0x1122_3344), at: 8)
    #expect(page(at: mappings[0]).load(UInt64.self, at: 8) == 0x1122_3344)
    page(at: mappings[0]).store(UInt64(77), at: 4088)
    #expect(pages.region.load(UInt64.self, at: 4088) == 77)
    #expect((mappings[0].address == pages.region.address) == (mapping == .alias))
    #expect(machine.unmap(mappings))
  }

  @Test("adjacent frames come out at adjacent addresses", arguments: [MappingStrategy.remap, .alias])
  func adjacency(mapping: MappingStrategy) throws {
    let machine = try Machine(mapping: mapping)
    let (_, references) = try machine.grant(16)
    let mappings = machine.map(references)
    for index in 1..<16 { #expect(mappings[index].address == mappings[index - 1].address + 4096) }
    machine.unmap(mappings)
    // In pieces, and in another order, the addresses are the same.
    let tail = machine.map(Array(references[8...]))
    let head = machine.map(references[..<8].reversed())
    #expect(tail[0].address == head[0].address + 4096)
    #expect(Set((tail + head).map(\.address)) == Set(mappings.map(\.address)))
  }

  @Test("a batch of adjacent frames is one system call, up or down, and so is its unmap")
  func merging() throws {
    let machine = try Machine()
    let (_, references) = try machine.grant(32)
    func calls() -> Int { machine.control.grantMappings.state.withLock { $0.windows.first?.placementCount ?? 0 } }
    let up = machine.map(references)
    #expect(calls() == 1)
    #expect(machine.unmap(up))
    #expect(calls() == 2)
    let down = machine.map(references.reversed())
    #expect(calls() == 3)
    #expect(machine.map(references)[7].address == up[7].address)
    #expect(calls() == 3)
    #expect(machine.unmap(down))
    #expect(calls() == 3)
    let apart = stride(from: 0, to: 32, by: 2).map { references[$0] }
    let readers = machine.map(apart, writable: false)
    #expect(readers.allSatisfy { $0.status == .okay })
    #expect(calls() == 3)
  }

  @Test("the same reference mapped twice gives two handles for one page")
  func twice() throws {
    let machine = try Machine()
    let (_, references) = try machine.grant(1)
    let first = machine.map(references)
    let second = machine.map(references)
    #expect(first[0].handle != second[0].handle)
    #expect(first[0].address == second[0].address)
    #expect(machine.control.grantMappings.count == 2)
    #expect(machine.control.grantMappings.mappedByteCount == 4096)
    #expect(machine.unmap(first))
    #expect(machine.guest.grantTable.isMappedByPeer(references[0]))
    page(at: second[0]).store(UInt8(1), at: 0)
    #expect(machine.unmap(second))
    #expect(!machine.guest.grantTable.isMappedByPeer(references[0]))
  }

  @Test("a failed element leaves the others mapped, and every element is written")
  func partialFailure() throws {
    let machine = try Machine()
    var (_, references) = try machine.grant(5)
    references[1] = GrantReference(rawValue: 500)
    references[3] = GrantReference(rawValue: 1 << 31)
    let mappings = machine.map(references)
    #expect(mappings.map(\.status) == [.okay, .generalError, .okay, .badReference, .okay])
    #expect(mappings[1].handle == .invalid && mappings[3].handle == .invalid)
    #expect(mappings[1].address == 0 && mappings[3].address == 0)
    #expect(machine.control.grantMappings.count == 3)
    #expect(machine.unmap([mappings[0], mappings[2], mappings[4]]))
  }

  // MARK: Refusals in the order of the checks

  @Test("a map for neither host nor device is a bad reference, even of a domain that does not exist")
  func noKind() throws {
    let machine = try Machine()
    let result = machine.map([GrantReference(rawValue: 8)], flags: .readOnly, of: DomainID(rawValue: 99))
    #expect(result[0].status == .badReference)
  }

  @Test("a granter that does not exist is a bad domain, also for a number that is reserved")
  func unknownDomain() throws {
    let machine = try Machine()
    for number: UInt16 in [2, 99, 0x7FEF, 0x7FF0, 0x7FFF, 0xFFFF] {
      let result = machine.map([GrantReference(rawValue: 8)], of: DomainID(rawValue: number))
      #expect(result[0].status == .badDomain)
    }
  }

  @Test("a mapper that the granter's policy keeps out is denied before its reference is looked at")
  func policy() throws {
    let machine = try Machine()
    let shy = try machine.hypervisor.createDomain(
      DomainID(rawValue: 5), memoryByteCount: 4096, virtualCPUCount: 1, policy: .only([DomainID(rawValue: 1)]))
    let wild = [GrantReference(rawValue: 0xFFFF_FFFF)]
    #expect(machine.map(wild, of: shy.id)[0].status == .permissionDenied)
    #expect(machine.map(wild, of: shy.id, for: machine.guest)[0].status == .badReference)
  }

  @Test("a full maptrack is no space, before the reference is looked at, and comes back after an unmap")
  func maptrackExhaustion() throws {
    let machine = try Machine(controlLimits: DomainLimits(maptrackFrames: 1))
    let (_, references) = try machine.grant(3)
    let held =
      machine.map(Array(repeating: references[0], count: 128))
      + machine.map(Array(repeating: references[1], count: 128))
    #expect(held.allSatisfy { $0.status == .okay })
    #expect(machine.map([GrantReference(rawValue: 1 << 31)])[0].status == .noSpace)
    #expect(machine.map([references[2]])[0].status == .noSpace)
    #expect(machine.guest.grantTable.pinCount(of: references[2]) == 0)
    machine.unmap([held[0]])
    let again = machine.map([references[2]])
    #expect(again[0].status == .okay)
    machine.unmap(Array(held[1...]) + again)
    #expect(machine.control.grantMappings.count == 0)
  }

  @Test("a batch that the maptrack holds only in part maps that part")
  func maptrackPartly() throws {
    let machine = try Machine(controlLimits: DomainLimits(maptrackFrames: 1))
    let (_, references) = try machine.grant(4)
    let batch = references.flatMap { Array(repeating: $0, count: 100) }
    let mappings = machine.map(batch)
    #expect(mappings.prefix(256).allSatisfy { $0.status == .okay })
    #expect(mappings.suffix(144).allSatisfy { $0 == GrantMapping(status: .noSpace) })
  }

  @Test(
    "a reference outside the table is a bad reference",
    arguments: [512, 32_767, 32_768, 1 << 31, UInt32.max - 1, UInt32.max])
  func outsideTable(reference: UInt32) throws {
    let machine = try Machine()
    #expect(machine.map([GrantReference(rawValue: reference)])[0].status == .badReference)
    #expect(machine.control.grantMappings.count == 0)
  }

  @Test(
    "an entry that grants nothing, another type, or another domain is a general error",
    arguments: [
      (UInt16(0), UInt16(0)), (2, 0), (3, 0), (1, 2), (1, 0x7FF0), (4, 0),
    ])
  func wrongEntry(flags: UInt16, domain: UInt16) throws {
    let machine = try Machine()
    let entries = machine.guest.grantTable.entries
    entries.store(domain, at: 64 + 2)
    entries.store(UInt32(1), at: 64 + 4)
    entries.store(flags, at: 64)
    #expect(machine.map([GrantReference(rawValue: 8)])[0].status == .generalError)
    #expect(entries.load(UInt16.self, at: 64) == flags)
    #expect(machine.guest.grantTable.pinnedEntryCount == 0)
  }

  @Test("a writable map of a read-only grant is a general error, not a denied permission")
  func writableOfReadOnly() throws {
    let machine = try Machine()
    let (_, references) = try machine.grant(1, isReadOnly: true)
    #expect(machine.map(references)[0].status == .generalError)
    let reader = machine.map(references, writable: false)
    #expect(reader[0].status == .okay)
    #expect(machine.map(references)[0].status == .generalError)
    machine.unmap(reader)
    #expect(machine.guest.grantTable.endAccess(references[0]))
  }

  @Test(
    "128 mappings of one kind are allowed and the next is refused, for each kind by itself",
    arguments: [
      GrantMapFlags.host, [.host, .readOnly], .device, [.device, .readOnly],
    ])
  func pinLimit(flags: GrantMapFlags) throws {
    let machine = try Machine()
    let (_, references) = try machine.grant(1)
    let full = machine.map(Array(repeating: references[0], count: 129), flags: flags)
    #expect(full.prefix(128).allSatisfy { $0.status == .okay })
    #expect(full[128].status == .generalError)
    let other: GrantMapFlags = flags.contains(.device) ? [.host, .readOnly] : [.device, .readOnly]
    let one = machine.map(references, flags: other)
    #expect(one[0].status == .okay)
    machine.unmap([full[5]])
    let again = machine.map(references, flags: flags)
    #expect(again[0].status == .okay)
    machine.unmap(full.prefix(5) + full[6..<128] + one + again)
    #expect(machine.guest.grantTable.pinnedEntryCount == 0)
  }

  @Test("a frame that the granter does not have is a bad page and leaves no mark", arguments: [64, 65, 0xFFFF_FFFF])
  func frameOutside(frame: UInt64) throws {
    let machine = try Machine(pages: 64)
    let table = machine.guest.grantTable
    let reference = GrantReference(rawValue: 8)
    table.grantAccess(reference, to: .control, frame: FrameNumber(rawValue: frame), isReadOnly: false)
    #expect(machine.map([reference])[0].status == .badPage)
    #expect(table.flags(of: reference) == .permitAccess)
    #expect(table.endAccess(reference))
    #expect(throws: GrantStatus.badPage) {
      table.grantAccess(reference, to: .control, frame: FrameNumber(rawValue: frame), isReadOnly: false)
      _ = try machine.hypervisor.mapContiguously([reference], of: DomainID(rawValue: 1), for: machine.control)
    }
    #expect(machine.control.ledger == ResourceLedger())
  }

  // MARK: Latching

  @Test("frame and domain are latched at the first pin: editing the entry while it is mapped has no effect")
  func latching() throws {
    let machine = try Machine()
    let (pages, references) = try machine.grant(1)
    let first = machine.map(references)
    let entry = Int(references[0].rawValue) * 8
    machine.guest.grantTable.entries.store(UInt32(63), at: entry + 4)
    machine.guest.grantTable.entries.store(UInt16(9), at: entry + 2)
    let second = machine.map(references)
    #expect(second[0].status == .okay)
    #expect(second[0].address == first[0].address)
    pages.region.store(UInt8(5), at: 0)
    #expect(page(at: second[0]).load(UInt8.self, at: 0) == 5)
    let nine = try machine.hypervisor.createDomain(
      DomainID(rawValue: 9), memoryByteCount: 4096, virtualCPUCount: 1)
    #expect(machine.map(references, for: nine)[0].status == .generalError)
    machine.unmap(first + second)
    #expect(machine.map(references, for: nine)[0].status == .okay)
  }

  // MARK: Unmapping

  @Test("a handle that is not mapped is answered with false and changes nothing, twice in one batch too")
  func badHandles() throws {
    let machine = try Machine()
    let (_, references) = try machine.grant(2)
    let mappings = machine.map(references)
    #expect(!machine.unmap([mappings[0], mappings[0]]))
    #expect(machine.control.grantMappings.count == 1)
    #expect(machine.guest.grantTable.pinCount(of: references[1]) == 1)
    for number: UInt32 in [mappings[0].handle.rawValue, 255, 256, 1 << 31, UInt32.max] {
      #expect(!machine.unmap([GrantMapping(status: .okay, handle: GrantHandle(rawValue: number))]))
    }
    #expect(machine.unmap([mappings[1]]))
    #expect(!machine.unmap([mappings[1]]))
  }

  @Test("one bad handle does not keep the others of its batch mapped")
  func mixedUnmap() throws {
    let machine = try Machine()
    let (_, references) = try machine.grant(3)
    let mappings = machine.map(references)
    #expect(!machine.unmap([mappings[0], GrantMapping(status: .okay, handle: .invalid), mappings[2], mappings[1]]))
    #expect(machine.control.grantMappings.count == 0)
    #expect(machine.guest.grantTable.pinnedEntryCount == 0)
  }

  @Test("a handle of another domain's maptrack means nothing here")
  func foreignHandle() throws {
    let machine = try Machine()
    let (_, references) = try machine.grant(1)
    let mappings = machine.map(references)
    #expect(!machine.unmap(mappings, of: machine.guest))
    #expect(machine.unmap(mappings))
  }

  // MARK: Real rights in remap mode

  @Test("a stray write through a read-only mapping faults")
  func readOnlyFaults() async {
    await #expect(processExitsWith: .signal(SIGSEGV)) {
      let machine = try Machine()
      let (_, references) = try machine.grant(1)
      let mappings = machine.map(references, writable: false)
      precondition(page(at: mappings[0]).load(UInt8.self, at: 0) == 0)
      page(at: mappings[0]).store(UInt8(1), at: 0)
    }
  }

  @Test("a stray access after the last unmap faults")
  func unmappedFaults() async {
    await #expect(processExitsWith: .signal(SIGSEGV)) {
      let machine = try Machine()
      let (_, references) = try machine.grant(2)
      let mappings = machine.map(references)
      page(at: mappings[0]).store(UInt8(1), at: 0)
      machine.unmap([mappings[0]])
      page(at: mappings[1]).store(UInt8(1), at: 0)
      _ = page(at: mappings[0]).load(UInt8.self, at: 0)
    }
  }

  @Test("a page is writable while a writable mapping lives and read-only again after it")
  func downgrade() async throws {
    let machine = try Machine()
    let (pages, references) = try machine.grant(1)
    let reader = machine.map(references, writable: false)
    let writer = machine.map(references)
    page(at: reader[0]).store(UInt8(3), at: 0)
    #expect(pages.region.load(UInt8.self, at: 0) == 3)
    machine.unmap(writer)
    #expect(page(at: reader[0]).load(UInt8.self, at: 0) == 3)
    await #expect(processExitsWith: .signal(SIGSEGV)) {
      let machine = try Machine()
      let (_, references) = try machine.grant(1)
      let reader = machine.map(references, writable: false)
      let writer = machine.map(references)
      page(at: writer[0]).store(UInt8(3), at: 0)
      machine.unmap(writer)
      page(at: reader[0]).store(UInt8(3), at: 0)
    }
  }
}
