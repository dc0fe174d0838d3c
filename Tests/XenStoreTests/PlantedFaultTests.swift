// SPDX-License-Identifier: MIT

import GuestMemory
import PVTestSupport
import Testing
import XenWire

@testable import XenStore

/// Each of xenstored's bugs planted once: the check that holds without it must notice it.
@Suite("XenStore advisories, with their bugs planted")
struct PlantedFaultTests {
  static let five = DomainID(rawValue: 5)
  static let six = DomainID(rawValue: 6)

  /// A store with the planted bugs, in which guest 5 has a home.
  struct Fixture {
    let server: StoreServer
    let control: StoreConnection
    let time = TestClock()

    init(_ faults: StoreFaults, quotas: StoreQuotas = .xenstored) throws {
      let time = time
      server = StoreServer(quotas: quotas, clock: { time.now }, faults: faults)
      control = server.connect(as: .control)
      try AdvisoryTests.makeHome(5, server, control)
    }

    /// A guest's ring page and what serves it.
    func ring() throws -> (guest: StoreRingPage, ring: StoreRingServer, memory: MappedMemoryHolder) {
      let memory = try MappedMemoryHolder()
      var page = StoreRingPage(memory.mapping.region, as: .server)
      page.faults = server.faults
      let guest = StoreRingPage(memory.mapping.region, as: .client)
      return (guest, StoreRingServer(server: server, page: page, domain: PlantedFaultTests.five) {}, memory)
    }
  }

  final class MappedMemoryHolder: Sendable {
    let mapping: MappedMemory
    init() throws { mapping = try MappedMemory(anonymousByteCount: 4096) }
  }

  /// Runs a check that answers whether a rule was broken: never without the bug, always with it.
  func provesItself(
    _ fault: StoreFault, quotas: StoreQuotas = .xenstored, _ breaksRule: (Fixture) throws -> Bool
  ) throws {
    #expect(try !breaksRule(Fixture(StoreFaults(), quotas: quotas)), "the rule holds")
    guard StoreFaults.canBePlanted else { return }
    #expect(try breaksRule(Fixture(StoreFaults(fault), quotas: quotas)), "the planted bug is noticed")
  }

  @Test("XSA-38: a ring index out of reach is refused")
  func ringDistance() throws {
    try provesItself(.ringDistanceUnchecked) { store in
      let (guest, ring, memory) = try store.ring()
      defer { withExtendedLifetime(memory) {} }
      guest.region.store(UInt32(5000), at: StoreRingLayout.requestProducer)
      ring.serve()
      return guest.error != .ringIndex
    }
  }

  @Test("XSA-72: no reply is longer than a message")
  func longReply() throws {
    try provesItself(.longReplySent) { store in
      let client = WireClient(store.server)
      for index in 0..<30 { try store.control.write("/d/\(String(repeating: "n", count: 200))\(index)", "") }
      return client.ask(.directory, "/d\0") != "ERROR E2BIG|"
    }
  }

  @Test("XSA-115: a watch tells a guest nothing of nodes that it may not read")
  func watches() throws {
    try provesItself(.watchesTellAll) { store in
      let spy = store.server.connect(as: Self.five)
      try spy.watch("/", token: "t")
      _ = spy.nextEvent()
      try store.control.write("/secret", "x")
      return spy.nextEvent() != nil
    }
  }

  @Test("XSA-206: a guest that writes in a loop is slowed down while others have transactions open")
  func fairness() throws {
    try provesItself(.writesAreFree) { store in
      let (guest, ring, memory) = try store.ring()
      defer { withExtendedLifetime(memory) {} }
      _ = try store.control.startTransaction()
      let write = WireClient.message(11, "a\0x")
      for _ in 0..<2000 {
        _ = try guest.send(write[...].prefix(try guest.outgoingRoom() >= write.count ? write.count : 0))
        ring.serve()
        _ = try guest.receive()
      }
      return try guest.outgoingRoom() == 1024
    }
  }

  @Test("XSA-233: a device model has no rights over the next guest of that number")
  func target() throws {
    try provesItself(.targetOutlivesGuest) { store in
      try AdvisoryTests.makeHome(6, store.server, store.control)
      #expect(WireClient(store.server).ask(.setTarget, "6\05\0") == "SET_TARGET OK|")
      try store.server.release(Self.five)
      try AdvisoryTests.makeHome(5, store.server, store.control)
      let stub = store.server.connect(as: Self.six)
      return (try? stub.write("/local/domain/5/device", "")) != nil
    }
  }

  @Test("XSA-272: a guest never owns more nodes than its quota says")
  func nodeQuota() throws {
    var quotas = StoreQuotas.xenstored
    quotas[.nodes] = 10
    try provesItself(.quotaOfThePast, quotas: quotas) { store in
      let guest = store.server.connect(as: Self.five)
      try? guest.write("a/b/c/d/e/f/g/h/i/j/k/l/m/n", "")
      return store.server.usage(of: .nodes, by: Self.five) > 10
    }
  }

  @Test("XSA-322, XSA-417: rights given to a domain end with it")
  func rights() throws {
    try provesItself(.rightsOutliveDomain) { store in
      try store.control.write("/shared", "secret")
      try store.control.setPermissions(
        "/shared", StorePermissions(owner: .control, [StorePermission(.both, Self.five)]))
      try store.server.release(Self.five)
      try AdvisoryTests.makeHome(5, store.server, store.control)
      return (try? store.server.connect(as: Self.five).read("/shared")) != nil
    }
  }

