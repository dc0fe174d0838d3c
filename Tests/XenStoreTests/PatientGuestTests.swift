// SPDX-License-Identifier: MIT

import Glibc
import PVTestSupport
import Testing
import XenStore
import XenWire

@Suite("A guest that has to wait for time to pass")
struct PatientGuestTests {
  /// A guest's socket at a store in which the tools have a transaction open, so that every write costs credit.
  struct Scene {
    let folder: TemporaryFolder
    let server = StoreServer()
    let control: StoreConnection
    let socket: StoreSocketServer
    let guest = DomainID(rawValue: 5)

    init() throws {
      folder = try TemporaryFolder()
      control = server.connect(as: .control)
      try server.introduce(guest)
      try control.makeDirectory(StorePath.home(of: guest))
      try control.setPermissions(StorePath.home(of: guest), StorePermissions(owner: guest))
      socket = try StoreSocketServer(server: server, path: folder.path + "/guest") { [guest] _ in .guest(guest) }
    }
  }

  @Test(
    "a guest behind its ring page that writes more than its credit is slowed down, not stopped",
    arguments: [false, true])
  func ringCredit(isInTransactions: Bool) throws {
    let fixture = try RingFixture()
    let control = fixture.server.connect(as: .control)
    _ = try control.startTransaction()
    let client = fixture.connect()
    try client.watch("n", token: "t")
    let start = fixture.time.now
    for index in 0..<400 {
      if isInTransactions {
        try client.transaction { (transaction) throws(StoreClientError) in
          try client.write("n", "\(index)", in: transaction)
        }
      } else {
        try client.write("n", "\(index)")
      }
    }
    #expect(try client.read("n") == "399")
    // 200 writes a second, and the credit that there was at the start.
    #expect((1...3).contains((fixture.time.now - start) / 1_000_000_000))
    #expect(fixture.ring.wantsTime == false)
    #expect(fixture.server.check() == [])
  }

  @Test("a guest behind a socket that writes more than its credit is slowed down, not stopped")
  func socketCredit() throws {
    let scene = try Scene()
    _ = try scene.control.startTransaction()
    let client = try StoreClient(patient: scene.socket.path)
    try client.watch("n", token: "t")
    for index in 0..<80 { try client.write("n", "\(index)") }
    #expect(try scene.control.read("/local/domain/5/n") == "79")
    var events = 0
    while try client.nextEvent(milliseconds: 0) != nil { events += 1 }
    #expect(events == 81)
  }

  @Test("events that a socket's guest does not take are dropped when their time is over; those after them come through")
  func socketPatience() throws {
    let scene = try Scene()
    let client = try StoreClient(patient: scene.socket.path)
    try client.watch("a", token: "t")
    // More than the sockets between the two and the session take.
    let stem = "/local/domain/5/a/" + String(repeating: "s", count: 1000)
    var written = 0
    let isFull = Patience.wait {
      for _ in 0..<100 {
        try? scene.control.write(stem + "\(written % 900)", "")
        written += 1
      }
      return scene.server.statistics.waitingEvents > 300
    }
    #expect(isFull, "events wait in the store")
    scene.server.eventPatience = 30_000_000
    #expect(Patience.wait { scene.server.statistics.waitingEvents == 0 }, "events grow old")
    #expect(scene.server.usage(of: .memory, by: scene.guest) > 0)
    // It reads, and is told of what comes next.
    try scene.control.write("/local/domain/5/a/last", "")
    var seen = 0, last = ""
    while last != "a/last", let event = try client.nextEvent(milliseconds: Patience.milliseconds) {
      seen += 1
      last = event.path
    }
    #expect(last == "a/last")
    #expect(seen < written)
    #expect(scene.server.check() == [])
  }
}
