// SPDX-License-Identifier: MIT

import GuestMemory
import Testing
import XenWire

@testable import XenHypervisor

@Suite("The grant table, seen by its owner")
struct GrantTableTests {
  private func bytes(_ region: SharedRegion, _ offset: Int, _ count: Int) -> [UInt8] {
    (0..<count).map { region.load(UInt8.self, at: offset + $0) }
  }

  @Test("an entry has the bytes that Xen's header prescribes")
  func entryBytes() throws {
    let machine = try Machine()
    let table = machine.guest.grantTable
    let reference = GrantReference(rawValue: 9)
    table.grantAccess(
      reference, to: DomainID(rawValue: 3), frame: FrameNumber(rawValue: 0x1234_5678), isReadOnly: true)
    #expect(bytes(table.entries, 72, 8) == [0x05, 0x00, 0x03, 0x00, 0x78, 0x56, 0x34, 0x12])
  }

  @Test("a writable mapping marks the entry with both in-use bits")
  func inUseBytes() throws {
    let machine = try Machine(pages: 0x1001)
    let table = machine.guest.grantTable
    let reference = GrantReference(rawValue: 8)
    table.grantAccess(reference, to: .control, frame: FrameNumber(rawValue: 0x1000), isReadOnly: false)
    let mappings = machine.map([reference])
    #expect(bytes(table.entries, 64, 8) == [0x19, 0x00, 0x00, 0x00, 0x00, 0x10, 0x00, 0x00])
    machine.unmap(mappings)
    #expect(bytes(table.entries, 64, 8) == [0x01, 0x00, 0x00, 0x00, 0x00, 0x10, 0x00, 0x00])
  }

  @Test("a read-only mapping marks the entry as read and not as written")
  func readMark() throws {
    let machine = try Machine()
    let (_, references) = try machine.grant(1)
    let mappings = machine.map(references, writable: false)
    #expect(machine.guest.grantTable.flags(of: references[0]) == [.permitAccess, .reading])
    machine.unmap(mappings)
    #expect(machine.guest.grantTable.flags(of: references[0]) == .permitAccess)
  }

  @Test("a page of the table is one page of entries, and the first page is there from the start")
  func firstFrame() throws {
    let table = try Machine().guest.grantTable
    #expect(table.frameCount == 1)
    #expect(table.referenceCount == 512)
    #expect(table.version == 1)
  }

  @Test("references 0 to 7 are never handed out, and the last freed is the first taken")
  func freeList() throws {
    let table = try Machine().guest.grantTable
    let first = try table.allocateReferences(4)
    #expect(first.map(\.rawValue) == [8, 9, 10, 11])
    table.freeReferences([first[1]])
    table.freeReferences([first[3]])
    #expect(try table.allocateReferences(3).map(\.rawValue) == [11, 9, 12])
    let all = try table.allocateReferences(32_768 - 8 - 5)
    #expect(all.allSatisfy { $0.rawValue >= 8 })
    #expect(Set(all + first + [GrantReference(rawValue: 12)]).count == 32_768 - 8)
  }

  @Test("the table grows a frame at a time up to its limit, and a request that does not fit takes nothing")
  func growth() throws {
    let machine = try Machine(limits: DomainLimits(grantFrames: 3))
    let table = machine.guest.grantTable
    _ = try table.allocateReferences(504)
    #expect(table.frameCount == 1)
    _ = try table.allocateReferences(1)
    #expect(table.frameCount == 2)
    let before = table.allocatedReferenceCount
    #expect(throws: GrantStatus.noSpace) { try table.allocateReferences(2 * 512) }
    #expect(table.allocatedReferenceCount == before)
    _ = try table.allocateReferences(3 * 512 - 8 - before)
    #expect(table.frameCount == 3)
    #expect(throws: GrantStatus.noSpace) { try table.allocateReferences(1) }
  }

