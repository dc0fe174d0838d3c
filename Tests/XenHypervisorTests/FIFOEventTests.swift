// SPDX-License-Identifier: MIT

import GuestMemory
import PVTestSupport
import Testing
import XenWire

@testable import XenHypervisor

@Suite("Event channels by FIFO queues")
struct FIFOEventTests {
  private static let masked: UInt32 = 1 << 30

  /// A guest that set up the interface with its own pages: the control block at byte 64 of page 0, event words in page 1.
  private func raw(virtualCPUs: Int = 1) throws -> (machine: Machine, control: SharedRegion, words: SharedRegion) {
    let machine = try Machine(pages: 200, virtualCPUs: virtualCPUs)
    let pages = try machine.guest.memory.allocate(2)
    for word in 0..<1024 { pages.region.store(Self.masked, at: 4096 + word * 4) }
    try machine.guest.eventChannels.initControl(frame: pages.firstFrame, offset: 64, virtualCPU: 0)
    try machine.guest.eventChannels.expandArray(frame: FrameNumber(rawValue: pages.firstFrame.rawValue + 1))
    return (machine, pages.region.slice(at: 64, byteCount: 72), pages.region.slice(at: 4096, byteCount: 4096))
  }

  private func signals(_ machine: Machine, _ count: Int) throws -> [EventPort] {
    try (0..<count).map { _ in
      let port = try machine.guest.eventChannels.bindInterprocessor(to: 0)
      try machine.guest.eventChannels.unmask(port)
      return port
    }
  }

  @Test("queued events are words linked in order behind the head in the control block")
  func layout() throws {
    let (machine, control, words) = try raw()
    let ports = try signals(machine, 3)
    for index in [1, 0, 2] { machine.guest.eventChannels.notify(ports[index]) }
    #expect(control.load(UInt32.self, at: 0) == 1 << 7)
    #expect(control.load(UInt32.self, at: 8 + 7 * 4) == 2)
    #expect(words.load(UInt32.self, at: 2 * 4) == 0xA000_0001)
    #expect(words.load(UInt32.self, at: 1 * 4) == 0xA000_0003)
    #expect(words.load(UInt32.self, at: 3 * 4) == 0xA000_0000)
    #expect(words.load(UInt32.self, at: 4 * 4) == Self.masked)
    #expect(machine.guest.eventChannels.sharedInfo.load(UInt64.self, at: 2048) == 0)
    #expect(take(machine.guest) == [2, 1, 3])
    #expect((0..<1024).allSatisfy { words.load(UInt32.self, at: $0 * 4) & 0xA001_FFFF == 0 })
    #expect(control.load(UInt32.self, at: 0) == 0)
  }

  @Test("the most urgent queue is served first, and within a queue who came first")
  func priorities() throws {
    let (machine, control, _) = try raw()
    let ports = try signals(machine, 6)
    for (index, priority) in [15, 0, 7, 0, 15, 3].enumerated() {
      try machine.guest.eventChannels.setPriority(of: ports[index], to: priority)
    }
    for port in ports { machine.guest.eventChannels.notify(port) }
    #expect(control.load(UInt32.self, at: 0) == 1 << 15 | 1 << 0 | 1 << 7 | 1 << 3)
    #expect(take(machine.guest) == [2, 4, 6, 3, 1, 5])
  }

  @Test("an urgent event overtakes the queue that is being served")
  func overtaking() throws {
    let (machine, _, _) = try raw()
    let ports = try signals(machine, 4)
    try machine.guest.eventChannels.setPriority(of: ports[3], to: 0)
    for port in ports[..<3] { machine.guest.eventChannels.notify(port) }
    var told: [UInt32] = []
    machine.guest.virtualCPUs[0].takePendingPorts { port in
      if told.isEmpty { machine.guest.eventChannels.notify(ports[3]) }
      told.append(port.rawValue)
    }
    #expect(told == [1, 4, 2, 3])
  }

