// SPDX-License-Identifier: MIT

import Glibc
import GuestMemory
import PVTestSupport
import Synchronization
import Testing
import XenWire

@testable import XenHypervisor

@Suite("Delivery of events through the shared-info page")
struct VirtualCPUTests {
  /// `count` channels; the guest's ports receive, the control domain's send.
  private func channels(_ machine: Machine, _ count: Int) throws -> (there: [EventPort], here: [EventPort]) {
    let there = try (0..<count).map { _ in try machine.guest.eventChannels.allocateUnbound(remote: .control) }
    let here = try there.map {
      try machine.control.eventChannels.bindInterdomain(remote: machine.guest.id, port: $0)
    }
    _ = take(machine.control)
    return (there, here)
  }

  @Test("a signal sets the bits at the offsets that Xen's header prescribes")
  func layout() throws {
    let machine = try Machine(virtualCPUs: 4)
    let (there, here) = try channels(machine, 70)
    try machine.guest.eventChannels.bind(there[69], to: 3)
    machine.control.eventChannels.notify(here[69])
    let info = machine.guest.eventChannels.sharedInfo
    #expect(info.load(UInt64.self, at: 2048 + 8) == 1 << 6)
    #expect(info.load(UInt64.self, at: 3 * 64 + 8) == 1 << 1)
    #expect(info.load(UInt8.self, at: 3 * 64) == 1)
    #expect(info.load(UInt8.self, at: 3 * 64 + 1) == 0)
    #expect(machine.guest.virtualCPUs[3].hasPendingUpcall)
    #expect(!machine.guest.virtualCPUs[0].hasPendingUpcall)
    #expect((0..<4096).filter { info.load(UInt8.self, at: $0) != 0 } == [192, 200, 2056])
    #expect(take(machine.guest, 3) == [70])
    #expect((0..<4096).allSatisfy { info.load(UInt8.self, at: $0) == 0 })
  }

  @Test("a domain may have 256 virtual CPUs, each told of its own ports", arguments: [EventInterface.twoLevel, .fifo])
  func manyCPUs(interface: EventInterface) throws {
    let machine = try Machine(pages: 1024, virtualCPUs: 256, interface: interface)
    let cpus = [0, 31, 32, 33, 63, 64, 254, 255]
    let (there, here) = try channels(machine, cpus.count)
    for (port, cpu) in zip(there, cpus) { try machine.guest.eventChannels.bind(port, to: cpu) }
    for cpu in cpus { _ = take(machine.guest, cpu) }
    for (index, cpu) in cpus.enumerated() {
      machine.control.eventChannels.notify(here[index])
      #expect(cpus.filter { machine.guest.virtualCPUs[$0].hasPendingUpcall } == [cpu])
      #expect(take(machine.guest, cpu) == [there[index].rawValue])
    }
    let info = machine.guest.eventChannels.sharedInfo
    #expect((2048..<4096).allSatisfy { info.load(UInt8.self, at: $0) == 0 }, "no CPU's words stand in another's place")
  }

