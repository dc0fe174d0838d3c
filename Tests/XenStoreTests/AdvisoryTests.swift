// SPDX-License-Identifier: MIT

import Glibc
import PVTestSupport
import Testing
import XenStore
import XenWire

/// What went wrong in xenstored once (Xen Security Advisories), and must not here.
///
/// XSA-38 and XSA-325 are with the ring's tests.
@Suite("XenStore advisories")
struct AdvisoryTests {
  static let five = DomainID(rawValue: 5)
  let server = StoreServer()
  let control: StoreConnection

  init() throws {
    control = server.connect(as: .control)
    try Self.makeHome(5, server, control)
  }

  static func makeHome(_ number: UInt16, _ server: StoreServer, _ control: StoreConnection) throws {
    let domain = DomainID(rawValue: number)
    try server.introduce(domain)
    try control.makeDirectory(StorePath.home(of: domain))
    try control.setPermissions(StorePath.home(of: domain), StorePermissions(owner: domain))
  }

  @Test("XSA-72: a reply that does not fit is E2BIG, whoever made the node so large")
  func reply() throws {
    let client = WireClient(server)
    let name = String(repeating: "n", count: 200)
    for index in 0..<20 { try control.write("/d/\(name)\(index)", "") }
    #expect(client.ask(.directory, "/d\0")?.utf8.count == "DIRECTORY ".utf8.count + 20 * 202 + 10)
    try control.write("/d/\(name)20", "")
    #expect(client.ask(.directory, "/d\0") == "ERROR E2BIG|")
    #expect(client.ask(.read, "/d\0") == "READ ")
  }

  @Test("XSA-115: a guest that watches everything hears nothing of others")
  func privacy() throws {
    let spy = server.connect(as: Self.five)
    for path in ["/", "/local", "/local/domain/6", "@introduceDomain", "@releaseDomain"] {
      try spy.watch(path, token: path)
    }
    while spy.nextEvent() != nil {}
    try Self.makeHome(6, server, control)
    let six = server.connect(as: DomainID(rawValue: 6))
    try six.write("device/vbd/1/state", "1")
    try six.transaction { (transaction) throws(StoreError) in
      try six.write("device/vbd/1/state", "2", in: transaction)
      try six.remove("device/vbd", in: transaction)
    }
    try six.remove("device")
    try server.release(DomainID(rawValue: 6))
    #expect(spy.nextEvent() == nil)
    #expect(server.check() == [])
  }

  @Test("XSA-206: a guest that writes in a loop cannot keep the tools' transaction from committing")
  func fairness() throws {
    let fixture = try RingFixture()
    let tools = fixture.server.connect(as: .control)
    let write = WireClient.message(11, "device/state\0x")
    let flood = Array(repeating: write, count: 16).flatMap { $0 }
    var tries = 0
    var isDone = false
    while !isDone, tries < 100 {
      tries += 1
      let transaction = try tools.startTransaction()
      _ = try? tools.read("/local/domain/5/device/state", in: transaction)
      _ = try fixture.guest.send(flood[...].prefix(try fixture.guest.outgoingRoom() / write.count * write.count))
      fixture.ring.serve()
      _ = try fixture.guest.receive()
      fixture.time.advance(milliseconds: 1)
      do {
        try tools.endTransaction(transaction, commit: true)
        isDone = true
      } catch .again {}
    }
    #expect(isDone)
    #expect(tries > 1, "the guest did interfere")
    #expect(fixture.ring.wantsTime)
    for _ in 0..<200 {
      fixture.time.advance(milliseconds: 10)
      fixture.ring.serve()
      _ = try fixture.guest.receive()
    }
    #expect(try fixture.guest.outgoingRoom() == 1024, "the guest is heard again in time")
  }

  @Test("XSA-233: a device model's domain and its guest can die in any order", arguments: [true, false])
  func stubDomain(guestFirst: Bool) throws {
    let client = WireClient(server)
    try Self.makeHome(6, server, control)
    #expect(client.ask(.setTarget, "6\05\0") == "SET_TARGET OK|")
    let stub = server.connect(as: DomainID(rawValue: 6))
    try stub.write("/local/domain/5/device", "")
    #expect(client.ask(.release, guestFirst ? "5\0" : "6\0") == "RELEASE OK|")
    #expect(client.ask(.release, guestFirst ? "6\0" : "5\0") == "RELEASE OK|")
    #expect(client.ask(.release, "5\0") == "ERROR ENOENT|")
    #expect(server.check() == [])
    #expect(server.statistics.nodes == 7)
  }