  @Test(
    "the control block must lie in one page of the domain, aligned, once for each CPU",
    arguments: [
      (0, 0, 0, nil), (0, 4024, 0, nil), (0, 4032, 0, .invalid), (0, 4, 0, .invalid), (0, -8, 0, .invalid),
      (200, 0, 0, .invalid), (1 << 40, 0, 0, .invalid), (0, 0, 1, .noSuchEntry), (0, 0, -1, .noSuchEntry),
    ] as [(Int, Int, Int, EventChannelError?)])
  func controlBlock(frame: Int, offset: Int, cpu: Int, refusal: EventChannelError?) throws {
    let channels = try Machine(pages: 200, virtualCPUs: 1).guest.eventChannels
    func initialise() throws(EventChannelError) {
      try channels.initControl(frame: FrameNumber(rawValue: UInt64(frame)), offset: offset, virtualCPU: cpu)
    }
    if let refusal {
      #expect(throws: refusal) { try initialise() }
      #expect(channels.interface == .twoLevel)
    } else {
      try initialise()
      #expect(channels.interface == .fifo)
      #expect(throws: EventChannelError.invalid) { try initialise() }
    }
  }

  @Test("the array is expanded only after the change of interface, to 128 pages and no further")
  func expansion() throws {
    let machine = try Machine(pages: 200, virtualCPUs: 1)
    let channels = machine.guest.eventChannels
    #expect(throws: EventChannelError.notSupported) { try channels.expandArray(frame: FrameNumber(rawValue: 1)) }
    try channels.initControl(frame: FrameNumber(rawValue: 0), offset: 0, virtualCPU: 0)
    #expect(throws: EventChannelError.invalid) { try channels.expandArray(frame: FrameNumber(rawValue: 200)) }
    for page in 1...128 { try channels.expandArray(frame: FrameNumber(rawValue: UInt64(page))) }
    #expect(throws: EventChannelError.noSpace) { try channels.expandArray(frame: FrameNumber(rawValue: 129)) }
  }

  @Test("131071 ports can be open, the last one works, and the next does not exist")
  func allPorts() throws {
    let machine = try Machine(pages: 200, virtualCPUs: 1)
    let channels = machine.guest.eventChannels
    try channels.initControl(frame: FrameNumber(rawValue: 0), offset: 0, virtualCPU: 0)
    var last = EventPort(rawValue: 0)
    for _ in 1..<131_072 { last = try channels.bindInterprocessor(to: 0) }
    #expect(last.rawValue == 131_071)
    #expect(throws: EventChannelError.noSpace) { try channels.bindInterprocessor(to: 0) }
    for page in 1...128 { try channels.expandArray(frame: FrameNumber(rawValue: UInt64(page))) }
    channels.notify(EventPort(rawValue: 5))
    channels.notify(last)
    #expect(take(machine.guest) == [5, 131_071])
    #expect(machine.guest.memory.region.load(UInt32.self, at: 129 * 4096 - 4) == 0)
  }

  @Test("a priority needs the FIFO interface, an open port and a number up to 15")
  func priorityRefusals() throws {
    let machine = try Machine()
    let channels = machine.guest.eventChannels
    let port = try channels.bindInterprocessor(to: 0)
    #expect(throws: EventChannelError.notImplemented) { try channels.setPriority(of: port, to: 3) }
    try channels.useFIFO()
    #expect(throws: EventChannelError.exists) { try channels.useFIFO() }
    #expect(throws: EventChannelError.invalid) { try channels.setPriority(of: port, to: 16) }
    #expect(throws: EventChannelError.invalid) { try channels.setPriority(of: port, to: -1) }
    #expect(throws: EventChannelError.access) { try channels.setPriority(of: EventPort(rawValue: 2), to: 3) }
    for wild: UInt32 in [0, 131_072, .max] {
      #expect(throws: EventChannelError.invalid) { try channels.setPriority(of: EventPort(rawValue: wild), to: 3) }
    }
    try channels.setPriority(of: port, to: 15)
  }

