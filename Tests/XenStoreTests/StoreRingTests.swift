// SPDX-License-Identifier: MIT

import GuestMemory
import PVTestSupport
import Synchronization
import Testing
import XenStore
import XenWire

/// A guest's page with the store behind it; signals are function calls.
final class RingFixture: Sendable {
  let server: StoreServer
  let guest: StoreRingPage
  let ring: StoreRingServer
  private let memory: RingMemory
  let time: TestClock

  /// Keeps the page mapped.
  private final class RingMemory: Sendable {
    let mapping: MappedMemory
    init() throws { mapping = try MappedMemory(anonymousByteCount: 4096) }
  }

  init(domain: UInt16 = 5, quotas: StoreQuotas = .xenstored, start: UInt32 = 0) throws {
    let time = TestClock()
    self.time = time
    server = StoreServer(quotas: quotas, clock: { time.now })
    memory = try RingMemory()
    let region = memory.mapping.region
    for offset in stride(from: 2048, to: 2064, by: 4) { region.store(start, at: offset) }
    guest = StoreRingPage(region, as: .client)
    try server.introduce(DomainID(rawValue: domain))
    let control = server.connect(as: .control)
    try control.makeDirectory("/local/domain/\(domain)")
    try control.setPermissions("/local/domain/\(domain)", StorePermissions(owner: DomainID(rawValue: domain)))
    ring = StoreRingServer(
      server: server, page: StoreRingPage(region, as: .server), domain: DomainID(rawValue: domain)
    ) {}
  }

  /// A client at the guest's end.
  func connect() -> StoreClient { StoreClient(over: transport()) }

  /// A transport of the guest's, for which a millisecond passes with each wait.
  ///
  /// A guest that is not answered within ten minutes of that clock is told that its page is broken.
  func transport() -> StoreRingTransport {
    let ring = ring, time = time, guest = guest
    let waits = Atomic(0)
    return StoreRingTransport(
      page: guest, notify: { ring.serve() },
      wait: { _ in
        time.advance(milliseconds: 1)
        if ring.wantsTime || waits.load(ordering: .relaxed) == 0 { ring.serve() }
        guard waits.add(1, ordering: .relaxed).newValue > 600_000 else { return }
        Issue.record("the store has not answered a guest for ten minutes")
        guest.error = .communication
        guest.connection = StoreRingState.connected
      })
  }
}

/// A clock that a test moves.
final class TestClock: Sendable {
  private let value = Atomic<UInt64>(1_000_000_000)
  var now: UInt64 { value.load(ordering: .relaxed) }
  func advance(milliseconds: UInt64) { value.add(milliseconds * 1_000_000, ordering: .relaxed) }
}

@Suite("A store's ring page")
struct StoreRingTests {
  @Test(
    "carries every kind of request, wherever its indices start",
    arguments: [0, 1000, UInt32.max - 5, 0x7FFF_FFF0] as [UInt32])
  func requests(start: UInt32) throws {
    let fixture = try RingFixture(start: start)
    let client = fixture.connect()
    #expect(fixture.guest.features == .all)
    try client.write("a/b", "value")
    #expect(try client.read("a/b") == "value")
    #expect(try client.directory("a") == ["b"])
    #expect(try client.exists("a/c") == false)
    #expect(throws: StoreClientError.refused(.access)) { try client.read("/tool") }
    try client.watch("a", token: "t")
    try client.transaction { (transaction) throws(StoreClientError) in
      try client.write("a/b", "2", in: transaction)
      try client.write("a/c", "3", in: transaction)
    }
    #expect(try client.permissions("a/c").description == "n5")
    try client.remove("a/c")
    let events = try (0..<4).map { _ in try client.nextEvent(milliseconds: 0)?.path }
    #expect(events == ["a", "a/b", "a/c", "a/c"])
    #expect(try client.nextEvent(milliseconds: 0) == nil)
    #expect(fixture.server.check() == [])
  }

  @Test("carries messages four times its size, in pieces")
  func largeMessages() throws {
    let fixture = try RingFixture(quotas: .unlimited)
    let client = fixture.connect()
    let value = String(repeating: "0123456789abcdef", count: 255)
    try client.write("a", value)
    #expect(try client.read("a") == value)
    for index in 0..<300 { try client.write("many/a-name-of-some-length-\(index)", "") }
    #expect(try client.directory("many").count == 300)
  }

  @Test("a full ring is full, not empty")
  func fullRing() throws {
    let fixture = try RingFixture()
    let request = WireClient.message(2, "a\0")
    var sent = 0
    while try fixture.guest.outgoingRoom() > 0 {
      sent += try fixture.guest.send((request + request)[(sent % request.count)...].prefix(request.count))
    }
    #expect(sent == 1024)
    #expect(try fixture.guest.outgoingRoom() == 0)
    fixture.ring.serve()
    #expect(try fixture.guest.outgoingRoom() == 1024)
    #expect(fixture.guest.error == .none)
  }

  @Test(
    "XSA-38: a producer more than a ring ahead is refused, and one just at a ring is not",
    arguments: [1024, 1025, 2048, 0x8000_0000, UInt32.max] as [UInt32])
  func hostileIndices(ahead: UInt32) throws {
    let fixture = try RingFixture(start: 77)
    fixture.guest.region.store(77 &+ ahead, at: StoreRingLayout.requestProducer)
    fixture.ring.serve()
    #expect(fixture.guest.error == (ahead == 1024 ? .none : .ringIndex))
    // The page is full of zeros: 64 empty CONTROL messages, each of which is answered.
    #expect(fixture.server.isIntroduced(fixture.ring.domain))
    #expect(fixture.server.check() == [])
  }