  @Test("XSA-272: no order of operations brings a guest above its quotas", arguments: 0..<10 as Range<UInt64>)
  func quotas(seed: UInt64) throws {
    var random = SeededGenerator(seed: seed)
    var quotas = StoreQuotas.xenstored
    quotas[.nodes] = 12
    quotas[.watches] = 4
    quotas[.transactions] = 2
    quotas[.transactionNodes] = 9
    quotas[.nodeSize] = 90
    quotas[.memory] = 3000
    let server = StoreServer(quotas: quotas)
    let control = server.connect(as: .control)
    try Self.makeHome(5, server, control)
    let guest = server.connect(as: Self.five)
    var open: [TransactionID] = []
    var refusals: Set<StoreError> = []
    for _ in 0..<600 {
      let transaction = open.isEmpty || Bool.random(using: &random) ? nil : open.randomElement(using: &random)
      let path = (0..<Int.random(in: 1...4, using: &random)).map { _ in
        "abc".randomElement(using: &random).map(String.init) ?? "a"
      }
      .joined(separator: "/")
      do throws(StoreError) {
        switch UInt8.random(in: 0..<10, using: &random) {
        case 0...3:
          try guest.write(path, String(repeating: "x", count: Int.random(in: 0...80, using: &random)), in: transaction)
        case 4: try guest.remove(path, in: transaction)
        case 5: try guest.watch(path, token: "\(UInt8.random(in: 0...3, using: &random))")
        case 6: try guest.unwatch(path, token: "\(UInt8.random(in: 0...3, using: &random))")
        case 7: open.append(try guest.startTransaction())
        case 8: _ = guest.nextEvent()
        default:
          guard let ended = open.popLast() else { continue }
          try guest.endTransaction(ended, commit: true)
        }
      } catch {
        refusals.insert(error)
      }
      for quota in [StoreQuota.nodes, .watches, .transactions] {
        try #require(server.usage(of: quota, by: Self.five) <= quotas[quota], "seed \(seed): \(quota)")
      }
      // A transaction's copies are counted but not refused: they are bounded by transaction-nodes and node-size.
      try #require(server.usage(of: .memory, by: Self.five) <= 3000 + 2 * 9 * 150, "seed \(seed)")
    }
    #expect(refusals.contains(.noSpace), "seed \(seed)")
    #expect(server.check() == [], "seed \(seed)")
    guest.close()
    try server.release(Self.five)
    #expect(server.check() == [], "seed \(seed)")
  }

  @Test("the documented number is allowed, one more is not")
  func limits() throws {
    let guest = server.connect(as: Self.five)
    for index in 0..<900 { try guest.write("n/\(index % 30)/\(index)", "") }
    #expect(server.usage(of: .nodes, by: Self.five) <= 1000)
    while server.usage(of: .nodes, by: Self.five) < 1000 {
      try guest.write("m/\(server.usage(of: .nodes, by: Self.five))", "")
    }
    #expect(throws: StoreError.noSpace) { try guest.write("one-more", "") }
    try guest.write("n/0", "still writable")
    for path in ["n/0", "n/1/31"] {
      // 16 bytes of header, 8 for a permission, and for n/0 the names of its 30 children.
      let names = try guest.directory(path).reduce(0) { $0 + $1.utf8.count + 1 }
      let room = 2048 - 24 - names
      try guest.write(path, String(repeating: "x", count: room))
      #expect(throws: StoreError.noSpace) { try guest.write(path, String(repeating: "x", count: room + 1)) }
    }
    try guest.remove("m")
    try guest.write("new", String(repeating: "x", count: 2024))
    #expect(throws: StoreError.noSpace) { try guest.write("newer", String(repeating: "x", count: 2025)) }
    while server.usage(of: .nodes, by: Self.five) < 1000 {
      try guest.write("m/\(server.usage(of: .nodes, by: Self.five))", "")
    }
    for index in 0..<128 { try guest.watch("w", token: "\(index)") }
    #expect(throws: StoreError.noSpace) { try guest.watch("w", token: "128") }
    for _ in 0..<10 { _ = try guest.startTransaction() }
    #expect(throws: StoreError.noSpace) { try guest.startTransaction() }
    #expect(server.check() == [])
  }

