// SPDX-License-Identifier: MIT

import CAllocationCounter
import GuestMemory
import Testing
import XenWire

@testable import XenHypervisor

@Suite("The hot path takes nothing from the heap")
struct AllocationTests {
  @Test("signalling, taking and sleeping allocate nothing", arguments: [EventInterface.twoLevel, .fifo])
  func events(interface: EventInterface) throws {
    let machine = try Machine(interface: interface)
    let platform = EmulatedPlatform(hypervisor: machine.hypervisor, domain: machine.control)
    let there = try machine.guest.eventChannels.allocateUnbound(remote: .control)
    let here = try platform.bindInterdomain(remote: machine.guest.id, port: there)
    let cpu = machine.guest.virtualCPUs[0]
    var told = 0
    let count = allocations {
      for round in 0..<10_000 {
        if round & 1 == 0 { _ = cpu.prepareToSleep() }
        platform.notify(here)
        cpu.didWake()
        cpu.takePendingPorts { _ in told += 1 }
      }
    }
    #expect(told == 10_000)
    #expect(count == 0)
  }

  @Test("granting, looking and ending allocate nothing", arguments: [1, 2])
  func grants(version: Int) throws {
    let machine = try Machine(limits: DomainLimits(grantTableVersion: 2))
    try machine.guest.grantTable.setVersion(version)
    let guest = EmulatedPlatform(hypervisor: machine.hypervisor, domain: machine.guest)
    let pages = try guest.allocatePages(1)
    let reference = try guest.allocateReferences(1)[0]
    var ended = 0
    let count = allocations {
      for _ in 0..<10_000 {
        guest.grantAccess(reference, to: .control, frame: pages.firstFrame, isReadOnly: false)
        if !guest.isMappedByPeer(reference), guest.endAccess(reference) { ended += 1 }
      }
    }
    #expect(ended == 10_000)
    #expect(count == 0)
  }

  private func allocations(_ body: () -> Void) -> UInt64 {
    guard pv_allocations_are_counted() else {
      body()
      return 0
    }
    let before = pv_thread_allocation_count()
    body()
    return pv_thread_allocation_count() - before
  }
}