  @Test("XSA-323: a path is judged with its prefix")
  func pathLength() throws {
    try provesItself(.lengthBeforePrefix) { store in
      let long = "/local/domain/5/" + String(repeating: "a/", count: 1023) + "abc"
      do throws(StoreError) { _ = try store.server.connect(as: Self.five).read(long) } catch {
        return error != .invalid
      }
      return true
    }
  }

  @Test("XSA-324: no event is longer than a message")
  func longEvent() throws {
    try provesItself(.longEventQueued) { store in
      try store.control.watch("/a", token: String(repeating: "t", count: 4000))
      _ = store.control.nextEvent()
      try store.control.write("/a/" + String(repeating: "b", count: 200), "")
      return store.control.nextEvent() != nil
    }
  }

  @Test("XSA-325: a guest that broke the protocol is still announced when it dies")
  func violator() throws {
    try provesItself(.violatorForgotten) { store in
      let (guest, ring, memory) = try store.ring()
      defer { withExtendedLifetime(memory) {} }
      try store.control.watch(StorePath.releaseDomain, token: "r")
      _ = store.control.nextEvent()
      _ = try guest.send(WireClient.message(2, "", length: 4097)[...])
      ring.serve()
      try? store.server.release(Self.five)
      return store.control.nextEvent() == nil
    }
  }

  @Test("XSA-326: a guest that takes no replies is not listened to")
  func deafGuest() throws {
    try provesItself(.deafGuestServed) { store in
      let (guest, ring, memory) = try store.ring()
      defer { withExtendedLifetime(memory) {} }
      for _ in 0..<500 {
        _ = try guest.send(WireClient.message(1, "\0")[...])
        ring.serve()
      }
      return store.server.usage(of: .outstanding, by: Self.five) > 20
    }
  }

  @Test("XSA-326, XSA-349: an event that waits already is not queued again, however often the node is written")
  func merging() throws {
    try provesItself(.eventsNotMerged) { store in
      let backend = store.server.connect(as: .control)
      try backend.watch("/local/domain/5/device/vbd/51712/state", token: "frontend-state")
      let guest = store.server.connect(as: Self.five)
      for index in 0..<1000 { try guest.write("device/vbd/51712/state", "\(index % 7)") }
      return store.server.statistics.waitingEvents > 1
    }
  }

  @Test("XSA-330: a reset leaves no watch behind")
  func reset() throws {
    try provesItself(.secondIndexKept) { store in
      let client = WireClient(store.server)
      for index in 0..<10 { _ = client.ask(.watch, "/a/\(index)\0t\0") }
      _ = client.ask(.resetWatches, "\0")
      return store.server.statistics.watches != 0
    }
  }

  @Test("XSA-352, XSA-353: the root's permissions are looked at")
  func root() throws {
    try provesItself(.rootUnchecked) { store in
      (try? store.server.connect(as: Self.five).directory("/")) != nil
    }
  }

  @Test("XSA-414, 415, 416, 421: a transaction with a failed step cannot be committed")
  func failedStep() throws {
    var quotas = StoreQuotas.xenstored
    quotas[.nodes] = 6
    try provesItself(.failedStepCommits, quotas: quotas) { store in
      let guest = store.server.connect(as: Self.five)
      let transaction = try guest.startTransaction()
      try guest.write("first", "", in: transaction)
      try? guest.write("a/b/c/d/e/f/g/h", "", in: transaction)
      try? guest.endTransaction(transaction, commit: true)
      return (try? guest.exists("first")) == true
    }
  }

  @Test("XSA-419: what a guest owned goes with it")
  func orphans() throws {
    try provesItself(.orphansStay) { store in
      try store.control.makeDirectory("/board")
      try store.control.setPermissions("/board", StorePermissions(owner: .control, others: .both))
      try store.server.connect(as: Self.five).write("/board/note", "x")
      try store.server.release(Self.five)
      return try !store.control.directory("/board").isEmpty
    }
  }

  @Test("XSA-420: a length that looks negative ends the client")
  func negativeLength() throws {
    try provesItself(.lengthIsSigned) { store in
      let client = WireClient(store.server)
      client.session.receive(WireClient.message(2, "", length: 1 << 31))
      return client.session.failure == .none
    }
  }

  @Test("XSA-481: a slash at the end of a path makes it malformed")
  func trailingSlash() throws {
    try provesItself(.trailingSlashIgnored) { store in
      do throws(StoreError) { _ = try store.control.read("/local/domain/") } catch { return error != .invalid }
      return true
    }
  }

  @Test("XSA-483: a new domain owes nothing of what the last one of its number owed")
  func debts() throws {
    try provesItself(.debtsOutliveDomain) { store in
      let (guest, ring, memory) = try store.ring()
      defer { withExtendedLifetime(memory) {} }
      for _ in 0..<100 {
        _ = try guest.send(WireClient.message(1, "\0")[...])
        ring.serve()
      }
      try store.server.release(Self.five)
      try store.server.introduce(Self.five)
      return store.server.usage(of: .outstanding, by: Self.five) != 0
    }
  }

  @Test("XSA-484: a reset inside a transaction is harmless")
  func resetInside() async throws {
    let store = try Fixture(StoreFaults())
    let client = WireClient(store.server)
    _ = client.ask(.transactionStart, "\0")
    #expect(client.ask(.resetWatches, "\0", in: 1) == "RESET_WATCHES OK|")
    guard StoreFaults.canBePlanted else { return }
    await #expect(processExitsWith: .failure) {
      let store = try Fixture(StoreFaults(.resetInsideTraps))
      let client = WireClient(store.server)
      _ = client.ask(.transactionStart, "\0")
      _ = client.ask(.resetWatches, "\0", in: 1)
    }
  }
}