  @Test("XSA-322, 417, 483: a new domain under an old number inherits neither rights nor debts")
  func reusedNumber() throws {
    try control.write("/shared", "secret")
    try control.setPermissions("/shared", StorePermissions(owner: .control, [StorePermission(.both, Self.five)]))
    let transaction = try control.startTransaction()
    try control.setPermissions(
      "/shared", StorePermissions(owner: .control, [StorePermission(.read, Self.five)]), in: transaction)
    let first = server.connect(as: Self.five)
    #expect(try first.read("/shared") == "secret")
    for index in 0..<100 { try first.write("n\(index)", "") }
    for index in 0..<100 { try first.watch("w", token: "\(index)") }
    try server.release(Self.five)
    #expect(server.usage(of: .nodes, by: Self.five) == 0)
    try Self.makeHome(5, server, control)
    let second = server.connect(as: Self.five)
    #expect(throws: StoreError.access) { try second.read("/shared") }
    #expect(throws: StoreError.inputOutput) { try first.read("n0") }
    #expect(server.usage(of: .nodes, by: Self.five) == 1)
    #expect(server.usage(of: .watches, by: Self.five) == 0)
    // A transaction that was open all the time does not bring the rights back.
    #expect(throws: StoreError.again) { try control.endTransaction(transaction, commit: true) }
    #expect(throws: StoreError.access) { try second.read("/shared") }
    #expect(server.check() == [])
  }

  @Test("XSA-322: a transaction cannot bring rights of a dead domain to its successor")
  func reusedNumberInTransaction() throws {
    let right = StorePermissions(owner: .control, [StorePermission(.both, Self.five)])
    let gift = try control.startTransaction(), property = try control.startTransaction()
    try control.write("/gift", "", in: gift)
    try control.setPermissions("/gift", right, in: gift)
    try control.write("/property", "", in: property)
    try control.setPermissions("/property", StorePermissions(owner: Self.five), in: property)
    try server.release(Self.five)
    try server.introduce(Self.five)
    try control.endTransaction(gift, commit: true)
    #expect(try control.permissions("/gift").description == "n0")
    #expect(throws: StoreError.access) { try server.connect(as: Self.five).read("/gift") }
    #expect(throws: StoreError.again) { try control.endTransaction(property, commit: true) }
    #expect(server.check() == [])
  }

  @Test("XSA-483: what a dead guest's ring still owes is not charged to its successor")
  func debts() throws {
    let fixture = try RingFixture()
    let server = fixture.server
    for index in 0..<100 {
      _ = try fixture.guest.send(WireClient.message(11, "n\(index)\0x")[...])
      fixture.ring.serve()
    }
    #expect(server.usage(of: .outstanding, by: fixture.ring.domain) > 0)
    try server.release(fixture.ring.domain)
    try server.introduce(fixture.ring.domain)
    fixture.ring.close()
    for quota in [StoreQuota.outstanding, .memory, .nodes, .watches] {
      #expect(server.usage(of: quota, by: fixture.ring.domain) == 0)
    }
    #expect(server.check() == [])
  }

  @Test("XSA-417: an entry for what is no domain gives nobody anything")
  func noDomain() throws {
    try control.write("/x", "")
    let number = DomainID(rawValue: 0x7FF1)
    try control.setPermissions("/x", StorePermissions(owner: .control, [StorePermission(.both, number)]))
    #expect(throws: StoreError.access) { try server.connect(as: number, privileged: false).read("/x") }
    try control.setPermissions("/x", StorePermissions(owner: .control, [StorePermission(.read, .any)]))
    #expect(try server.connect(as: Self.five).read("/x") == "")
  }

