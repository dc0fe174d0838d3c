// SPDX-License-Identifier: MIT

import GuestMemory
import Testing
import XenWire

@testable import XenHypervisor

@Suite("Late end of interrupt")
struct LateEOITests {
  private static let tick: UInt64 = 4_000_000

  private func channel(_ interface: EventInterface = .twoLevel) throws -> (Machine, LateEOI, EventPort) {
    let machine = try Machine(interface: interface)
    let there = try machine.guest.eventChannels.allocateUnbound(remote: .control)
    let here = try machine.control.eventChannels.bindInterdomain(remote: machine.guest.id, port: there)
    return (machine, LateEOI(port: there), here)
  }

  @Test(
    "no event arrives between its arrival and its end, and none is lost", arguments: [EventInterface.twoLevel, .fifo])
  func holding(interface: EventInterface) throws {
    var (machine, late, sender) = try channel(interface)
    let channels = machine.guest.eventChannels
    machine.control.eventChannels.notify(sender)
    machine.guest.virtualCPUs[0].takePendingPorts { _ in
      late.arrived(on: channels)
      machine.control.eventChannels.notify(sender)
    }
    machine.control.eventChannels.notify(sender)
    #expect(take(machine.guest) == [])
    late.finished(wasSpurious: false, now: 0, on: channels)
    #expect(late.dueTime == nil && !late.isHeld)
    #expect(take(machine.guest) == [late.port.rawValue])
  }

  @Test("spurious events in a row cost 0, 1, 2, 4 ... ticks and never more than a second")
  func penalties() throws {
    var (machine, late, _) = try channel()
    var ticks: [UInt64] = []
    for _ in 0..<14 {
      late.arrived(on: machine.guest.eventChannels)
      late.finished(wasSpurious: true, now: 1000, on: machine.guest.eventChannels)
      ticks.append(((late.dueTime ?? 1000) - 1000) / Self.tick)
      late.expire(now: .max, on: machine.guest.eventChannels)
    }
    #expect(ticks == [0, 1, 2, 4, 8, 16, 32, 64, 128, 250, 250, 250, 250, 250])
    #expect(late.spuriousCount == 10)
  }

  @Test("a useful event forgives all that was before")
  func forgiving() throws {
    var (machine, late, _) = try channel()
    let channels = machine.guest.eventChannels
    for wasSpurious in [true, true, true, false, true, true] {
      late.arrived(on: channels)
      late.finished(wasSpurious: wasSpurious, now: 0, on: channels)
      late.expire(now: .max, on: channels)
    }
    #expect(late.spuriousCount == 2)
    late.arrived(on: channels)
    late.finished(wasSpurious: true, now: 0, on: channels)
    #expect(late.dueTime == 2 * Self.tick)
  }

  @Test("a held port is unmasked when its time has come, not before")
  func expiry() throws {
    var (machine, late, sender) = try channel()
    let channels = machine.guest.eventChannels
    for _ in 0..<2 {
      late.arrived(on: channels)
      late.finished(wasSpurious: true, now: 500, on: channels)
    }
    #expect(late.dueTime == 500 + Self.tick)
    machine.control.eventChannels.notify(sender)
    do {
      let isOpen = late.expire(now: 499 + Self.tick, on: channels)
      #expect(!isOpen)
    }
    #expect(take(machine.guest) == [])
    do {
      let isOpen = late.expire(now: 500 + Self.tick, on: channels)
      #expect(isOpen)
    }
    #expect(take(machine.guest) == [late.port.rawValue])
    do {
      let isOpen = late.expire(now: .max, on: channels)
      #expect(!isOpen)
    }
  }

  @Test(
    "XSA-332, 391: a peer that kicks without queuing work gets through 18 times in ten seconds, however often it kicks")
  func storm() throws {
    var (machine, late, sender) = try channel()
    let channels = machine.guest.eventChannels
    var told = 0
    for now in stride(from: UInt64(0), to: 10_000_000_000, by: 1_000_000) {
      late.expire(now: now, on: channels)
      machine.control.eventChannels.notify(sender)
      machine.guest.virtualCPUs[0].takePendingPorts { _ in
        told += 1
        late.arrived(on: channels)
      }
      late.finished(wasSpurious: true, now: now, on: channels)
    }
    #expect(told == 18)
  }

  @Test("a loop that runs too long holds what is finished in it")
  func lateLoop() throws {
    var (machine, late, _) = try channel()
    var looks = 0
    var loop = DeliveryLoop(now: 0)
    for _ in 0..<511 {
      loop.delivered {
        looks += 1
        return 2 * Self.tick
      }
    }
    #expect(looks == 1 && !loop.isLate)
    loop.delivered { 2 * Self.tick + 1 }
    #expect(loop.isLate)
    late.arrived(on: machine.guest.eventChannels)
    late.finished(wasSpurious: false, isLoopLate: loop.isLate, now: 7, on: machine.guest.eventChannels)
    #expect(late.dueTime == 7 + 10 * Self.tick)
  }

  @Test("a port that is closed while it is held does no harm")
  func closed() throws {
    var (machine, late, _) = try channel()
    late.arrived(on: machine.guest.eventChannels)
    try machine.guest.eventChannels.close(late.port)
    late.finished(wasSpurious: false, now: 0, on: machine.guest.eventChannels)
    #expect(!late.isHeld)
  }
}
