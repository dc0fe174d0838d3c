// SPDX-License-Identifier: MIT

import BlockBack
import BlockIO
import GuestMemory
import PVPeers
import PVTestSupport
import Synchronization
import Testing
import XenWire

@Suite("A frontend that breaks the ring's rules")
struct HostileRingTests {
  @Test("a producer more than a ring ahead parks the ring for good", arguments: [UInt32(0), 0x7FFF_FFFE, 0xFFFF_FFFE])
  func overflow(start: UInt32) throws {
    for jump: UInt32 in [33, 100, 0x8000_0000, .max] {
      var setup = ScriptedFrontend<ABI64>.Setup()
      setup.start = start
      let frontend = try ScriptedFrontend<ABI64>(setup)
      let page = try frontend.grantPage()
      frontend.direct(.read, [page.segment()])
      #expect(frontend.run().count == 1)
      frontend.disk.forget()
      frontend.direct(.read, [page.segment()])
      frontend.ring.requestProducer = frontend.ring.responseProducer &+ jump
      #expect(frontend.runBackend().isEmpty, "nothing is served, not even what was sane")
      #expect(frontend.back?.isBroken == true && frontend[.ring_broken] == 1)
      #expect(frontend.run().isEmpty, "and a sane producer does not mend it")
      #expect(frontend.disk.log.isEmpty)
      #expect(frontend.tearDown())
    }
  }

  @Test("what was under way when the ring was parked is still answered, and its pages are let go")
  func inFlight() throws {
    let frontend = try ScriptedFrontend<ABI64>()
    let pages = try frontend.grantPages(2)
    frontend.disk.isOpen = false
    for (index, page) in pages.enumerated() { frontend.direct(.write, id: UInt64(index), [page.segment()]) }
    #expect(frontend.run().isEmpty)
    frontend.ring.requestProducer = frontend.produced &+ 1000
    #expect(frontend.runBackend().isEmpty)
    #expect(frontend.back?.isBroken == true)
    frontend.disk.isOpen = true
    #expect(Set(frontend.runBackend().map(\.id)) == [0, 1])
    #expect(frontend.mappedPages == 0)
    #expect(frontend.tearDown())
  }

  @Test("a backend that is dropped with requests under way lets go of every page", arguments: [false, true])
  func droppedInFlight(isPersistent: Bool) throws {
    var setup = ScriptedFrontend<ABI64>.Setup()
    setup.abilities.isPersistent = isPersistent
    let frontend = try ScriptedFrontend<ABI64>(setup)
    let pages = try frontend.grantPages(40)
    let table = try frontend.grantPage()
    frontend.disk.isOpen = false
    frontend.describe(pages.map { $0.segment() }, in: [table])
    frontend.indirect(.write, count: 40, [table.reference])
    frontend.direct(.writeBarrier, [pages[0].segment()])
    #expect(frontend.run().isEmpty)
    #expect(frontend.mappedPages >= 40)
    #expect(frontend.tearDown())
  }

  @Test("a ring of 32 requests is served in one pass, with one notification")
  func fullRing() throws {
    let frontend = try ScriptedFrontend<ABI64>()
    let page = try frontend.grantPage()
    for id in 0..<32 { frontend.direct(.read, id: UInt64(id), [page.segment()]) }
    frontend.ring.requestProducer = frontend.produced
    frontend.back?.advance()
    #expect(frontend.takeResponses().map(\.id) == (0..<32).map { UInt64($0) })
    #expect(frontend.machine.control.calls.notifications == 1)
    #expect(frontend[.notifications] == 1 && frontend[.responses] == 32)
  }

  @Test("the frontend's event decides whether it is notified")
  func holdOff() throws {
    let frontend = try ScriptedFrontend<ABI64>()
    let page = try frontend.grantPage()
    frontend.ring.responseEvent = 3
    for count in 1...4 {
      frontend.direct(.read, [page.segment()])
      #expect(frontend.run().count == 1)
      #expect(frontend.machine.control.calls.notifications == (count >= 3 ? 1 : 0))
    }
  }

  @Test("a slot that changes while it is served is seen once: what was judged is what is done (XSA-155)")
  func slotFlipper() throws {
    let frontend = try ScriptedFrontend<ABI64>()
    let target = try frontend.grantPages(3)
    let guarded = try frontend.grantPages(8)
    for page in guarded { page.fill(0x99) }
    let flipper = Flipper()
    let slots = frontend.ring
    // Opcode, count, last sector and sector jump between what is allowed and what is not.
    let thread = PeerThread {
      var turn: UInt32 = 0
      while !flipper.isOver {
        for index: UInt32 in 0..<32 {
          let slot = slots.slot(index)
          let isWild = (turn &+ index) & 1 == 1
          slot.store(UInt8(isWild ? 200 : 1), at: 1)
          slot.store(UInt64(isWild ? 1 << 50 : 64), at: 16)
          slot.store(UInt8(isWild ? 255 : 7), at: 29)
          slot.store(UInt8(isWild ? 9 : 0), at: 28)
        }
        turn &+= 1
      }
    }
    var statuses: [BlockStatus: Int] = [:]
    for round in 0..<400 {
      for index in 0..<16 {
        frontend.direct(round & 1 == 0 ? .read : .write, id: UInt64(index), sector: 64, [target[index % 3].segment()])
      }
      for response in frontend.run() { statuses[response.status, default: 0] += 1 }
    }
    flipper.stop()
    thread.join()
    #expect(statuses.keys.allSatisfy { $0 == .okay || $0 == .error })
    #expect(statuses.values.reduce(0, +) == 6400, "every request was answered, once")
    #expect(frontend.disk.disk.requestCounts.violations == 0, "nothing unchecked reached the disk")
    let wild = frontend.disk.log.filter { $0.sectors.start != 64 || $0.sectors.count > 8 || $0.sectors.count < 1 }
    #expect(wild.isEmpty, "\(wild.prefix(3))")
    #expect(guarded.allSatisfy { $0.holds(0x99) })
    #expect(frontend.mappedPages == 0)
    #expect(frontend.tearDown())
  }

  @Test("a descriptor page that changes while it is served is seen once (XSA-155)")
  func descriptorFlipper() throws {
    let frontend = try ScriptedFrontend<ABI64>()
    let pages = try frontend.grantPages(64)
    let table = try frontend.grantPage()
    frontend.describe(pages.map { $0.segment() }, in: [table])
    let flipper = Flipper()
    let memory = table.region
    let thread = PeerThread {
      var turn = 0
      while !flipper.isOver {
        for index in 0..<64 {
          let isWild = (turn + index) % 97 == 0
          memory.store(UInt8(isWild ? 250 : 7), at: index * 8 + 5)
          memory.store(UInt8(isWild ? 251 : 0), at: index * 8 + 4)
        }
        turn += 1
      }
    }
    var answered = 0
    for _ in 0..<300 {
      frontend.indirect(.read, sector: 0, count: 64, [table.reference])
      for response in frontend.run() {
        #expect(response.operation == .read && (response.status == .okay || response.status == .error))
        answered += 1
      }
    }
    flipper.stop()
    thread.join()
    #expect(answered == 300)
    #expect(frontend.disk.disk.requestCounts.violations == 0)
    #expect(frontend.disk.log.allSatisfy { $0.sectors.start == 0 && $0.sectors.count <= 512 })
    #expect(frontend.tearDown())
  }
}

/// Says when a thread that changes bytes is to stop.
final class Flipper: Sendable {
  private let flag = Atomic(false)
  var isOver: Bool { flag.load(ordering: .relaxed) }
  func stop() { flag.store(true, ordering: .relaxed) }
}
