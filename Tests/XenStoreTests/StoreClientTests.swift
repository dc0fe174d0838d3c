// SPDX-License-Identifier: MIT

import Glibc
import Testing
import XenStore
import XenWire

@Suite("A store client over a socket")
struct StoreClientTests {
  let folder: TemporaryFolder
  let server = StoreServer()
  let socket: StoreSocketServer
  let client: StoreClient

  init() throws {
    folder = try TemporaryFolder()
    socket = try StoreSocketServer(server: server, path: folder.path + "/socket")
    client = try StoreClient(socket: socket.path)
  }

  @Test("reads, writes, lists, removes and changes permissions")
  func nodes() throws {
    try client.write("/a/b", bytes: [0, 1, 255])
    #expect(try client.readBytes(StorePath.root / "a" / "b") == [0, 1, 255])
    try client.makeDirectory("/a/c")
    #expect(try client.directory("/a") == ["b", "c"])
    try client.setPermissions("/a", StorePermissions(owner: .control, [StorePermission(.read, DomainID(rawValue: 7))]))
    #expect(try client.permissions("/a").description == "n0 r7")
    try client.remove("/a")
    #expect(throws: StoreClientError.refused(.noSuchEntry)) { try client.read("/a") }
    #expect(throws: StoreClientError.refused(.tooBig)) { try client.write("/a", String(repeating: "x", count: 5000)) }
  }

  @Test("a transaction is redone until it fits")
  func transactions() throws {
    try client.write("/n", "0")
    let other = try StoreClient(socket: socket.path)
    var runs = 0
    try client.transaction { (transaction) throws(StoreClientError) in
      runs += 1
      let value = try client.read("/n", in: transaction)
      if runs < 3 { try other.write("/n", "\(runs)") }
      try client.write("/n", value + "!", in: transaction)
    }
    #expect(runs == 3)
    #expect(try client.read("/n") == "2!")
  }

  @Test("events that come between requests and replies are kept in order")
  func events() throws {
    let other = try StoreClient(socket: socket.path)
    try client.watch("/a", token: "t", depth: 1)
    for index in 0..<5 {
      try other.write("/a/\(index)", "")
      #expect(try client.exists("/a/\(index)"))
    }
    let paths = try (0..<6).map { _ in try client.nextEvent(milliseconds: 5000)?.path }
    #expect(paths == ["/a", "/a/0", "/a/1", "/a/2", "/a/3", "/a/4"])
    try client.unwatch("/a", token: "t")
    try other.write("/a/9", "")
    #expect(try client.nextEvent(milliseconds: 0) == nil)
  }

  @Test("asks the daemon about domains and itself")
  func domains() throws {
    let domain = DomainID(rawValue: 3)
    try client.introduce(domain, frame: 1, port: 2)
    #expect(try client.isIntroduced(domain))
    try client.release(domain)
    #expect(try client.isIntroduced(domain) == false)
    #expect(try client.control("check") == "OK")
    #expect(try client.control("help").contains("quota"))
    #expect(throws: StoreClientError.refused(.invalid)) { try client.control("nonsense") }
  }

  @Test("a server that stops is noticed")
  func disconnection() throws {
    socket.stop()
    #expect(throws: StoreClientError.disconnected) { try client.read("/tool") }
    #expect(unsafe access(socket.path, F_OK) != 0)
  }

  @Test("a path that is taken, too long or nowhere is refused, and says so in a sentence")
  func refusals() throws {
    #expect(throws: StoreSocketError.exists(socket.path)) {
      try StoreSocketServer(server: server, path: socket.path)
    }
    let long = folder.path + "/" + String(repeating: "x", count: 108 - folder.path.utf8.count - 1)
    #expect(throws: StoreSocketError.tooLong(long)) { try StoreSocketServer(server: server, path: long) }
    let longest = String(long.dropLast())
    try StoreSocketServer(server: server, path: longest).stop()
    #expect(throws: StoreSocketError.self) { try StoreSocketServer(server: server, path: "/nowhere/at/all") }
    #expect(StoreSocketError.exists("/x").description.contains("/x exists already"))
    #expect(try client.exists("/tool"), "the first server still serves")
  }

  @Test("who connects is judged by what the kernel says of them")
  func peers() throws {
    let user = getuid()
    let guests = try StoreSocketServer(server: server, path: folder.path + "/guests", mode: 0o666) { peer in
      peer.process == getpid() && peer.user == user ? .guest(DomainID(rawValue: 9)) : .refused
    }
    let guest = try StoreClient(socket: guests.path)
    #expect(throws: StoreClientError.refused(.access)) { try guest.read("/tool") }
    let nobody = try StoreSocketServer(server: server, path: folder.path + "/nobody") { _ in .refused }
    let refused = try StoreClient(socket: nobody.path)
    #expect(throws: StoreClientError.disconnected) { try refused.read("/tool") }
  }
}
