// SPDX-License-Identifier: MIT

import GuestMemory
import Synchronization
import Testing
import XenWire

@testable import XenHypervisor

@Suite("The life of domains")
struct HypervisorTests {
  @Test("a domain needs a real number, a sensible count of CPUs, memory and limits")
  func refusals() throws {
    let hypervisor = try Hypervisor()
    func create(
      _ id: UInt16, bytes: Int = 4096, cpus: Int = 1, limits: DomainLimits = .xenDefaults
    ) throws(HypervisorError) {
      try hypervisor.createDomain(
        DomainID(rawValue: id), memoryByteCount: bytes, virtualCPUCount: cpus, limits: limits)
    }
    #expect(throws: HypervisorError.reservedDomain(.ownSelf)) { try create(0x7FF0) }
    #expect(throws: HypervisorError.badVirtualCPUCount(0)) { try create(1, cpus: 0) }
    #expect(throws: HypervisorError.badVirtualCPUCount(257)) { try create(1, cpus: 257) }
    #expect(throws: HypervisorError.badLimits) { try create(1, bytes: 0) }
    #expect(throws: HypervisorError.badLimits) { try create(1, limits: DomainLimits(grantFrames: 0)) }
    #expect(throws: HypervisorError.badLimits) { try create(1, limits: DomainLimits(grantTableVersion: 3)) }
    try create(0x7FEF, cpus: 32)
    #expect(throws: HypervisorError.domainExists(DomainID(rawValue: 0x7FEF))) { try create(0x7FEF) }
    #expect(hypervisor.domain(DomainID(rawValue: 1)) == nil)
    hypervisor.destroyDomain(DomainID(rawValue: 1))
    hypervisor.destroyDomain(DomainID(rawValue: 0x7FEF))
    try create(0x7FEF)
  }

  @Test("destroying a mapper brings every counter back to where it was", arguments: [MappingStrategy.remap, .alias])
  func destroyMapper(mapping: MappingStrategy) throws {
    let machine = try Machine(mapping: mapping)
    let (_, references) = try machine.grant(20)
    let port = try machine.guest.eventChannels.allocateUnbound(remote: DomainID(rawValue: 6))
    let start = machine.hypervisor.ledger
    let mapper = try machine.hypervisor.createDomain(DomainID(rawValue: 6), memoryByteCount: 4096, virtualCPUCount: 1)
    for reference in references {
      machine.guest.grantTable.grantAccess(
        reference, to: mapper.id, frame: FrameNumber(rawValue: UInt64(reference.rawValue - 8)), isReadOnly: false)
    }
    let mappings = machine.map(references + references, for: mapper)
    #expect(mappings.allSatisfy { $0.status == .okay })
    _ = machine.map(references, writable: false, for: mapper)
    _ = try machine.hypervisor.mapContiguously([references[4], references[2]], of: machine.guest.id, for: mapper)
    _ = try mapper.eventChannels.bindInterdomain(remote: machine.guest.id, port: port)
    _ = try mapper.memory.allocate(1)
    #expect(machine.hypervisor.ledger != start)
    machine.hypervisor.destroyDomain(mapper.id)
    #expect(machine.hypervisor.ledger == start)
    #expect(mapper.ledger == ResourceLedger(allocatedPages: 1))
    #expect(references.allSatisfy { machine.guest.grantTable.endAccess($0) })
    #expect(try machine.guest.eventChannels.status(of: port) == .unbound(remote: mapper.id, virtualCPU: 0))
  }