  @Test("an event that came before its word, or before the interface, is told of when the word is there")
  func beforeTheWord() throws {
    let machine = try Machine(pages: 8, virtualCPUs: 1)
    let channels = machine.guest.eventChannels
    let ports = try (0..<3).map { _ in try channels.bindInterprocessor(to: 0) }
    channels.notify(ports[0])
    try channels.initControl(frame: FrameNumber(rawValue: 0), offset: 0, virtualCPU: 0)
    channels.notify(ports[2])
    #expect(take(machine.guest) == [])
    for word in 0..<1024 { machine.guest.memory.region.store(Self.masked, at: 4096 + word * 4) }
    try channels.expandArray(frame: FrameNumber(rawValue: 1))
    #expect(take(machine.guest) == [])
    for port in ports { try channels.unmask(port) }
    #expect(take(machine.guest) == [1, 3])
    // A port whose end comes before its word leaves nothing behind.
    try channels.close(ports[0])
    #expect(try channels.bindInterprocessor(to: 0) == ports[0])
    try channels.unmask(ports[0])
    #expect(take(machine.guest) == [])
  }

  @Test("a closed port is not handed out again while its event is still in a queue")
  func busyPort() throws {
    let (machine, _, words) = try raw()
    let channels = machine.guest.eventChannels
    let ports = try signals(machine, 3)
    channels.notify(ports[0])
    channels.notify(ports[1])
    try channels.close(ports[0])
    #expect(words.load(UInt32.self, at: 4) == 0x2000_0002)
    #expect(try channels.bindInterprocessor(to: 0).rawValue == 4)
    #expect(take(machine.guest) == [2])
    #expect(try channels.bindInterprocessor(to: 0) == ports[0])
    #expect(try channels.bindInterprocessor(to: 0).rawValue == 5)
  }

  @Test("a port that moves to another queue while it is queued is told of once, and then where it belongs")
  func moving() throws {
    let machine = try Machine(virtualCPUs: 2, interface: .fifo)
    let channels = machine.guest.eventChannels
    let first = try channels.allocateUnbound(remote: .ownSelf)
    let sender = try channels.bindInterdomain(remote: .ownSelf, port: first)
    let other = try channels.bindInterprocessor(to: 0)
    _ = take(machine.guest)
    channels.notify(sender)
    try channels.bind(first, to: 1)
    try channels.setPriority(of: first, to: 2)
    channels.notify(sender)
    #expect(take(machine.guest, 1) == [])
    #expect(take(machine.guest, 0) == [first.rawValue])
    // It was the tail of its old queue: that queue starts anew, and the port goes to the new one.
    channels.notify(sender)
    channels.notify(other)
    #expect(take(machine.guest, 0) == [other.rawValue])
    #expect(take(machine.guest, 1) == [first.rawValue])
  }

  @Test("reset gives the pages back and the two-level interface works again")
  func reset() throws {
    let machine = try Machine()
    let start = machine.hypervisor.ledger
    let channels = machine.guest.eventChannels
    try channels.useFIFO()
    let port = try channels.bindInterprocessor(to: 0)
    channels.notify(port)
    try channels.reset()
    #expect(channels.interface == .twoLevel)
    #expect(machine.hypervisor.ledger == start)
    _ = take(machine.guest)
    let again = try channels.bindInterprocessor(to: 0)
    channels.notify(again)
    #expect(channels.sharedInfo.load(UInt64.self, at: 2048) == 2)
    #expect(take(machine.guest) == [again.rawValue])
    try channels.useFIFO()
    channels.notify(again)
    #expect(take(machine.guest) == [again.rawValue])
  }

