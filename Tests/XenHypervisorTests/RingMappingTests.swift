// SPDX-License-Identifier: MIT

import Glibc
import GuestMemory
import Testing
import XenWire

@testable import XenHypervisor

@Suite("Mapping the pages of a ring one behind the other")
struct RingMappingTests {
  @Test("pages come in the order of the references, whatever their frames", arguments: [MappingStrategy.remap, .alias])
  func order(mapping: MappingStrategy) throws {
    let machine = try Machine(mapping: mapping)
    let (pages, references) = try machine.grant(6)
    for index in 0..<6 { pages.region.store(UInt32(100 + index), at: index * 4096) }
    let order = [5, 0, 1, 2, 4, 3]
    let ring = try machine.hypervisor.mapContiguously(
      order.map { references[$0] }, of: machine.guest.id, for: machine.control)
    #expect(ring.region.byteCount == 6 * 4096)
    #expect(order.indices.map { Int(ring.region.load(UInt32.self, at: $0 * 4096)) } == order.map { 100 + $0 })
    ring.region.store(UInt64.max, at: 2 * 4096 - 4)
    #expect(pages.region.load(UInt32.self, at: 1 * 4096 - 4) == UInt32.max)
    #expect(pages.region.load(UInt32.self, at: 1 * 4096) == UInt32.max)
    #expect(machine.control.ledger == ResourceLedger(mappings: 6, mappedBytes: 6 * 4096))
    #expect(references.allSatisfy { machine.guest.grantTable.isMappedByPeer($0) })
    #expect(machine.unmap(ring))
    #expect(machine.control.ledger == ResourceLedger())
    #expect(references.allSatisfy { machine.guest.grantTable.endAccess($0) })
  }

  @Test("adjacent frames keep the owner's address when addresses are aliases")
  func aliased() throws {
    let machine = try Machine(mapping: .alias)
    let (pages, references) = try machine.grant(4)
    let ring = try machine.hypervisor.mapContiguously(references, of: machine.guest.id, for: machine.control)
    #expect(ring.region.address == pages.region.address)
    #expect(machine.unmap(ring))
    #expect(machine.control.ledger == ResourceLedger())
  }

  @Test("one page that cannot be had leaves none mapped", arguments: [MappingStrategy.remap, .alias])
  func allOrNothing(mapping: MappingStrategy) throws {
    let machine = try Machine(mapping: mapping)
    let (_, references) = try machine.grant(3)
    let before = machine.hypervisor.ledger
    let wild = references + [GrantReference(rawValue: 77)]
    #expect(throws: GrantStatus.generalError) {
      try machine.hypervisor.mapContiguously(wild, of: machine.guest.id, for: machine.control)
    }
    #expect(throws: GrantStatus.badDomain) {
      try machine.hypervisor.mapContiguously(wild, of: DomainID(rawValue: 8), for: machine.control)
    }
    #expect(throws: GrantStatus.badReference) {
      try machine.hypervisor.mapContiguously([], of: machine.guest.id, for: machine.control)
    }
    #expect(machine.hypervisor.ledger == before)
  }

  @Test("a ring and a window may hold the same page, and each goes by itself")
  func besideWindow() throws {
    let machine = try Machine()
    let (pages, references) = try machine.grant(2)
    let window = machine.map(references)
    let ring = try machine.hypervisor.mapContiguously(
      references.reversed(), of: machine.guest.id, for: machine.control)
    #expect(machine.control.grantMappings.mappedByteCount == 4 * 4096)
    #expect(machine.unmap(ring))
    page(at: window[1]).store(UInt8(9), at: 1)
    #expect(pages.region.load(UInt8.self, at: 4097) == 9)
    #expect(machine.unmap(window))
    #expect(machine.hypervisor.ledger.mappings == 0)
  }

  @Test("the pages of a ring are gone after its unmap")
  func gone() async {
    await #expect(processExitsWith: .signal(SIGSEGV)) {
      let machine = try Machine()
      let (_, references) = try machine.grant(2)
      let ring = try machine.hypervisor.mapContiguously(
        [references[1], references[0]], of: machine.guest.id, for: machine.control)
      ring.region.store(UInt8(1), at: 5000)
      machine.unmap(ring)
      ring.region.store(UInt8(1), at: 5000)
    }
  }
}
