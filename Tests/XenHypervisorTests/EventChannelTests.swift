// SPDX-License-Identifier: MIT

import GuestMemory
import Testing
import XenWire

@testable import XenHypervisor

@Suite("Event channels: who is bound to whom")
struct EventChannelTests {
  private let guestID = DomainID(rawValue: 1)

  @Test("the lowest free port is chosen, and port 0 never", arguments: [EventInterface.twoLevel, .fifo])
  func lowestFree(interface: EventInterface) throws {
    let channels = try Machine(interface: interface).guest.eventChannels
    let ports = try (0..<5).map { _ in try channels.allocateUnbound(remote: .control) }
    #expect(ports.map(\.rawValue) == [1, 2, 3, 4, 5])
    try channels.close(ports[3])
    try channels.close(ports[1])
    #expect(try channels.allocateUnbound(remote: .control).rawValue == 2)
    #expect(try channels.allocateUnbound(remote: .control).rawValue == 4)
    #expect(try channels.allocateUnbound(remote: .control).rawValue == 6)
    #expect(throws: EventChannelError.invalid) { try channels.close(EventPort(rawValue: 0)) }
  }

  @Test(
    "a bound pair names each other, and the binder's port is pending at once",
    arguments: [EventInterface.twoLevel, .fifo])
  func binding(interface: EventInterface) throws {
    let machine = try Machine(interface: interface)
    let there = try machine.guest.eventChannels.allocateUnbound(remote: .control)
    #expect(try machine.guest.eventChannels.status(of: there) == .unbound(remote: .control, virtualCPU: 0))
    let here = try machine.control.eventChannels.bindInterdomain(remote: guestID, port: there)
    #expect(
      try machine.guest.eventChannels.status(of: there)
        == .interdomain(remote: .control, port: here, virtualCPU: 0))
    #expect(
      try machine.control.eventChannels.status(of: here)
        == .interdomain(remote: guestID, port: there, virtualCPU: 0))
    #expect(take(machine.control) == [here.rawValue])
    #expect(take(machine.guest) == [])
  }

  @Test("only the awaited domain may bind, once, and only to an unbound port")
  func bindRefusals() throws {
    let machine = try Machine()
    let other = try machine.hypervisor.createDomain(DomainID(rawValue: 2), memoryByteCount: 4096, virtualCPUCount: 1)
    let port = try machine.guest.eventChannels.allocateUnbound(remote: .control)
    let signal = try machine.guest.eventChannels.bindInterprocessor(to: 0)
    func bind(_ domain: Domain, _ remote: UInt16, _ port: UInt32) throws(EventChannelError) -> EventPort {
      try domain.eventChannels.bindInterdomain(remote: DomainID(rawValue: remote), port: EventPort(rawValue: port))
    }
    #expect(throws: EventChannelError.invalid) { try bind(other, 1, port.rawValue) }
    #expect(throws: EventChannelError.noSuchDomain) { try bind(machine.control, 9, port.rawValue) }
    #expect(throws: EventChannelError.invalid) { try bind(machine.control, 1, signal.rawValue) }
    for wild: UInt32 in [0, 3, 4095, 4096, 131_072, UInt32.max] {
      #expect(throws: EventChannelError.invalid) { try bind(machine.control, 1, wild) }
    }
    #expect(machine.control.eventChannels.openPortCount == 0)
    _ = try bind(machine.control, 1, port.rawValue)
    #expect(throws: EventChannelError.invalid) { try bind(machine.control, 1, port.rawValue) }
    #expect(machine.control.eventChannels.openPortCount == 1)
  }

  @Test("closing one end makes the other wait again, for the same domain", arguments: [EventInterface.twoLevel, .fifo])
  func closing(interface: EventInterface) throws {
    let machine = try Machine(interface: interface)
    let there = try machine.guest.eventChannels.allocateUnbound(remote: .control)
    let here = try machine.control.eventChannels.bindInterdomain(remote: guestID, port: there)
    machine.guest.eventChannels.notify(there)
    try machine.control.eventChannels.close(here)
    #expect(try machine.control.eventChannels.status(of: here) == .closed)
    #expect(try machine.guest.eventChannels.status(of: there) == .unbound(remote: .control, virtualCPU: 0))
    #expect(take(machine.control) == [])
    #expect(throws: EventChannelError.invalid) { try machine.control.eventChannels.close(here) }
    let again = try machine.control.eventChannels.bindInterdomain(remote: guestID, port: there)
    #expect(again == here)
    // And the other way about.
    try machine.guest.eventChannels.close(there)
    #expect(try machine.control.eventChannels.status(of: again) == .unbound(remote: guestID, virtualCPU: 0))
    let back = try machine.guest.eventChannels.bindInterdomain(remote: .control, port: again)
    #expect(take(machine.guest) == [back.rawValue])
  }

  @Test("a domain can be its own peer, by its number and by DOMID_SELF", arguments: [UInt16(1), 0x7FF0])
  func loopback(remote: UInt16) throws {
    let machine = try Machine()
    let channels = machine.guest.eventChannels
    let first = try channels.allocateUnbound(remote: DomainID(rawValue: remote))
    let second = try channels.bindInterdomain(remote: DomainID(rawValue: remote), port: first)
    #expect(take(machine.guest) == [second.rawValue])
    channels.notify(first)
    #expect(take(machine.guest) == [second.rawValue])
    channels.notify(second)
    #expect(take(machine.guest) == [first.rawValue])
    try channels.close(second)
    #expect(try channels.status(of: first) == .unbound(remote: guestID, virtualCPU: 0))
  }

  @Test(
    "sending on an unbound port is silently fine, on any other wrong port invalid",
    arguments: [EventInterface.twoLevel, .fifo])
  func sending(interface: EventInterface) throws {
    let machine = try Machine(interface: interface)
    let channels = machine.guest.eventChannels
    let port = try channels.allocateUnbound(remote: .control)
    try channels.send(port)
    let timer = try channels.bind(.timer, to: 0)
    for wild in [timer.rawValue, 0, 3, 4096, 131_071, 131_072, UInt32.max] {
      #expect(throws: EventChannelError.invalid) { try channels.send(EventPort(rawValue: wild)) }
    }
    #expect(take(machine.guest) == [] && take(machine.control) == [])
  }

  @Test("a virtual interrupt is bound once, where it may be, and arrives", arguments: [EventInterface.twoLevel, .fifo])
  func interrupts(interface: EventInterface) throws {
    let machine = try Machine(interface: interface)
    let channels = machine.guest.eventChannels
    #expect(throws: EventChannelError.invalid) { try channels.bind(VirtualInterrupt(rawValue: 24), to: 0) }
    #expect(throws: EventChannelError.invalid) { try channels.bind(VirtualInterrupt(rawValue: -1), to: 0) }
    #expect(throws: EventChannelError.invalid) { try channels.bind(.domainException, to: 1) }
    #expect(throws: EventChannelError.noSuchEntry) { try channels.bind(.timer, to: 2) }
    let first = try channels.bind(.timer, to: 0)
    let second = try channels.bind(.timer, to: 1)
    #expect(throws: EventChannelError.exists) { try channels.bind(.timer, to: 1) }
    let global = try channels.bind(.domainException, to: 0)
    try channels.bind(global, to: 1)
    #expect(try channels.status(of: global) == .virtualInterrupt(.domainException, virtualCPU: 1))
    channels.raise(.timer, on: 1)
    channels.raise(.domainException)
    channels.raise(.debug)
    #expect(take(machine.guest, 1) == [second.rawValue, global.rawValue])
    #expect(take(machine.guest, 0) == [])
    for port in [first, second, global] { try channels.close(port) }
    channels.raise(.timer, on: 1)
    #expect(take(machine.guest, 1) == [])
    _ = try channels.bind(.timer, to: 1)
    _ = try channels.bind(.domainException, to: 0)
  }

  @Test(
    "a signal among virtual CPUs arrives at the one that it was made for", arguments: [EventInterface.twoLevel, .fifo])
  func interprocessor(interface: EventInterface) throws {
    let machine = try Machine(interface: interface)
    let channels = machine.guest.eventChannels
    #expect(throws: EventChannelError.noSuchEntry) { try channels.bindInterprocessor(to: 2) }
    #expect(throws: EventChannelError.noSuchEntry) { try channels.bindInterprocessor(to: -1) }
    let port = try channels.bindInterprocessor(to: 1)
    try channels.send(port)
    #expect(take(machine.guest, 0) == [])
    #expect(take(machine.guest, 1) == [port.rawValue])
    #expect(try channels.status(of: port) == .interprocessor(virtualCPU: 1))
  }

  @Test(
    "unbound and bound ports move between virtual CPUs, tied ones do not, and a freed port forgets its CPU",
    arguments: [EventInterface.twoLevel, .fifo])
  func movingPorts(interface: EventInterface) throws {
    let machine = try Machine(interface: interface)
    let channels = machine.guest.eventChannels
    let port = try channels.allocateUnbound(remote: .control)
    #expect(throws: EventChannelError.noSuchEntry) { try channels.bind(port, to: 2) }
    #expect(throws: EventChannelError.invalid) { try channels.bind(EventPort(rawValue: 77), to: 1) }
    try channels.bind(port, to: 1)
    let here = try machine.control.eventChannels.bindInterdomain(remote: guestID, port: port)
    machine.control.eventChannels.notify(here)
    #expect(take(machine.guest, 0) == [])
    #expect(take(machine.guest, 1) == [port.rawValue])
    let signal = try channels.bindInterprocessor(to: 0)
    #expect(throws: EventChannelError.invalid) { try channels.bind(signal, to: 1) }
    let timer = try channels.bind(.timer, to: 0)
    #expect(throws: EventChannelError.invalid) { try channels.bind(timer, to: 1) }
    try channels.close(port)
    #expect(try channels.allocateUnbound(remote: .control) == port)
    #expect(try channels.status(of: port) == .unbound(remote: .control, virtualCPU: 0))
  }

  @Test("the last port below the limit works and the next does not exist", arguments: [2, 8, 4096])
  func limit(limit: Int) throws {
    let machine = try Machine(limits: DomainLimits(eventPorts: limit))
    let channels = machine.guest.eventChannels
    var last = EventPort(rawValue: 0)
    for _ in 1..<limit { last = try channels.allocateUnbound(remote: .control) }
    #expect(Int(last.rawValue) == limit - 1)
    #expect(throws: EventChannelError.noSpace) { try channels.allocateUnbound(remote: .control) }
    #expect(throws: EventChannelError.invalid) { try channels.status(of: EventPort(rawValue: UInt32(limit))) }
    let here = try machine.control.eventChannels.bindInterdomain(remote: guestID, port: last)
    machine.control.eventChannels.notify(here)
    #expect(take(machine.guest) == [last.rawValue])
  }

  @Test("a bind that finds no port leaves no trace at either end, and works once a port is free")
  func exhaustion() throws {
    let machine = try Machine(controlLimits: DomainLimits(eventPorts: 3))
    let channels = machine.control.eventChannels
    let there = try machine.guest.eventChannels.allocateUnbound(remote: .control)
    let first = try channels.allocateUnbound(remote: guestID)
    _ = try channels.bindInterprocessor(to: 0)
    #expect(throws: EventChannelError.noSpace) { try channels.bindInterdomain(remote: guestID, port: there) }
    #expect(throws: EventChannelError.noSpace) { try channels.bind(.timer, to: 0) }
    #expect(throws: EventChannelError.noSpace) { try channels.bindInterprocessor(to: 1) }
    #expect(channels.openPortCount == 2)
    #expect(try machine.guest.eventChannels.status(of: there) == .unbound(remote: .control, virtualCPU: 0))
    try channels.close(first)
    _ = try channels.bind(.timer, to: 0)
    try channels.close(first)
    _ = try channels.bindInterdomain(remote: guestID, port: there)
    #expect(channels.openPortCount == 2)
  }

  @Test("the policy keeps domains apart")
  func policy() throws {
    let machine = try Machine()
    let shy = try machine.hypervisor.createDomain(
      DomainID(rawValue: 5), memoryByteCount: 4096, virtualCPUCount: 1, policy: .only([.control]))
    #expect(throws: EventChannelError.notPermitted) { try shy.eventChannels.allocateUnbound(remote: guestID) }
    let port = try machine.guest.eventChannels.allocateUnbound(remote: shy.id)
    #expect(throws: EventChannelError.notPermitted) {
      try shy.eventChannels.bindInterdomain(remote: guestID, port: port)
    }
    _ = try shy.eventChannels.allocateUnbound(remote: .control)
    #expect(shy.eventChannels.openPortCount == 1)
  }

  @Test("reset closes every port, and peers wait again", arguments: [EventInterface.twoLevel, .fifo])
  func reset(interface: EventInterface) throws {
    let machine = try Machine(interface: interface)
    var pairs: [(EventPort, EventPort)] = []
    for _ in 0..<600 {
      let there = try machine.guest.eventChannels.allocateUnbound(remote: .control)
      pairs.append((there, try machine.control.eventChannels.bindInterdomain(remote: guestID, port: there)))
    }
    try machine.guest.eventChannels.reset()
    #expect(machine.guest.eventChannels.openPortCount == 0)
    for (_, here) in pairs {
      #expect(try machine.control.eventChannels.status(of: here) == .unbound(remote: guestID, virtualCPU: 0))
    }
    #expect(try machine.guest.eventChannels.allocateUnbound(remote: .control).rawValue == 1)
  }
}