  @Test("references of a later frame work like those of the first")
  func laterFrames() throws {
    let machine = try Machine()
    _ = try machine.guest.grantTable.allocateReferences(5000)
    let (pages, references) = try machine.grant(1)
    #expect(references[0].rawValue == 5008)
    pages.region.store(UInt32(0xCAFE), at: 0)
    let mappings = machine.map(references)
    #expect(mappings[0].status == .okay)
    #expect(page(at: mappings[0]).load(UInt32.self, at: 0) == 0xCAFE)
  }

  @Test("access that is not in use ends, and the entry is zero")
  func endAccess() throws {
    let machine = try Machine()
    let (_, references) = try machine.grant(1)
    let table = machine.guest.grantTable
    #expect(table.endAccess(references[0]))
    #expect(table.flags(of: references[0]).rawValue == 0)
    #expect(machine.map(references)[0].status == .generalError)
  }

  @Test("access that is in use does not end, and nothing changes", arguments: [true, false])
  func endAccessInUse(writable: Bool) throws {
    let machine = try Machine()
    let (_, references) = try machine.grant(1)
    let table = machine.guest.grantTable
    let mappings = machine.map(references, writable: writable)
    #expect(table.isMappedByPeer(references[0]))
    let flags = table.flags(of: references[0])
    #expect(!table.endAccess(references[0]))
    #expect(table.flags(of: references[0]) == flags)
    machine.unmap(mappings)
    #expect(!table.isMappedByPeer(references[0]))
    #expect(table.endAccess(references[0]))
  }

  @Test("a reference given back twice, or while it grants, stops the process")
  func wrongFree() async {
    await #expect(processExitsWith: .failure) {
      let table = try Machine().guest.grantTable
      let references = try table.allocateReferences(1)
      table.freeReferences(references)
      table.freeReferences(references)
    }
    await #expect(processExitsWith: .failure) {
      let machine = try Machine()
      let (_, references) = try machine.grant(1)
      machine.guest.grantTable.freeReferences(references)
    }
  }
}

@Suite("A domain's memory")
struct DomainMemoryTests {
  @Test("adjacent pages are adjacent in memory, and the allocator gives the lowest that fit")
  func adjacency() throws {
    let memory = try Machine(pages: 16).guest.memory
    let first = try memory.allocate(4)
    let second = try memory.allocate(2)
    #expect(first.firstFrame.rawValue == 0)
    #expect(second.firstFrame.rawValue == 4)
    #expect(second.region.address == first.region.address + 4 * 4096)
    memory.free(first)
    #expect(try memory.allocate(3).firstFrame.rawValue == 0)
    #expect(try memory.allocate(2).firstFrame.rawValue == 6)
    #expect(try memory.allocate(1).firstFrame.rawValue == 3)
    #expect(throws: GrantStatus.noSpace) { try memory.allocate(9) }
    #expect(memory.allocatedPageCount == 8)
  }

  @Test("freed neighbours grow together again, in whatever order they are freed")
  func coalescing() throws {
    let memory = try Machine(pages: 8).guest.memory
    for order in [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2], [2, 0, 3, 1]] {
      let parts = try (0..<4).map { _ in try memory.allocate(2) }
      for index in order { memory.free(parts[index]) }
      let whole = try memory.allocate(8)
      memory.free(whole)
    }
    #expect(memory.allocatedPageCount == 0)
  }

  @Test("pages hold zeros when they are taken again")
  func zeroed() throws {
    let memory = try Machine(pages: 4).guest.memory
    let pages = try memory.allocate(2)
    pages.region.fill(0xAA)
    memory.free(pages)
    let again = try memory.allocate(4)
    #expect((0..<2048).allSatisfy { again.region.load(UInt64.self, at: $0 * 8) == 0 })
  }

  @Test("pages freed twice stop the process")
  func freedTwice() async {
    await #expect(processExitsWith: .failure) {
      let memory = try Machine(pages: 4).guest.memory
      let pages = try memory.allocate(2)
      memory.free(pages)
      memory.free(pages)
    }
  }
}