  @Test("XSA-323: a path's length is judged as it will be stored")
  func pathLength() throws {
    let guest = server.connect(as: Self.five)
    let exact = String(repeating: "a/", count: 1023) + "ab"
    #expect(exact.utf8.count == 2048)
    #expect(throws: StoreError.noSpace) { try guest.write(exact, "") }
    #expect(throws: StoreError.noSuchEntry) { try guest.read(exact) }
    #expect(throws: StoreError.invalid) { try guest.read(exact + "c") }
    #expect(throws: StoreError.noSuchEntry) { try guest.read("/local/domain/5/" + exact) }
    #expect(throws: StoreError.invalid) { try guest.read("/local/domain/5/" + exact + "c") }
    #expect(throws: StoreError.invalid) { try guest.read("/" + exact) }
    #expect(throws: StoreError.invalid) { try control.read("/" + String(repeating: "a", count: 3072)) }
    #expect(throws: StoreError.noSuchEntry) { try control.read("/" + String(repeating: "a", count: 3071)) }
  }

  @Test("XSA-324: an event that does not fit a message is dropped")
  func longEvent() throws {
    let client = WireClient(server)
    let token = String(repeating: "t", count: 4000)
    #expect(client.ask(.watch, "/a\0\(token)\0") == "WATCH OK|")
    #expect(client.takeEvents().count == 1)
    try control.write("/a/" + String(repeating: "b", count: 200), "")
    try control.write("/a/short", "")
    #expect(client.takeEvents() == ["/a/short \(token)"])
  }

  @Test("XSA-326: a guest that never reads is not listened to, and costs what its quotas allow")
  func neverReading() throws {
    let fixture = try RingFixture()
    let server = fixture.server
    let requests = [
      WireClient.message(4, "a\0t\0"), WireClient.message(11, "a/b\0x"), WireClient.message(2, "a\0"),
      WireClient.message(1, "\0"),
    ].flatMap { $0 }
    var sent = 0
    for _ in 0..<TestScale.count(100_000) {
      sent += try fixture.guest.send(requests[(sent % requests.count)...])
      fixture.ring.serve()
    }
    #expect(sent < 1 << 14, "input stalls")
    #expect(server.usage(of: .outstanding, by: fixture.ring.domain) <= 20)
    #expect(server.usage(of: .memory, by: fixture.ring.domain) < 1 << 16)
    // Others are served meanwhile, and what they change costs one waiting event at most.
    let control = server.connect(as: .control)
    for index in 0..<1000 { try control.write("/local/domain/5/a/b", "\(index)") }
    #expect(server.statistics.waitingEvents <= 1)
    for index in 0..<300 { try control.write("/local/domain/5/a/c\(index)", "") }
    #expect(server.statistics.waitingEvents >= 100)
    #expect(server.usage(of: .memory, by: fixture.ring.domain) < 1 << 17)
    fixture.time.advance(milliseconds: 19_000)
    fixture.ring.serve()
    #expect(server.statistics.waitingEvents >= 100)
    // Nobody took the events for twenty seconds: they are dropped.
    fixture.time.advance(milliseconds: 2000)
    fixture.ring.serve()
    #expect(server.statistics.waitingEvents == 0)
    #expect(server.check() == [])
    // It starts to read: everything flows again.
    var received = 0
    for _ in 0..<1000 {
      received += try fixture.guest.receive().count
      fixture.ring.serve()
    }
    #expect(received > 1024)
    #expect(server.usage(of: .outstanding, by: fixture.ring.domain) == 0)
  }

  @Test("XSA-326: a guest's events wait at the expense of who caused them too")
  func causedEvents() throws {
    let fixture = try RingFixture()
    let sleeper = fixture.server.connect(as: .control)
    try sleeper.watch("/local/domain/5", token: "t")
    var answered = 0
    for index in 0..<100 {
      _ = try fixture.guest.send(WireClient.message(11, "n\(index)\0x")[...])
      fixture.ring.serve()
      answered += try fixture.guest.receive().count / 19
      fixture.ring.serve()
    }
    #expect(answered == 20)
    // Nobody but the store itself tells the guest's end that it may go on.
    while sleeper.nextEvent() != nil {}
    #expect(try fixture.guest.receive().count > 0)
  }
}

/// How often the long tests repeat themselves: PVDISK_TEST_SCALE times as often as in the everyday suite.
enum TestScale {
  static func count(_ everyday: Int) -> Int {
    guard let text = unsafe getenv("PVDISK_TEST_SCALE"), let factor = Int(unsafe String(cString: text)) else {
      return everyday
    }
    return everyday * max(factor, 1)
  }
}