  @Test("a reply index out of range is refused too")
  func hostileReplyIndex() throws {
    let fixture = try RingFixture()
    fixture.guest.region.store(UInt32(3000), at: StoreRingLayout.replyConsumer)
    _ = try fixture.guest.send(WireClient.message(2, "a\0")[...])
    fixture.ring.serve()
    #expect(fixture.guest.error == .ringIndex)
  }

  @Test("XSA-325: who breaks the protocol is muted, and still announced when it dies")
  func muted() throws {
    let fixture = try RingFixture()
    let control = fixture.server.connect(as: .control)
    try control.watch(StorePath.releaseDomain, token: "r")
    _ = control.nextEvent()
    let client = fixture.connect()
    try client.watch("a", token: "t")
    _ = try fixture.guest.send(WireClient.message(2, "", length: 4097)[...])
    fixture.ring.serve()
    #expect(fixture.guest.error == .protocolViolation)
    #expect(throws: StoreClientError.disconnected) { try client.read("a") }
    #expect(fixture.server.statistics.watches == 1)
    #expect(control.nextEvent() == nil)
    try fixture.server.release(fixture.ring.domain)
    #expect(control.nextEvent()?.path == "@releaseDomain")
    #expect(control.nextEvent() == nil)
  }

  @Test("a reconnection drops watches, transactions and half a message, and goes on")
  func reconnects() throws {
    let fixture = try RingFixture()
    let transport = fixture.transport()
    let client = StoreClient(over: transport)
    try client.watch("a", token: "t")
    _ = try client.startTransaction()
    _ = try fixture.guest.send([11, 0, 0])
    transport.reconnect()
    #expect(fixture.server.statistics.watches == 0)
    #expect(fixture.server.statistics.transactions == 0)
    #expect(fixture.guest.error == .none)
    let again = StoreClient(over: transport)
    try again.write("a", "1")
    #expect(try again.read("a") == "1")
    #expect(fixture.server.check() == [])
  }

  @Test("a reconnection brings a muted guest back")
  func reconnectsAfterViolation() throws {
    let fixture = try RingFixture()
    _ = try fixture.guest.send(WireClient.message(2, "", length: UInt32.max)[...])
    fixture.ring.serve()
    #expect(fixture.guest.error == .protocolViolation)
    let transport = fixture.transport()
    transport.reconnect()
    try StoreClient(over: transport).write("a", "1")
  }

  @Test(
    "random bytes and random indices never stop the store, and its books stay right", arguments: 0..<20 as Range<UInt64>
  )
  func randomBytes(seed: UInt64) throws {
    var random = SeededGenerator(seed: seed)
    let fixture = try RingFixture()
    for _ in 0..<400 {
      switch UInt8.random(in: 0..<8, using: &random) {
      case 0:
        let field = [2048, 2052, 2056, 2060, 2068, 2072].randomElement(using: &random) ?? 2048
        fixture.guest.region.store(UInt32.random(in: 0...2100, using: &random), at: field)
      case 1...5:
        let text = (0..<Int.random(in: 0...40, using: &random)).map { _ in
          ["/", "a", "local", "domain", "5", "\0", "0", "@", "T", "n5"].randomElement(using: &random) ?? ""
        }.joined()
        let message = WireClient.message(
          UInt32.random(in: 0...28, using: &random), text, transaction: UInt32.random(in: 0...3, using: &random))
        _ = try? fixture.guest.send(message[...])
      default:
        let bytes = (0..<Int.random(in: 1...300, using: &random)).map { _ in UInt8.random(in: 0...3, using: &random) }
        _ = try? fixture.guest.send(bytes[...])
      }
      fixture.ring.serve()
      _ = try? fixture.guest.receive()
    }
    #expect(fixture.server.check() == [], "seed \(seed)")
    fixture.ring.close()
    #expect(fixture.server.usage(of: .outstanding, by: fixture.ring.domain) == 0, "seed \(seed)")
  }
}

@Suite("The distance between a ring's indices")
struct RingDistanceTests {
  @Test("XSA-38: every distance up to a ring is taken, and none above", arguments: [0, 0x7FFF_FE00, UInt32.max - 600])
  func everyDistance(consumer: UInt32) throws {
    let memory = try MappedMemory(anonymousByteCount: 4096)
    let page = StoreRingPage(memory.region, as: .server)
    memory.region.store(consumer, at: StoreRingLayout.requestConsumer)
    let far: [UInt32] = [1 << 16, 1 << 31, (1 << 31) - 1, .max - 1024, .max - 1023, .max - 1, .max]
    for distance in Array(0...2100) + far {
      memory.region.store(consumer &+ distance, at: StoreRingLayout.requestProducer)
      if distance <= 1024 {
        #expect(try page.incomingByteCount() == Int(distance))
      } else {
        #expect(throws: StoreRingError.ringIndex) { try page.incomingByteCount() }
        #expect(throws: StoreRingError.ringIndex) { try page.receive() }
      }
    }
    #expect(memory.region.load(UInt32.self, at: StoreRingLayout.requestConsumer) == consumer, "nothing was taken")
  }
}