  @Test("a port that finds no page for its word is closed again")
  func noPage() throws {
    let machine = try Machine(pages: 2)
    let channels = machine.guest.eventChannels
    try channels.useFIFO()
    _ = try channels.bindInterprocessor(to: 0)
    for _ in 1..<1023 { _ = try channels.bindInterprocessor(to: 0) }
    #expect(throws: EventChannelError.noSpace) { try channels.bindInterprocessor(to: 0) }
    #expect(channels.openPortCount == 1023)
  }

  @Test("whatever a guest writes into its words, senders come back and nobody else suffers", arguments: [UInt64(1), 2])
  func hostileGuest(seed: UInt64) throws {
    let (machine, control, words) = try raw()
    let ports = try signals(machine, 40)
    let there = try machine.control.eventChannels.bindInterprocessor(to: 0)
    let done = Tally()
    onThreads([
      {
        var random = SeededGenerator(seed: seed)
        for _ in 0..<20_000 {
          machine.guest.eventChannels.notify(ports[Int.random(in: 0..<40, using: &random)])
        }
        done.raise()
      },
      {
        var random = SeededGenerator(seed: seed &+ 99)
        while done.count == 0 {
          let word = words.word32(at: Int.random(in: 0..<64, using: &random) * 4)
          switch Int.random(in: 0..<4, using: &random) {
          case 0: word.storeRelaxed(UInt32(truncatingIfNeeded: random.next()))
          case 1: word.storeRelaxed(FIFOLayout.linked | UInt32.random(in: 0..<64, using: &random))
          case 2: word.storeRelaxed(0)
          default:
            control.word32(at: Int.random(in: 0..<18, using: &random) * 4).storeRelaxed(
              UInt32(truncatingIfNeeded: random.next()))
          }
          machine.guest.virtualCPUs[0].takePendingPorts { _ in }
        }
      },
    ])
    machine.control.eventChannels.notify(there)
    #expect(take(machine.control) == [there.rawValue])
    try machine.guest.eventChannels.reset()
    let port = try machine.guest.eventChannels.bindInterprocessor(to: 0)
    machine.guest.eventChannels.notify(port)
    #expect(take(machine.guest).contains(port.rawValue))
  }

  @Test("no event is lost while ports change their priority and their CPU under the senders")
  func movingUnderLoad() throws {
    let machine = try Machine(virtualCPUs: 2, interface: .fifo)
    let there = try (0..<4).map { _ in try machine.guest.eventChannels.allocateUnbound(remote: .control) }
    let here = try there.map { try machine.control.eventChannels.bindInterdomain(remote: machine.guest.id, port: $0) }
    let first = there[0].rawValue
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
    let stopped = Tally()
    let receivers = (0..<2).map { cpu -> @Sendable () -> Void in
      {
        let cpu = machine.guest.virtualCPUs[cpu]
        var idle = 0
        while seen.contains(where: { $0.count < rounds }), idle < 400 {
          idle = cpu.hasPendingUpcall || cpu.sleep(atMostMilliseconds: 20) ? 0 : idle + 1
          cpu.takePendingPorts { port in
            let index = Int(port.rawValue - first)
            // Two CPUs may be told of one port as it moves: the count never goes back.
            seen[index].raise(to: sequence[index].count)
          }
        }
        stopped.raise()
      }
    }
    let mover: @Sendable () -> Void = {
      var random = SeededGenerator(seed: 5)
      while stopped.count < 2, seen.contains(where: { $0.count < rounds * 9 / 10 }) {
        let port = there[Int.random(in: 0..<4, using: &random)]
        do throws(EventChannelError) {
          try machine.guest.eventChannels.setPriority(of: port, to: Int.random(in: 0..<16, using: &random))
          try machine.guest.eventChannels.bind(port, to: Int.random(in: 0..<2, using: &random))
        } catch { return }
      }
    }
    onThreads(senders + receivers + [mover])
    #expect(seen.map(\.count) == Array(repeating: rounds, count: 4))
  }
}