  @Test("a CPU that is down has no descriptor until it is brought up, and then is woken like any other")
  func bringUp() throws {
    let hypervisor = try Hypervisor()
    let domain = try hypervisor.createDomain(
      DomainID(rawValue: 3), memoryByteCount: 4096, virtualCPUCount: 40, onlineCount: 1)
    #expect(domain.virtualCPUs[0].wakeDescriptor >= 0)
    #expect(domain.virtualCPUs[39].wakeDescriptor == -1)
    try domain.virtualCPUs[39].bringUp()
    let descriptor = domain.virtualCPUs[39].wakeDescriptor
    try domain.virtualCPUs[39].bringUp()
    #expect(descriptor >= 0 && domain.virtualCPUs[39].wakeDescriptor == descriptor)
    let port = try domain.eventChannels.bindInterprocessor(to: 39)
    #expect(domain.virtualCPUs[39].prepareToSleep() || take(domain, 39).isEmpty)
    _ = domain.virtualCPUs[39].prepareToSleep()
    domain.eventChannels.notify(port)
    #expect(domain.virtualCPUs[39].sleep(atMostMilliseconds: 60_000))
    #expect(take(domain, 39) == [port.rawValue])
    #expect(throws: HypervisorError.badVirtualCPUCount(4)) {
      try hypervisor.createDomain(DomainID(rawValue: 4), memoryByteCount: 4096, virtualCPUCount: 4, onlineCount: 5)
    }
  }

  @Test("signals before the event is taken are one event", arguments: [EventInterface.twoLevel, .fifo])
  func merging(interface: EventInterface) throws {
    let machine = try Machine(interface: interface)
    let (there, here) = try channels(machine, 1)
    for _ in 0..<5 { machine.control.eventChannels.notify(here[0]) }
    #expect(take(machine.guest) == [there[0].rawValue])
    #expect(take(machine.guest) == [])
    machine.control.eventChannels.notify(here[0])
    #expect(take(machine.guest) == [there[0].rawValue])
  }

  @Test(
    "a masked port stays pending and is told about when it is unmasked, once",
    arguments: [EventInterface.twoLevel, .fifo])
  func masking(interface: EventInterface) throws {
    let machine = try Machine(interface: interface)
    let (there, here) = try channels(machine, 2)
    let guest = machine.guest.eventChannels
    guest.mask(there[0])
    if interface == .twoLevel {
      #expect(guest.sharedInfo.load(UInt64.self, at: 2560) == 1 << UInt64(there[0].rawValue))
    }
    machine.control.eventChannels.notify(here[0])
    #expect(!machine.guest.virtualCPUs[0].hasPendingUpcall)
    machine.control.eventChannels.notify(here[1])
    #expect(take(machine.guest) == [there[1].rawValue])
    try guest.unmask(there[0])
    #expect(take(machine.guest) == [there[0].rawValue])
    try guest.unmask(there[0])
    #expect(take(machine.guest) == [])
    guest.mask(there[0])
    try guest.unmask(there[0])
    #expect(take(machine.guest) == [])
    #expect(throws: EventChannelError.invalid) { try guest.unmask(EventPort(rawValue: 9)) }
  }

  @Test(
    "a port masked after its event was announced is not told about until it is unmasked",
    arguments: [EventInterface.twoLevel, .fifo])
  func maskedLate(interface: EventInterface) throws {
    let machine = try Machine(interface: interface)
    let (there, here) = try channels(machine, 1)
    machine.control.eventChannels.notify(here[0])
    machine.guest.eventChannels.mask(there[0])
    #expect(take(machine.guest) == [])
    try machine.guest.eventChannels.unmask(there[0])
    #expect(take(machine.guest) == [there[0].rawValue])
  }

  @Test("an event that arrives while its handler runs is told again", arguments: [EventInterface.twoLevel, .fifo])
  func duringHandler(interface: EventInterface) throws {
    let machine = try Machine(interface: interface)
    let (_, here) = try channels(machine, 1)
    var rounds = 0
    machine.guest.virtualCPUs[0].takePendingPorts { _ in rounds += 1 }
    machine.control.eventChannels.notify(here[0])
    machine.guest.virtualCPUs[0].takePendingPorts { _ in
      rounds += 1
      if rounds < 4 { machine.control.eventChannels.notify(here[0]) }
    }
    #expect(rounds == 4)
  }

  @Test(
    "a flood does not keep the thread: a call ends after its share, and says so by the pending upcall",
    arguments: [EventInterface.twoLevel, .fifo])
  func flood(interface: EventInterface) throws {
    let machine = try Machine(interface: interface)
    let (_, here) = try channels(machine, 1)
    machine.control.eventChannels.notify(here[0])
    var count = 0
    machine.guest.virtualCPUs[0].takePendingPorts { _ in
      count += 1
      machine.control.eventChannels.notify(here[0])
    }
    #expect(count == 256)
    #expect(machine.guest.virtualCPUs[0].hasPendingUpcall)
    #expect(!machine.guest.virtualCPUs[0].prepareToSleep())
  }

  @Test("every port has its turn: the scan goes on behind the last port that was served")
  func fairness() throws {
    let machine = try Machine()
    let (_, here) = try channels(machine, 200)
    func send(_ indices: [Int]) { for index in indices { machine.control.eventChannels.notify(here[index]) } }
    send([100])
    #expect(take(machine.guest) == [101])
    send([0, 99, 100, 101, 180])
    // The scan stands at port 102: first what follows in that word, then the other words, last the ports before it.
    #expect(take(machine.guest) == [102, 181, 1, 100, 101])
    send([101, 99])
    #expect(take(machine.guest) == [102, 100])
  }

  @Test(
    "whatever is sent is told exactly once, on the CPU that it is bound to", arguments: [UInt64(1), 2, 3, 4],
    [EventInterface.twoLevel, .fifo])
  func model(seed: UInt64, interface: EventInterface) throws {
    var random = SeededGenerator(seed: seed)
    let machine = try Machine(virtualCPUs: 3, interface: interface)
    let (there, here) = try channels(machine, 300)
    var cpuOf: [UInt32: Int] = [:]
    for port in there {
      cpuOf[port.rawValue] = Int.random(in: 0..<3, using: &random)
      try machine.guest.eventChannels.bind(port, to: cpuOf[port.rawValue] ?? 0)
    }
    var sent: Set<UInt32> = []
    for _ in 0..<3000 {
      if Int.random(in: 0..<20, using: &random) == 0 {
        let cpu = Int.random(in: 0..<3, using: &random)
        let told = take(machine.guest, cpu)
        #expect(Set(told).count == told.count, "seed \(seed)")
        #expect(Set(told) == sent.filter { cpuOf[$0] == cpu }, "seed \(seed)")
        sent.subtract(told)
      } else {
        let index = Int.random(in: 0..<300, using: &random)
        machine.control.eventChannels.notify(here[index])
        sent.insert(there[index].rawValue)
      }
    }
  }
}