  @Test("a destroyed domain can do nothing any more, and what it does is refused, not trapped")
  func deadDomain() throws {
    let machine = try Machine()
    let (_, references) = try machine.grant(2)
    let guestPort = try machine.guest.eventChannels.allocateUnbound(remote: .control)
    machine.hypervisor.destroyDomain(.control)
    #expect(machine.map(references).allSatisfy { $0 == GrantMapping(status: .generalError) })
    #expect(throws: EventChannelError.noSuchDomain) {
      try machine.control.eventChannels.allocateUnbound(remote: .control)
    }
    #expect(throws: EventChannelError.noSuchDomain) {
      try machine.control.eventChannels.bindInterdomain(remote: machine.guest.id, port: guestPort)
    }
    #expect(throws: EventChannelError.noSuchDomain) {
      try machine.guest.eventChannels.bindInterdomain(remote: .control, port: EventPort(rawValue: 1))
    }
    #expect(throws: EventChannelError.invalid) { try machine.control.eventChannels.close(EventPort(rawValue: 1)) }
    machine.control.eventChannels.notify(EventPort(rawValue: 1))
  }

  @Test(
    "a granter that is destroyed leaves its pages to those who have them mapped, until they unmap",
    arguments: [MappingStrategy.remap, .alias])
  func destroyGranter(mapping: MappingStrategy) throws {
    let machine = try Machine(mapping: mapping)
    let (pages, references) = try machine.grant(2)
    pages.region.store(UInt32(99), at: 0)
    let mappings = machine.map(references)
    machine.hypervisor.destroyDomain(machine.guest.id)
    #expect(machine.map(references)[0].status == .badDomain)
    #expect(page(at: mappings[0]).load(UInt32.self, at: 0) == 99)
    page(at: mappings[1]).store(UInt8(1), at: 0)
    #expect(machine.control.grantMappings.count == 2)
    #expect(machine.unmap(mappings))
    #expect(machine.control.ledger == ResourceLedger())
    #expect(machine.control.grantMappings.state.withLock { $0.windows.count } == 0)
  }

  @Test("a new domain with an old number is a stranger to the old one's mappings")
  func sameNumber() throws {
    let machine = try Machine()
    let (pages, references) = try machine.grant(1)
    pages.region.store(UInt32(1), at: 0)
    let old = machine.map(references)
    machine.hypervisor.destroyDomain(machine.guest.id)
    let heir = try machine.hypervisor.createDomain(machine.guest.id, memoryByteCount: 8192, virtualCPUCount: 1)
    #expect(machine.map(references)[0].status == .generalError)
    heir.grantTable.grantAccess(
      references[0], to: .control, frame: FrameNumber(rawValue: 0), isReadOnly: false)
    let new = machine.map(references)
    #expect(new[0].status == .okay)
    #expect(new[0].address != old[0].address)
    #expect(page(at: new[0]).load(UInt32.self, at: 0) == 0)
    #expect(page(at: old[0]).load(UInt32.self, at: 0) == 1)
    #expect(machine.unmap(old) && machine.unmap(new))
    #expect(heir.grantTable.endAccess(references[0]))
  }

  @Test("an old domain's channels and its heir's do not mix, while somebody still holds the old one")
  func oldChannels() throws {
    let machine = try Machine()
    let old = machine.guest
    let there = try old.eventChannels.allocateUnbound(remote: .control)
    let here = try machine.control.eventChannels.bindInterdomain(remote: old.id, port: there)
    _ = take(machine.control)
    machine.hypervisor.destroyDomain(old.id)
    let heir = try machine.hypervisor.createDomain(old.id, memoryByteCount: 4096, virtualCPUCount: 1)
    let port = try heir.eventChannels.allocateUnbound(remote: .control)
    #expect(port == there)
    old.eventChannels.notify(there)
    machine.control.eventChannels.notify(here)
    #expect(take(old) == [] && take(heir) == [] && take(machine.control) == [])
    let again = try machine.control.eventChannels.bindInterdomain(remote: heir.id, port: port)
    machine.control.eventChannels.notify(again)
    #expect(take(heir) == [port.rawValue])
    #expect(take(old) == [])
  }

  @Test("a hypervisor and its domains go when nobody holds them, even when domains map each other")
  func noCycles() throws {
    weak var first: Domain?
    weak var second: Hypervisor?
    do {
      let machine = try Machine()
      let (_, references) = try machine.grant(1)
      _ = machine.map(references)
      let pages = try machine.control.memory.allocate(1)
      let reference = try machine.control.grantTable.allocateReferences(1)
      machine.control.grantTable.grantAccess(
        reference[0], to: machine.guest.id, frame: pages.firstFrame, isReadOnly: false)
      #expect(machine.map(reference, of: .control, for: machine.guest)[0].status == .okay)
      first = machine.guest
      second = machine.hypervisor
    }
    #expect(first == nil && second == nil)
  }

  @Test("a thousand domains come and go, and descriptors and address space with them")
  func churn() async {
    // In a process of its own, where nobody else opens descriptors.
    await #expect(processExitsWith: .success) {
      let hypervisor = try Hypervisor()
      let control = try hypervisor.createDomain(.control, memoryByteCount: 4096, virtualCPUCount: 1)
      let before = openDescriptorCount()
      for _ in 0..<1000 {
        let guest = try hypervisor.createDomain(DomainID(rawValue: 1), memoryByteCount: 1 << 20, virtualCPUCount: 1)
        let port = try guest.eventChannels.allocateUnbound(remote: .control)
        _ = try control.eventChannels.bindInterdomain(remote: guest.id, port: port)
        hypervisor.destroyDomain(guest.id)
        try control.eventChannels.reset()
      }
      #expect(hypervisor.ledger == ResourceLedger())
      // One slot serves all of them; its shared-info page and its eventfd stay. The test runner may open a few of its own.
      #expect(openDescriptorCount() - before < 20)
    }
  }
}