/// The ports that one virtual CPU is told about, in order.
func take(_ domain: Domain, _ virtualCPU: Int = 0) -> [UInt32] {
  var ports: [UInt32] = []
  domain.virtualCPUs[virtualCPU].takePendingPorts { ports.append($0.rawValue) }
  return ports
}

@Suite("A sender that is late")
struct LateSenderTests {
  @Test("a record whose peer has moved on delivers nothing to whoever has the port now")
  func staleRecord() throws {
    let machine = try Machine()
    let there = try machine.guest.eventChannels.allocateUnbound(remote: .control)
    let here = try machine.control.eventChannels.bindInterdomain(remote: machine.guest.id, port: there)
    _ = take(machine.control)
    // What a sender read an instant before its peer closed the port and somebody else took it.
    let record = unsafe machine.control.eventChannels.slot.pointee.record(here.rawValue)
    try machine.guest.eventChannels.close(there)
    let stranger = try machine.guest.eventChannels.allocateUnbound(remote: machine.guest.id)
    _ = try machine.guest.eventChannels.bindInterdomain(remote: machine.guest.id, port: stranger)
    _ = take(machine.guest)
    #expect(stranger == there)
    unsafe machine.control.eventChannels.slot.pointee.setRecord(here.rawValue, record)
    machine.control.eventChannels.notify(here)
    #expect(take(machine.guest) == [])
  }
}
