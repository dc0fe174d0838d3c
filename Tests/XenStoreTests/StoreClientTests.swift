// SPDX-License-Identifier: MIT

import Glibc
import GuestMemory
import Testing
import XenWire

@testable import XenStore

@Suite("A store client over a socket")
struct StoreClientTests {
  let folder: TemporaryFolder
  let server = StoreServer()
  let socket: StoreSocketServer
  let client: StoreClient

  init() throws {
    folder = try TemporaryFolder()
    socket = try StoreSocketServer(server: server, path: folder.path + "/socket")
    client = try StoreClient(patient: socket.path)
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
    let other = try StoreClient(patient: socket.path)
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
    let other = try StoreClient(patient: socket.path)
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
    #expect(throws: StoreSocketError.served(socket.path)) {
      try StoreSocketServer(server: server, path: socket.path)
    }
    let long = folder.path + "/" + String(repeating: "x", count: 108 - folder.path.utf8.count - 1)
    #expect(throws: StoreSocketError.tooLong(long)) { try StoreSocketServer(server: server, path: long) }
    let longest = String(long.dropLast())
    try StoreSocketServer(server: server, path: longest).stop()
    #expect(throws: StoreSocketError.folderMissing("/nowhere/at/all")) {
      try StoreSocketServer(server: server, path: "/nowhere/at/all")
    }
    let inFile = folder.path + "/socket/below"
    #expect(throws: StoreSocketError.folderMissing(inFile)) { try StoreSocketServer(server: server, path: inFile) }
    for path in ["", "\0abstract", "/tmp/cut\0off"] {
      #expect(throws: StoreSocketError.system(path, SystemError("bind", code: EINVAL))) {
        try StoreSocketServer(server: server, path: path)
      }
    }
    #expect(try client.exists("/tool"), "the first server still serves")
  }

  @Test("a file that a dead daemon left, or anything else at the path, is left alone and named")
  func leftovers() throws {
    for (name, command) in [
      ("dead", "python3 -c 'import socket,sys; socket.socket(socket.AF_UNIX).bind(sys.argv[1])'"),
      ("file", "touch"), ("folder", "mkdir"), ("dangling", "ln -s nowhere"),
    ] {
      let path = folder.path + "/" + name
      #expect(unsafe system("\(command) '\(path)'") == 0)
      #expect(throws: StoreSocketError.exists(path)) { try StoreSocketServer(server: server, path: path) }
      var entry = stat()
      // SAFETY: the address is of a local value.
      #expect(unsafe lstat(path, &entry) == 0, "\(name) is still there")
    }
  }

  @Test(
    "a refusal is one sentence that names the path and the way out",
    arguments: [
      (
        StoreSocketError.exists("/x"),
        "/x exists already, and nobody serves it: remove it or choose another socket path"
      ),
      (.served("/x"), "a running daemon serves /x already: stop it or choose another socket path"),
      (.folderMissing("/a/b/x"), "cannot serve the socket /a/b/x: there is no folder /a/b; make it first"),
      (.folderMissing("x"), "cannot serve the socket x: there is no folder .; make it first"),
      (
        .notWritable("/x"),
        "cannot serve the socket /x: the folder / is not writable for this user; choose another"
      ),
      (
        .tooLong("/x"),
        "the socket path /x has 2 bytes, but a Unix socket's path has at most 107: choose a shorter one"
      ),
    ])
  func sentences(error: StoreSocketError, sentence: String) {
    #expect(error.description == sentence)
  }

  @Test(
    "a bind that fails is told by what is in its way",
    arguments: [
      (EACCES, StoreSocketError.notWritable("/a/x")), (EROFS, .notWritable("/a/x")), (EPERM, .notWritable("/a/x")),
      (ENOENT, .folderMissing("/a/x")), (ENOTDIR, .folderMissing("/a/x")),
      (ENOMEM, .system("/a/x", SystemError("bind", code: ENOMEM))),
    ] as [(CInt, StoreSocketError)])
  func bindErrors(code: CInt, error: StoreSocketError) {
    #expect(StoreSocketError(SystemError("bind", code: code), at: "/a/x") == error)
  }

  @Test("who connects is judged by what the kernel says of them")
  func peers() throws {
    let user = getuid()
    let guests = try StoreSocketServer(server: server, path: folder.path + "/guests", mode: 0o666) { peer in
      peer.process == getpid() && peer.user == user ? .guest(DomainID(rawValue: 9)) : .refused
    }
    let guest = try StoreClient(patient: guests.path)
    #expect(throws: StoreClientError.refused(.access)) { try guest.read("/tool") }
    let nobody = try StoreSocketServer(server: server, path: folder.path + "/nobody") { _ in .refused }
    let refused = try StoreClient(patient: nobody.path)
    #expect(throws: StoreClientError.disconnected) { try refused.read("/tool") }
  }
}
