// SPDX-License-Identifier: MIT

import PVTestSupport
import Testing
import XenStore
import XenWire

/// What watches, transactions and removals leave behind, and what a malformed message does.
extension AdvisoryTests {
  @Test("XSA-330: watching and resetting leaves nothing behind")
  func resets() throws {
    let client = WireClient(server)
    let before = server.statistics
    for index in 0..<TestScale.count(3000) {
      _ = client.ask(.watch, "/a/\(index)\0t\0")
      _ = client.ask(.transactionStart, "\0")
      #expect(client.ask(.resetWatches, "\0") == "RESET_WATCHES OK|")
      client.events = []
    }
    #expect(server.statistics == before)
    #expect(server.check() == [])
  }

  @Test("XSA-352, 353: the root's permissions are those of any node")
  func root() throws {
    let guest = server.connect(as: Self.five)
    #expect(throws: StoreError.access) { try guest.setPermissions("/", StorePermissions(owner: Self.five)) }
    #expect(throws: StoreError.access) { try guest.remove("/") }
    #expect(throws: StoreError.access) { try guest.directory("/") }
    #expect(throws: StoreError.access) { try guest.write("/", "x") }
    #expect(throws: StoreError.access) { try guest.write("/x", "x") }
    try control.setPermissions("/", StorePermissions(owner: .control, others: .read))
    #expect(try guest.directory("/") == ["tool", "local"])
    #expect(throws: StoreError.access) { try guest.write("/x", "x") }
  }

  @Test("XSA-414, 415, 416, 421: an operation that fails half-way leaves nothing, alone or in a transaction")
  func failures() throws {
    var quotas = StoreQuotas.xenstored
    quotas[.nodes] = 6
    quotas[.nodeSize] = 60
    for isInside in [false, true] {
      for depth in 1...10 {
        let server = StoreServer(quotas: quotas)
        let control = server.connect(as: .control)
        try Self.makeHome(5, server, control)
        let guest = server.connect(as: Self.five)
        let before = try StoreSaveTests.dump(server)
        let transaction = isInside ? try guest.startTransaction() : nil
        let path = (0..<depth).map { "n\($0)" }.joined(separator: "/")
        let isRefused = depth > 5
        do throws(StoreError) {
          try guest.write(path, "value", in: transaction)
          #expect(!isRefused)
        } catch {
          #expect(isRefused && error == .noSpace)
        }
        if let transaction {
          if isRefused {
            #expect(throws: StoreError.noMemory) { try guest.endTransaction(transaction, commit: true) }
          } else {
            try guest.endTransaction(transaction, commit: true)
          }
        }
        #expect(try (StoreSaveTests.dump(server) == before) == isRefused)
        #expect(server.check() == [])
      }
    }
  }

  @Test("XSA-418: a path of 1500 parts is made, listed, watched and removed without recursion")
  func deepPath() throws {
    let deep = String(repeating: "/a", count: 1500)
    try control.watch(deep, token: "t")
    try control.write(deep, "bottom")
    #expect(try control.read(deep) == "bottom")
    #expect(try StoreServer(restoring: server.saved()).connect(as: .control).read(deep) == "bottom")
    try control.remove("/a")
    #expect(try control.exists("/a") == false)
    #expect(server.check() == [])
    // In a thread with the smallest stack too.
    let transaction = try control.startTransaction()
    try control.write(deep, "again", in: transaction)
    try control.remove("/a", in: transaction)
    try control.endTransaction(transaction, commit: true)
    #expect(try control.exists("/a") == false)
  }

  @Test("XSA-419: what a guest left outside its home goes with it")
  func orphans() throws {
    try control.makeDirectory("/board")
    try control.setPermissions("/board", StorePermissions(owner: .control, others: .both))
    let nodes = server.statistics.nodes
    for round in 0..<TestScale.count(200) {
      let domain = DomainID(rawValue: UInt16(6 + round % 3))
      try Self.makeHome(domain.rawValue, server, control)
      let guest = server.connect(as: domain)
      try guest.write("/board/note-\(round)/below", "x")
      try guest.write("device", "x")
      try server.release(domain)
      try control.remove(StorePath.home(of: domain))
    }
    #expect(server.statistics.nodes == nodes)
    #expect(try control.directory("/board") == [])
    #expect(server.check() == [])
  }

  @Test(
    "XSA-420: a length that looks negative ends the client, and no other",
    arguments: [4097, 1 << 31, UInt32.max, (1 << 31) - 1] as [UInt32])
  func lengths(length: UInt32) throws {
    let folder = try TemporaryFolder()
    let socket = try StoreSocketServer(server: server, path: folder.path + "/socket")
    let good = try StoreClient(patient: socket.path)
    var bad = try StoreSocketTransport(patient: socket.path)
    try bad.send(WireClient.message(2, "", length: length))
    #expect(throws: StoreClientError.disconnected) { try bad.receive(milliseconds: 5000) }
    bad.close()
    #expect(try good.exists("/tool"))
  }

  @Test(
    "XSA-481: paths that end in a slash are malformed, each of them",
    arguments: ["/local/domain/", "/local/", "//", "/local/domain/5/", "domain/", "/local//domain", "@a/", ""])
  func trailingSlash(path: String) throws {
    for connection in [control, server.connect(as: Self.five)] {
      #expect(throws: StoreError.invalid) { try connection.read(path) }
      #expect(throws: StoreError.invalid) { try connection.write(path, "") }
      #expect(throws: StoreError.invalid) { try connection.watch(path, token: "t") }
      #expect(throws: StoreError.invalid) { try connection.remove(path) }
    }
    #expect(StorePath(path) == nil)
  }

  @Test("XSA-484: RESET_WATCHES inside a transaction ends that transaction")
  func resetInside() throws {
    let client = WireClient(server)
    #expect(client.ask(.transactionStart, "\0") == "TRANSACTION_START 1|")
    #expect(client.ask(.write, "/a\0x", in: 1) == "WRITE OK|")
    #expect(client.ask(.resetWatches, "\0", in: 1) == "RESET_WATCHES OK|")
    #expect(client.ask(.transactionEnd, "T\0", in: 1) == "ERROR ENOENT|")
    #expect(try control.exists("/a") == false)
    #expect(server.check() == [])
  }
}
