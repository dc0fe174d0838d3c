// SPDX-License-Identifier: MIT

import GuestMemory
import Testing
import XenWire

@testable import XenHypervisor

@Suite("Xen's advisories on event channels")
struct EventAdvisoryTests {
  @Test("XSA-47: a bind that fails leaves no trace")
  func failedBind() throws {
    try provesItself(.portTakenBeforeChecks) { faults in
      let machine = try Machine(faults: faults)
      let start = machine.hypervisor.ledger
      #expect(throws: EventChannelError.invalid) {
        try machine.control.eventChannels.bindInterdomain(remote: machine.guest.id, port: EventPort(rawValue: 5))
      }
      return machine.hypervisor.ledger != start
    }
  }

  @Test("XSA-107, 188, 340, 358, 359, 505: an event that arrives while the array is expanded is not lost")
  func expansion() throws {
    func isLost(_ fault: PlantedFault?) throws -> Bool {
      let box = MachineBox()
      let watcher: @Sendable (HypervisorStep) -> Void = { step in
        if step == .expanding { box.held?.0.guest.eventChannels.notify(EventPort(rawValue: 1)) }
      }
      let machine = try Machine(
        pages: 8, faults: fault.map { PlantedFaults($0, watcher: watcher) } ?? PlantedFaults(watcher: watcher),
        virtualCPUs: 1)
      box.set(machine, [])
      defer { box.clear() }
      let channels = machine.guest.eventChannels
      let port = try channels.bindInterprocessor(to: 0)
      try channels.initControl(frame: FrameNumber(rawValue: 0), offset: 0, virtualCPU: 0)
      for word in 0..<1024 { machine.guest.memory.region.store(FIFOLayout.masked, at: 4096 + word * 4) }
      try channels.expandArray(frame: FrameNumber(rawValue: 1))
      try channels.unmask(port)
      return take(machine.guest) != [1]
    }
    #expect(try !isLost(nil))
    #expect(try isLost(.arrayPageAnnouncedEarly))
  }

  @Test("XSA-107 and its kin: set-up, growth and reset race with senders, and memory holds")
  func setupRace() throws {
    let machine = try Machine(pages: 64)
    let channels = machine.guest.eventChannels
    let done = Tally()
    onThreads([
      {
        for _ in 0..<200 {
          do {
            for _ in 0..<3 { _ = try channels.bindInterprocessor(to: 0) }
            try channels.useFIFO()
            for _ in 0..<3 { _ = try channels.bindInterprocessor(to: 1) }
            try channels.reset()
          } catch { Issue.record("\(error)") }
        }
        done.raise()
      },
      {
        while done.count == 0 {
          for port: UInt32 in 1...8 { channels.notify(EventPort(rawValue: port)) }
        }
      },
    ])
    #expect(machine.hypervisor.ledger == ResourceLedger())
    let port = try channels.bindInterprocessor(to: 0)
    _ = take(machine.guest)
    channels.notify(port)
    #expect(take(machine.guest) == [port.rawValue])
  }

  @Test("XSA-331: a port that is closed again and again while two threads signal it harms nobody")
  func closeRace() throws {
    let machine = try Machine(pages: 64)
    let guest = machine.guest.eventChannels, control = machine.control.eventChannels
    let start = machine.hypervisor.ledger
    let done = Tally()
    let signal: @Sendable () -> Void = {
      while done.count == 0 {
        for port: UInt32 in 1...4 {
          control.notify(EventPort(rawValue: port))
          guest.notify(EventPort(rawValue: port))
        }
      }
    }
    onThreads([
      {
        for _ in 0..<300 {
          do {
            let port = try guest.allocateUnbound(remote: .control)
            let bound = try control.bindInterdomain(remote: machine.guest.id, port: port)
            control.notify(bound)
            try control.close(bound)
            try guest.close(port)
          } catch { Issue.record("\(error)") }
        }
        done.raise()
      }, signal, signal,
    ])
    #expect(machine.hypervisor.ledger == start)
    let port = try guest.bindInterprocessor(to: 0)
    _ = take(machine.guest)
    guest.notify(port)
    #expect(take(machine.guest) == [port.rawValue])
  }

  @Test("XSA-221: a port that was never made has a typed answer")
  func neverMade() throws {
    try provesItself(.portRangeUnchecked) { faults in
      let channels = try Machine(limits: DomainLimits(eventPorts: 100), faults: faults).guest.eventChannels
      return [100, 101, 4096, 131_071].contains { (port: UInt32) in
        do throws(EventChannelError) { _ = try channels.status(of: EventPort(rawValue: port)) } catch { return false }
        return true
      }
    }
  }

  @Test("XSA-317: a port whose opening fails half-way is closed again")
  func halfOpen() throws {
    try provesItself(.halfOpenPortKept) { faults in
      let machine = try Machine(pages: 1, faults: faults)
      try machine.guest.eventChannels.useFIFO()
      let start = machine.hypervisor.ledger
      #expect(throws: EventChannelError.noSpace) { try machine.guest.eventChannels.bindInterprocessor(to: 0) }
      return machine.hypervisor.ledger != start
    }
  }

  @Test("XSA-338, 343: a reset says so when a port was opened behind its back, and the port works")
  func resetRace() throws {
    func answersDone(_ fault: PlantedFault?) throws -> Bool {
      let box = MachineBox()
      let watcher: @Sendable (HypervisorStep) -> Void = { step in
        guard case .portSlice = step, let (machine, _) = box.held else { return }
        do throws(EventChannelError) { _ = try machine.guest.eventChannels.bindInterprocessor(to: 0) } catch {}
      }
      let machine = try Machine(
        faults: fault.map { PlantedFaults($0, watcher: watcher) } ?? PlantedFaults(watcher: watcher))
      _ = try machine.guest.eventChannels.allocateUnbound(remote: .control)
      box.set(machine, [])
      defer { box.clear() }
      do throws(EventChannelError) {
        try machine.guest.eventChannels.reset()
      } catch {
        #expect(error == .again)
        let open = EventPort(rawValue: 1)
        machine.guest.eventChannels.notify(open)
        #expect(take(machine.guest) == [1])
        return false
      }
      return machine.guest.eventChannels.openPortCount > 0
    }
    #expect(try !answersDone(nil))
    #expect(try answersDone(.resetIgnoresOpenPorts))
  }

  @Test("XSA-344: many ports are closed in slices")
  func slices() throws {
    func largestSlice(_ fault: PlantedFault?) throws -> Int {
      let largest = Tally()
      let watcher: @Sendable (HypervisorStep) -> Void = { step in
        if case .portSlice(let count) = step { largest.raise(to: count) }
      }
      let machine = try Machine(
        faults: fault.map { PlantedFaults($0, watcher: watcher) } ?? PlantedFaults(watcher: watcher))
      for _ in 0..<2000 { _ = try machine.guest.eventChannels.allocateUnbound(remote: .control) }
      try machine.guest.eventChannels.reset()
      return largest.count
    }
    #expect(try largestSlice(nil) == 256)
    #expect(try largestSlice(.portsClosedInOnePiece) == 2000)
  }

  @Test("XSA-342: the limit is the one the domain was created with, to the port")
  func limit() throws {
    try provesItself(.limitIsOffByOne) { faults in
      let channels = try Machine(limits: DomainLimits(eventPorts: 10), faults: faults).guest.eventChannels
      var opened = 0
      while opened < 20 {
        do throws(EventChannelError) { _ = try channels.bindInterprocessor(to: 0) } catch { break }
        opened += 1
      }
      return opened != 9
    }
  }

  @Test("XSA-496: an operation that finds no port undoes nothing that it has not done")
  func exhaustion() throws {
    try provesItself(.exhaustionUndone) { faults in
      let machine = try Machine(limits: DomainLimits(eventPorts: 4), faults: faults)
      for _ in 0..<3 { _ = try machine.guest.eventChannels.bindInterprocessor(to: 0) }
      let there = try machine.control.eventChannels.allocateUnbound(remote: machine.guest.id)
      let start = machine.hypervisor.ledger
      #expect(throws: EventChannelError.noSpace) {
        try machine.guest.eventChannels.bindInterdomain(remote: .control, port: there)
      }
      return machine.hypervisor.ledger != start
    }
  }
}

/// A machine and mappings that a watcher finds once they exist.
final class MachineBox: Sendable {
  private let value = Guarded<(Machine, [GrantMapping])?>(nil)
  var held: (Machine, [GrantMapping])? { value.get() }
  func set(_ machine: Machine, _ mappings: [GrantMapping]) { value.set((machine, mappings)) }
  func clear() { value.set(nil) }
}

/// A grant table that a watcher finds once it exists.
final class TableBox: Sendable {
  private let value = Guarded<GrantTable?>(nil)
  var table: GrantTable? { value.get() }
  func set(_ table: GrantTable) { value.set(table) }
  func clear() { value.set(nil) }
}
