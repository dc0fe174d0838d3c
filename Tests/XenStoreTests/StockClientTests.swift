// SPDX-License-Identifier: MIT

import Glibc
import Testing
import XenStore
import XenWire

@Suite("Debian's own XenStore clients", .enabled(if: StockClient.isInstalled))
struct StockClientTests {
  let folder: TemporaryFolder
  let server = StoreServer()
  let control: StoreConnection
  let socket: StoreSocketServer
  let client: StockClient

  init() throws {
    folder = try TemporaryFolder()
    control = server.connect(as: .control)
    socket = try StoreSocketServer(server: server, path: folder.path + "/socket")
    client = StockClient(socket: socket.path)
  }

  @Test("write, read and list")
  func writesAndReads() throws {
    #expect(try client("write", "/a/b", "one", "/a/c", "two").status == 0)
    #expect(try client("read", "/a/b", "/a/c").output == "one\ntwo\n")
    #expect(try client("read", "-p", "/a/b").output == "/a/b: one\n")
    #expect(try client("list", "/a").output == "b\nc\n")
    #expect(try client("list", "-p", "/a").output == "/a/b\n/a/c\n")
    #expect(try control.read("/a/c") == "two")
  }

  @Test("a missing node makes read, list and exists fail as they do with xenstored")
  func missing() throws {
    #expect(
      try client("read", "/nope") == .init(status: 1, output: "", errors: "xenstore-read: couldn't read path /nope\n"))
    #expect(
      try client("list", "/nope") == .init(status: 1, output: "", errors: "xenstore-list: could not list path /nope\n"))
    #expect(try client("exists", "/nope").status == 1)
    #expect(try client("exists", "/tool").status == 0)
    #expect(
      try client("read", "/bad path")
        == .init(
          status: 1, output: "", errors: "xenstore-read: couldn't read path /bad path\n"))
  }

  @Test("ls shows the tree in creation order with values and permissions")
  func lists() throws {
    try control.write("/b/one", "1")
    try control.write("/a", "two\nlines \\ \u{1}\t")
    try control.setPermissions("/b/one", try #require(StorePermissions(["n0", "r6", "b7"])))
    #expect(
      try client("ls", "-fp").output == """
        /tool = ""   (n0)
        /tool/xenstored = ""   (n0)
        /b = ""   (n0)
        /b/one = "1"   (n0,r6,b7)
        /a = "two\\nlines \\\\ \\001\\t"   (n0)

        """)
    #expect(try client("ls", "/b").output == "one = \"1\"\n")
  }

  @Test("chmod sets permissions, upward and downward too")
  func chmod() throws {
    try control.write("/a/b/c", "")
    #expect(try client("chmod", "-r", "/a/b", "n5", "r6").status == 0)
    #expect(try control.permissions("/a").description == "n0")
    #expect(try control.permissions("/a/b").description == "n5 r6")
    #expect(try control.permissions("/a/b/c").description == "n5 r6")
    #expect(try client("chmod", "-u", "/a/b/c", "b1").status == 0)
    #expect(try control.permissions("/a").description == "b1")
    #expect(try client("chmod", "/a", "n40000").status == 1)
  }

  @Test("rm removes, and with -t the empty parents too")
  func removes() throws {
    try control.write("/a/b/c", "")
    try control.write("/x/y", "")
    #expect(try client("rm", "/x").status == 0)
    #expect(try client("rm", "-t", "/a/b/c").status == 0)
    #expect(try control.exists("/a") == false)
    #expect(try control.exists("/x") == false)
    #expect(
      try client("rm", "/no/such")
        == .init(
          status: 1, output: "", errors: "xenstore-rm: could not remove path /no/such\n"))
  }

  @Test("watch prints the path at once and at each change")
  func watches() throws {
    try control.write("/a", "")
    let writer = server.connect(as: .control)
    writer.onEvents(nil)
    let changes = ["/a/1", "/a/2", "/a/3"]
    let observer = server.connect(as: .control)
    try observer.watch("/seen", token: "")
    // The watcher is known to be registered when the number of watches has grown.
    let server = server
    let thread = TestThread {
      guard Patience.wait(until: { server.statistics.watches == 2 }) else { return }
      for path in changes { try? writer.write(path, "") }
    }
    #expect(try client("watch", "-n", "4", "/a").output == "/a\n/a/1\n/a/2\n/a/3\n")
    thread.join()
  }

  @Test("a directory that does not fit a message is listed in parts")
  func longDirectory() throws {
    let names = (0..<2000).map { "a-rather-long-name-\($0)" }
    for name in names { try control.write("/long/\(name)", "") }
    #expect(try client("list", "/long").output == names.map { $0 + "\n" }.joined())
  }

  @Test("values may hold any byte, up to what a message takes")
  func longValues() throws {
    let longest = String(repeating: "x", count: 4096 - "/v".utf8.count - 1)
    #expect(try client("write", "/v", longest).status == 0)
    #expect(try client("read", "/v").output == longest + "\n")
    #expect(try client("write", "/v", longest + "x").status != 0)
  }
}