@Suite("Sleeping without missing a wake-up")
struct SleepTests {
  @Test(
    "a CPU that is awake is not kicked, one that sleeps is kicked once", arguments: [EventInterface.twoLevel, .fifo])
  func kicks(interface: EventInterface) throws {
    let machine = try Machine(interface: interface)
    let port = try machine.guest.eventChannels.bindInterprocessor(to: 0)
    let cpu = machine.guest.virtualCPUs[0]
    machine.guest.eventChannels.notify(port)
    #expect(cpu.kicksSent == 0 && cpu.kicksSaved == 1)
    #expect(!cpu.prepareToSleep())
    _ = take(machine.guest)
    #expect(cpu.prepareToSleep())
    machine.guest.eventChannels.notify(port)
    machine.guest.eventChannels.notify(port)
    #expect(cpu.kicksSent == 1 && cpu.kicksSaved == 1)
    cpu.didWake()
    #expect(take(machine.guest) == [port.rawValue])
    // The token of the kick was taken back: the next sleep is a real one.
    #expect(!cpu.sleep(atMostMilliseconds: 0))
    #expect(cpu.kicksSent == 1)
  }

  @Test("two threads that sleep and wake each other lose no wake-up", arguments: [EventInterface.twoLevel, .fifo])
  func pingPong(interface: EventInterface) throws {
    let machine = try Machine(interface: interface)
    let there = try machine.guest.eventChannels.allocateUnbound(remote: .control)
    let here = try machine.control.eventChannels.bindInterdomain(remote: machine.guest.id, port: there)
    _ = take(machine.control)
    let rounds = 20_000
    let told = Tally()
    func player(_ domain: Domain, _ port: EventPort, serves: Bool) -> @Sendable () -> Void {
      {
        let cpu = domain.virtualCPUs[0]
        if serves { domain.eventChannels.notify(port) }
        var count = 0
        while count < rounds {
          // A lost wake-up shows as this sleep running to its end with the ball nowhere.
          guard cpu.hasPendingUpcall || cpu.sleep(atMostMilliseconds: 5000) else { return }
          cpu.takePendingPorts { _ in
            count += 1
            domain.eventChannels.notify(port)
          }
        }
        // The last call may find one ball more than it was asked for.
        told.raise(by: min(count, rounds))
      }
    }
    onThreads([player(machine.guest, there, serves: true), player(machine.control, here, serves: false)])
    #expect(told.count == 2 * rounds)
  }

  @Test(
    "many senders and one sleeper: after the last signal every port has been told",
    arguments: [EventInterface.twoLevel, .fifo])
  func manySenders(interface: EventInterface) throws {
    let machine = try Machine(interface: interface)
    let there = try (0..<4).map { _ in try machine.guest.eventChannels.allocateUnbound(remote: .control) }
    let here = try there.map { try machine.control.eventChannels.bindInterdomain(remote: machine.guest.id, port: $0) }
    let rounds = 5000
    let sequence = there.map { _ in Tally() }
    let seen = there.map { _ in Tally() }
    let senders = here.enumerated().map { index, port -> @Sendable () -> Void in
      {
        for _ in 0..<rounds {
          sequence[index].raise()
          machine.control.eventChannels.notify(port)
        }
      }
    }
    let receiver: @Sendable () -> Void = {
      let cpu = machine.guest.virtualCPUs[0]
      while seen.contains(where: { $0.count < rounds }) {
        guard cpu.hasPendingUpcall || cpu.sleep(atMostMilliseconds: 5000) else { return }
        cpu.takePendingPorts { port in
          let index = Int(port.rawValue) - 1
          seen[index].set(sequence[index].count)
        }
      }
    }
    onThreads(senders + [receiver])
    #expect(seen.map(\.count) == Array(repeating: rounds, count: 4))
  }
}

@Suite("Tokens of kicks")
struct KickTokenTests {
  @Test("the token of a kick that comes late ends no sleep for which nothing is pending")
  func lateToken() throws {
    let machine = try Machine()
    let port = try machine.guest.eventChannels.bindInterprocessor(to: 0)
    let cpu = machine.guest.virtualCPUs[0]
    // A sender has said "kicked", and was held up before it wrote the token.
    unsafe cpu.wake.pointee.sleep.store(WakeState.kicked, ordering: .sequentiallyConsistent)
    cpu.didWake()
    unsafe cpu.wake.pointee.signal()
    let answer = Tally()
    onThreads([
      { answer.set(cpu.sleep() ? 1 : 2) },
      {
        var wait = pollfd(fd: cpu.wakeDescriptor, events: Int16(POLLIN), revents: 0)
        while unsafe poll(&wait, 1, 0) != 0 {}
        machine.guest.eventChannels.notify(port)
      },
    ])
    #expect(answer.count == 1)
    #expect(take(machine.guest) == [port.rawValue])
  }
}
