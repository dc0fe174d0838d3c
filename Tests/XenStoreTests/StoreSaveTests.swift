// SPDX-License-Identifier: MIT

import Glibc
import PVTestSupport
import Testing
import XenStore
import XenWire

@Suite("A saved store")
struct StoreSaveTests {
  static let five = DomainID(rawValue: 5)

  /// A store with something of everything.
  func filled() throws -> StoreServer {
    let server = StoreServer()
    let control = server.connect(as: .control)
    try server.introduce(Self.five)
    try control.makeDirectory("/local/domain/5")
    try control.setPermissions("/local/domain/5", StorePermissions(owner: Self.five))
    for index in 0..<100 { try control.write("/z/\((index * 37) % 100)", "\(index)") }
    try control.write("/bytes", bytes: [0, 1, 2, 255])
    try control.setPermissions(
      "/z", StorePermissions(owner: .control, others: .read, [StorePermission(.both, Self.five)]))
    return server
  }

  /// Everything that a privileged client can see.
  static func dump(_ server: StoreServer) throws -> [String] {
    let control = server.connect(as: .control)
    var lines: [String] = []
    var stack = [StorePath.root, .introduceDomain, .releaseDomain]
    while let path = stack.popLast() {
      lines.append("\(path) (\(try control.permissions(path)))")
      guard !path.isSpecial else { continue }
      lines[lines.count - 1] += " = \(try control.readBytes(path))"
      stack += try control.directory(path).reversed().map { path / $0 }
    }
    return lines
  }

  @Test("comes back with the same nodes in the same order, the same permissions and the same domains")
  func roundTrip() throws {
    let server = try filled()
    let copy = try StoreServer(restoring: server.saved())
    #expect(try Self.dump(copy) == Self.dump(server))
    #expect(copy.isIntroduced(Self.five))
    #expect(copy.check() == [])
    #expect(copy.usage(of: .nodes, by: Self.five) == server.usage(of: .nodes, by: Self.five))
    #expect(copy.saved() == server.saved())
    let guest = copy.connect(as: Self.five)
    #expect(try guest.directory("/z").count == 100)
    try guest.write("mine", "1")
  }

  @Test("keeps a guest's watches for when it connects again, and no one else's")
  func watches() throws {
    let server = try filled()
    let guest = server.connect(as: Self.five), control = server.connect(as: .control)
    try guest.watch("a", token: "relative", depth: 2)
    try guest.watch("/z", token: "absolute")
    try control.watch("/z", token: "control")
    let copy = try StoreServer(restoring: server.saved())
    let again = copy.connect(as: Self.five)
    #expect(again.nextEvent() == nil)
    let writer = copy.connect(as: .control)
    try writer.write("/local/domain/5/a/b/c", "")
    try writer.write("/local/domain/5/a/b/c/d", "")
    try writer.write("/z/0", "")
    #expect(again.nextEvent() == WatchEvent(path: "a/b/c", token: "relative"))
    #expect(again.nextEvent() == WatchEvent(path: "/z/0", token: "absolute"))
    #expect(again.nextEvent() == nil)
    #expect(copy.statistics.watches == 2)
  }

  @Test("rights of a domain that is gone do not come back with a file")
  func staleRights() throws {
    let server = try filled()
    try server.release(Self.five)
    let copy = try StoreServer(restoring: server.saved())
    #expect(copy.isIntroduced(Self.five) == false)
    #expect(throws: StoreError.access) { try copy.connect(as: Self.five).write("/z/0", "") }
  }

  @Test("starts with the identifier and the version of Xen's format")
  func preamble() throws {
    #expect(Array(StoreServer().saved().prefix(16)) == Array("xenstore".utf8) + [0, 0, 0, 2, 0, 0, 0, 0])
  }

  @Test("is written whole or not at all")
  func files() throws {
    let folder = try TemporaryFolder()
    let server = try filled()
    let path = folder.path + "/state"
    try server.save(to: path)
    #expect(try StoreServer(restoringFrom: path).saved() == server.saved())
    #expect(unsafe access(path + ".new", F_OK) != 0)
    #expect(throws: StoreStreamError.self) { try server.save(to: folder.path + "/no/such/place") }
    #expect(throws: StoreStreamError.self) { try StoreServer(restoringFrom: folder.path + "/none") }
  }

  @Test("damage is found, not believed", arguments: 0..<60 as Range<UInt64>)
  func damage(seed: UInt64) throws {
    var random = SeededGenerator(seed: seed)
    var bytes = try filled().saved()
    if seed % 3 == 0 {
      bytes.removeLast(Int.random(in: 9...bytes.count, using: &random))
      #expect(throws: StoreStreamError.self, "seed \(seed)") { try StoreServer(restoring: bytes) }
      return
    }
    for _ in 0..<Int.random(in: 1...8, using: &random) {
      bytes[Int.random(in: 0..<bytes.count, using: &random)] = UInt8.random(in: 0...255, using: &random)
    }
    if let server = try? StoreServer(restoring: bytes) { #expect(server.check() == [], "seed \(seed)") }
  }
}

@Suite("A message trace")
struct StoreTraceTests {
  @Test("is written as xenstored writes it")
  func text() throws {
    let folder = try TemporaryFolder()
    let trace = try #require(StoreTrace(path: folder.path + "/trace", format: .text))
    converse(trace)
    let lines = try lines(folder.path + "/trace")
    #expect(lines.count == 6)
    #expect(lines[0].hasPrefix("obj: CREATE connection 0x"))
    #expect(try #/io: IN 0x[0-9a-f]+ \(d0\) \d{8} \d\d:\d\d:\d\d WRITE \(/a v\)/#.wholeMatch(in: lines[1]) != nil)
    #expect(lines[2].hasSuffix(" WRITE (OK )"))
    #expect(lines[4].hasSuffix(" ERROR (ENOENT )"))
    #expect(lines[5].hasPrefix("obj: DESTROY connection 0x"))
  }

  @Test("is written as JSON lines")
  func json() throws {
    let folder = try TemporaryFolder()
    let trace = try #require(StoreTrace(path: folder.path + "/trace", format: .json))
    converse(trace)
    let lines = try lines(folder.path + "/trace")
    #expect(lines.count == 6)
    #expect(lines[1].contains(#""direction":"in""#))
    #expect(lines[1].contains(#""domain":0,"type":"WRITE","request":0,"transaction":0,"payload":"/a\u0000v"}"#))
  }

  private func converse(_ trace: StoreTrace) {
    let session = StoreSession(server: StoreServer(), domain: .control, trace: trace) {}
    session.receive(WireClient.message(11, "/a\0v"))
    session.receive(WireClient.message(2, "/b\0"))
    session.close()
  }

  private func lines(_ path: String) throws -> [String] {
    // SAFETY: the stream is read to its end and closed here.
    let file = try unsafe #require(fopen(path, "r"))
    defer { unsafe fclose(file) }
    var bytes: [UInt8] = []
    while case let byte = unsafe getc(file), byte != EOF { bytes.append(UInt8(truncatingIfNeeded: byte)) }
    return String(decoding: bytes, as: UTF8.self).split(separator: "\n").map(String.init)
  }
}
