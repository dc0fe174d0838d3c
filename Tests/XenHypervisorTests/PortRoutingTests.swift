// SPDX-License-Identifier: MIT

import Testing
import XenWire

@testable import XenHypervisor

@Suite("Event channels: ports that start masked")
struct PortRoutingTests {
  private static func machine(_ interface: EventInterface) throws -> Machine {
    let machine = try Machine(interface: interface)
    for domain in [machine.guest, machine.control] { domain.eventChannels.startPortsMasked() }
    return machine
  }

  @Test(
    "an event that came before its port had a CPU is told to that CPU alone, and so are later ones",
    arguments: [EventInterface.twoLevel, .fifo])
  func early(interface: EventInterface) throws {
    let machine = try Self.machine(interface)
    let there = try machine.guest.eventChannels.allocateUnbound(remote: .control)
    let here = try machine.control.eventChannels.bindInterdomain(remote: machine.guest.id, port: there)
    try machine.control.eventChannels.send(here)
    for domain in [machine.guest, machine.control] {
      #expect(!domain.virtualCPUs[0].hasPendingUpcall && !domain.virtualCPUs[1].hasPendingUpcall)
    }
    // Nobody looks at CPU 0 any more.
    try machine.guest.eventChannels.route(there, to: 1)
    try machine.control.eventChannels.route(here, to: 1)
    #expect(take(machine.guest, 1) == [there.rawValue])
    #expect(take(machine.control, 1) == [here.rawValue])
    for _ in 0..<3 {
      try machine.control.eventChannels.send(here)
      #expect(machine.guest.virtualCPUs[1].hasPendingUpcall && !machine.guest.virtualCPUs[0].hasPendingUpcall)
      #expect(take(machine.guest, 1) == [there.rawValue])
    }
  }

  @Test(
    "a port that moves takes its pending event along; one that is in a FIFO queue already stays there, as in Xen",
    arguments: [(EventInterface.twoLevel, true), (.twoLevel, false), (.fifo, true)])
  func moved(interface: EventInterface, isMasked: Bool) throws {
    let machine = try Self.machine(interface)
    let there = try machine.guest.eventChannels.allocateUnbound(remote: .control)
    try machine.guest.eventChannels.route(there, to: 0)
    let here = try machine.control.eventChannels.bindInterdomain(remote: machine.guest.id, port: there)
    if isMasked { machine.guest.eventChannels.mask(there) }
    try machine.control.eventChannels.send(here)
    try machine.guest.eventChannels.route(there, to: 1)
    #expect(machine.guest.virtualCPUs[1].hasPendingUpcall)
    #expect(take(machine.guest, 1) == [there.rawValue])
    #expect(take(machine.guest, 0) == [])
  }

  @Test("the next owner of a port's number starts masked, too", arguments: [EventInterface.twoLevel, .fifo])
  func closed(interface: EventInterface) throws {
    let machine = try Self.machine(interface)
    let channels = machine.guest.eventChannels
    let first = try channels.allocateUnbound(remote: .control)
    try channels.route(first, to: 1)
    try channels.close(first)
    let second = try channels.allocateUnbound(remote: .control)
    #expect(second == first)
    let here = try machine.control.eventChannels.bindInterdomain(remote: machine.guest.id, port: second)
    try machine.control.eventChannels.send(here)
    #expect(take(machine.guest, 0) == [] && take(machine.guest, 1) == [])
    try channels.route(second, to: 0)
    #expect(take(machine.guest, 0) == [second.rawValue])
  }

  @Test("a reset leaves every port masked")
  func reset() throws {
    let machine = try Self.machine(.twoLevel)
    let channels = machine.guest.eventChannels
    try channels.route(channels.allocateUnbound(remote: .control), to: 0)
    try channels.reset()
    let port = try channels.allocateUnbound(remote: .control)
    let here = try machine.control.eventChannels.bindInterdomain(remote: machine.guest.id, port: port)
    try machine.control.eventChannels.send(here)
    #expect(take(machine.guest) == [])
  }
}
