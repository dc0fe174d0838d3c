// SPDX-License-Identifier: MIT

import CAllocationCounter
import GuestMemory
import Testing
import XenWire

@testable import XenHypervisor

@Suite(
  "The hot path takes nothing from the heap",
  .enabled(if: pv_allocations_are_counted(), "a sanitizer has taken malloc"))
struct AllocationTests {
  @Test("signalling, taking and sleeping allocate nothing", arguments: [EventInterface.twoLevel, .fifo])
  func events(interface: EventInterface) throws {
    let machine = try Machine(interface: interface)
    let platform = EmulatedPlatform(hypervisor: machine.hypervisor, domain: machine.control)
    let there = try machine.guest.eventChannels.allocateUnbound(remote: .control)
    let here = try platform.bindInterdomain(remote: machine.guest.id, port: there)
    let cpu = machine.guest.virtualCPUs[0]
    var told = 0
    let count = allocations(in: 10_000) { round in
      if round & 1 == 0 { _ = cpu.prepareToSleep() }
      platform.notify(here)
      cpu.didWake()
      cpu.takePendingPorts { _ in told += 1 }
    }
    #expect(told == Self.warmUp + 10_000)
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
    let count = allocations(in: 10_000) { _ in
      guest.grantAccess(reference, to: .control, frame: pages.firstFrame, isReadOnly: false)
      if !guest.isMappedByPeer(reference), guest.endAccess(reference) { ended += 1 }
    }
    #expect(ended == Self.warmUp + 10_000)
    #expect(count == 0)
  }

  /// Rounds that do not count: the first ones let the Swift runtime make what it makes once, such as type metadata.
  static let warmUp = 100

  private func allocations(in rounds: Int, _ body: (Int) -> Void) -> UInt64 {
    for round in 0..<Self.warmUp { body(round) }
    let before = pv_thread_allocation_count()
    for round in 0..<rounds { body(round) }
    return pv_thread_allocation_count() - before
  }
}
