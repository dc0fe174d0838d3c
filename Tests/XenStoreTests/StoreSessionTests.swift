// SPDX-License-Identifier: MIT

import Testing
import XenStore
import XenWire

/// One line of the conversation: who asks, in which of their transactions, what, and the reply they must get.
struct Exchange: CustomStringConvertible, Sendable {
  let who: UInt16
  let transaction: UInt32
  let type: StoreMessageType
  let payload: String
  let reply: String

  init(
    _ who: UInt16, _ type: StoreMessageType, _ payload: String, _ reply: String, in transaction: UInt32 = 0
  ) {
    self.who = who
    self.transaction = transaction
    self.type = type
    self.payload = payload.replacing("|", with: "\0")
    self.reply = reply
  }

  var description: String { "\(who) \(type) \(payload)" }
}

@Suite("A wire session")
struct StoreSessionTests {
  /// Plays a conversation; clients come into being when they first speak.
  func play(_ script: [Exchange]) {
    let server = StoreServer()
    var clients: [UInt16: WireClient] = [:]
    for line in script {
      let client = clients[line.who] ?? WireClient(server, as: line.who)
      clients[line.who] = client
      let reply = client.ask(line.type, line.payload, in: line.transaction)
      #expect(reply == line.reply, "\(line)")
    }
    #expect(server.check() == [])
  }

  @Test("answers node requests byte for byte")
  func nodes() {
    play([
      Exchange(0, .read, "/a|", "ERROR ENOENT|"),
      Exchange(0, .write, "/a/b|v\u{1}|w", "WRITE OK|"),
      Exchange(0, .read, "/a/b|", "READ v\u{1}|w"),
      Exchange(0, .read, "/a|", "READ "),
      Exchange(0, .read, "/a", "ERROR EINVAL|"),
      Exchange(0, .read, "/a|x|", "ERROR EINVAL|"),
      Exchange(0, .read, "|", "ERROR EINVAL|"),
      Exchange(0, .read, "", "ERROR EINVAL|"),
      Exchange(0, .read, "/a/|", "ERROR EINVAL|"),
      Exchange(0, .read, "//a|", "ERROR EINVAL|"),
      Exchange(0, .read, "/a b|", "ERROR EINVAL|"),
      Exchange(0, .read, "@releaseDomain|", "ERROR EINVAL|"),
      Exchange(0, .directory, "/a|", "DIRECTORY b|"),
      Exchange(0, .directory, "/a/b|", "DIRECTORY "),
      Exchange(0, .directory, "/|", "DIRECTORY tool|a|"),
      Exchange(0, .makeDirectory, "/a/b|", "MKDIR OK|"),
      Exchange(0, .read, "/a/b|", "READ v\u{1}|w"),
      Exchange(0, .makeDirectory, "/a/d|", "MKDIR OK|"),
      Exchange(0, .write, "/a/e|", "WRITE OK|"),
      Exchange(0, .write, "/a/e", "ERROR EINVAL|"),
      Exchange(0, .directory, "/a|", "DIRECTORY b|d|e|"),
      Exchange(0, .remove, "/a/d|", "RM OK|"),
      Exchange(0, .remove, "/a/d|", "RM OK|"),
      Exchange(0, .remove, "/a/d/e|", "ERROR ENOENT|"),
      Exchange(0, .remove, "/|", "ERROR EINVAL|"),
      Exchange(0, .write, "rel|x", "WRITE OK|"),
      Exchange(0, .read, "/local/domain/0/rel|", "READ x"),
    ])
  }

  @Test("lists a directory in parts, with the generation before and an empty name at the end")
  func directoryParts() throws {
    let server = StoreServer()
    let client = WireClient(server)
    for index in 0..<900 { _ = client.ask(.write, "/d/name-\(index)\0") }
    #expect(client.ask(.directory, "/d\0") == "ERROR E2BIG|")
    var names = ""
    var generations: Set<String> = []
    for _ in 0..<900 where !names.hasSuffix("||") {
      let reply = try #require(client.ask(.directoryPart, "/d\0\(names.utf8.count)\0")).dropFirst(
        "DIRECTORY_PART ".count)
      let parts = reply.split(separator: "|", maxSplits: 1, omittingEmptySubsequences: false)
      generations.insert(String(parts[0]))
      #expect(reply.utf8.count <= 4096)
      names += parts[1]
    }
    #expect(names == (0..<900).map { "name-\($0)|" }.joined() + "|")
    #expect(generations.count == 1)
    #expect(client.ask(.directoryPart, "/d\0999999\0")?.hasSuffix("||") == true)
    #expect(client.ask(.directoryPart, "/d\0") == "ERROR EINVAL|")
  }

  @Test("a part of a directory holds as many names as fit a message with its end mark, and not one more")
  func directoryPartBounds() throws {
    let client = WireClient(StoreServer())
    var names = (0..<400).map { "name-\($0 + 1000)" }
    for name in names { _ = client.ask(.write, "/d/\(name)\0") }
    var isWhole: Set<Bool> = []
    // 4000 bytes of names, and a last one that fits, or does not, by one byte.
    for length in 80...100 {
      names.append(String(repeating: "x", count: length))
      _ = client.ask(.write, "/d/\(names[400])\0")
      let reply = try #require(client.ask(.directoryPart, "/d\00\0")).dropFirst("DIRECTORY_PART ".count)
      let generation = reply.prefix { $0 != "|" } + "|"
      var expected = ""
      for name in names where generation.utf8.count + expected.utf8.count + name.utf8.count + 2 <= 4096 {
        expected += name + "|"
      }
      let isLast = expected.hasSuffix(names[400] + "|")
      isWhole.insert(isLast)
      #expect(reply.dropFirst(generation.count) == expected + (isLast ? "|" : ""), "a last name of \(length) bytes")
      _ = client.ask(.remove, "/d/\(names.removeLast())\0")
    }
    #expect(isWhole == [true, false])
    // An offset at the list's end, and one behind it, answer the empty list.
    for offset in [3999, 4000, 4001] {
      let reply = try #require(client.ask(.directoryPart, "/d\0\(offset)\0"))
      #expect(reply.drop { $0 != "|" } == (offset == 3999 ? "|||" : "||"), "offset \(offset)")
    }
    #expect(client.ask(.directoryPart, "/d\0-1\0")?.hasSuffix("||") == true)
  }

  @Test("a guest that goes without having taken its answers owes nothing when it comes back")
  func closeSettles() throws {
    let server = StoreServer()
    let domain = DomainID(rawValue: 5)
    try server.introduce(domain)
    for _ in 0..<3 {
      let session = StoreSession(server: server, domain: domain) {}
      for _ in 0..<30 { session.receive(WireClient.message(2, "a\0")) }
      #expect(server.usage(of: .outstanding, by: domain) == 20)
      session.close()
      #expect(server.usage(of: .outstanding, by: domain) == 0)
      #expect(server.usage(of: .memory, by: domain) == 0)
    }
    #expect(WireClient(server, as: 5).ask(.read, "a\0") == "ERROR EACCES|")
    #expect(server.check() == [])
  }

  @Test("answers permission requests byte for byte")
  func permissions() {
    play([
      Exchange(0, .getPermissions, "/|", "GET_PERMS n0|"),
      Exchange(0, .write, "/a|", "WRITE OK|"),
      Exchange(0, .setPermissions, "/a|n5|r6|w7|b8|", "SET_PERMS OK|"),
      Exchange(0, .getPermissions, "/a|", "GET_PERMS n5|r6|w7|b8|"),
      Exchange(6, .read, "/a|", "READ "),
      Exchange(7, .read, "/a|", "ERROR EACCES|"),
      Exchange(7, .write, "/a|x", "WRITE OK|"),
      Exchange(6, .write, "/a|x", "ERROR EACCES|"),
      Exchange(8, .write, "/a/b|x", "WRITE OK|"),
      Exchange(8, .getPermissions, "/a/b|", "GET_PERMS n8|r6|w7|b8|"),
      Exchange(9, .read, "/a|", "ERROR EACCES|"),
      Exchange(9, .read, "/a/none|", "ERROR EACCES|"),
      Exchange(6, .read, "/a/none|", "ERROR ENOENT|"),
      Exchange(5, .setPermissions, "/a|n5|", "SET_PERMS OK|"),
      Exchange(5, .setPermissions, "/a|n6|", "ERROR EPERM|"),
      Exchange(6, .setPermissions, "/a|n6|", "ERROR EACCES|"),
      Exchange(0, .setPermissions, "/a|", "ERROR EINVAL|"),
      Exchange(0, .setPermissions, "/a|x5|", "ERROR EINVAL|"),
      Exchange(0, .setPermissions, "/a|n|", "ERROR EINVAL|"),
      Exchange(0, .setPermissions, "/a|n-1|", "ERROR EINVAL|"),
      Exchange(0, .setPermissions, "/a|n32752|", "ERROR ENOENT|"),
      Exchange(0, .setPermissions, "/none|n5|", "ERROR ENOENT|"),
      Exchange(0, .setPermissions, "@releaseDomain|n0|r5|", "SET_PERMS OK|"),
      Exchange(0, .getPermissions, "@releaseDomain|", "GET_PERMS n0|r5|"),
      Exchange(5, .setPermissions, "/a|n5|r1|r2|r3|r4|", "SET_PERMS OK|"),
      Exchange(5, .setPermissions, "/a|n5|r1|r2|r3|r4|r6|", "ERROR ENOSPC|"),
    ])
  }

  @Test("answers transaction requests byte for byte")
  func transactions() {
    play([
      Exchange(0, .transactionStart, "|", "TRANSACTION_START 1|"),
      Exchange(0, .transactionStart, "|", "TRANSACTION_START 2|"),
      Exchange(0, .transactionStart, "|", "ERROR EBUSY|", in: 1),
      Exchange(0, .write, "/a|1", "WRITE OK|", in: 1),
      Exchange(0, .read, "/a|", "READ 1", in: 1),
      Exchange(0, .read, "/a|", "ERROR ENOENT|", in: 2),
      Exchange(0, .read, "/a|", "ERROR ENOENT|"),
      Exchange(0, .read, "/a|", "ERROR ENOENT|", in: 3),
      Exchange(0, .transactionEnd, "X|", "ERROR EINVAL|", in: 1),
      Exchange(0, .transactionEnd, "T|", "TRANSACTION_END OK|", in: 1),
      Exchange(0, .transactionEnd, "T|", "ERROR ENOENT|", in: 1),
      Exchange(0, .transactionEnd, "T|", "ERROR EAGAIN|", in: 2),
      Exchange(0, .transactionEnd, "T|", "ERROR ENOENT|", in: 2),
      Exchange(0, .transactionEnd, "T|", "ERROR ENOENT|"),
      Exchange(0, .transactionStart, "|", "TRANSACTION_START 3|"),
      Exchange(0, .watch, "/a|t|", "WATCH OK|", in: 99),
      Exchange(0, .resetWatches, "|", "RESET_WATCHES OK|"),
      Exchange(0, .transactionEnd, "F|", "ERROR ENOENT|", in: 3),
    ])
  }

  @Test("answers requests about domains byte for byte")
  func domains() {
    play([
      Exchange(0, .getDomainPath, "7|", "GET_DOMAIN_PATH /local/domain/7|"),
      Exchange(0, .getDomainPath, "x|", "ERROR EINVAL|"),
      Exchange(0, .isDomainIntroduced, "7|", "IS_DOMAIN_INTRODUCED F|"),
      Exchange(0, .release, "7|", "ERROR ENOENT|"),
      Exchange(0, .introduce, "7|1|0|", "ERROR EINVAL|"),
      Exchange(0, .introduce, "7|1|", "ERROR EINVAL|"),
      Exchange(0, .introduce, "7|1|2|", "INTRODUCE OK|"),
      Exchange(0, .isDomainIntroduced, "7|", "IS_DOMAIN_INTRODUCED T|"),
      Exchange(0, .isDomainIntroduced, "32752|", "IS_DOMAIN_INTRODUCED T|"),
      Exchange(0, .resume, "7|", "RESUME OK|"),
      Exchange(0, .setTarget, "7|8|", "ERROR ENOENT|"),
      Exchange(0, .introduce, "8|1|2|", "INTRODUCE OK|"),
      Exchange(0, .setTarget, "7|8|", "SET_TARGET OK|"),
      Exchange(0, .write, "/x|y", "WRITE OK|"),
      Exchange(0, .setPermissions, "/x|n0|r8|", "SET_PERMS OK|"),
      Exchange(7, .read, "/x|", "READ y"),
      Exchange(0, .release, "0|", "ERROR EINVAL|"),
      Exchange(0, .release, "8|", "RELEASE OK|"),
      Exchange(7, .read, "/x|", "ERROR EACCES|"),
      Exchange(7, .release, "8|", "ERROR EACCES|"),
      Exchange(7, .introduce, "8|1|1|", "ERROR EACCES|"),
      Exchange(7, .isDomainIntroduced, "8|", "ERROR EACCES|"),
      Exchange(7, .control, "check|", "ERROR EACCES|"),
      Exchange(7, .setQuota, "nodes|1|", "ERROR EACCES|"),
      Exchange(7, .getQuota, "nodes|", "ERROR EACCES|"),
      Exchange(7, .getDomainPath, "8|", "GET_DOMAIN_PATH /local/domain/8|"),
    ])
  }

  @Test("answers requests about features and quotas byte for byte")
  func settings() {
    play([
      Exchange(7, .getFeature, "", "GET_FEATURE 15|"),
      Exchange(7, .getFeature, "7|", "ERROR EACCES|"),
      Exchange(0, .getFeature, "9|", "GET_FEATURE 15|"),
      Exchange(0, .setFeature, "9|2|", "SET_FEATURE OK|"),
      Exchange(0, .setFeature, "9|16|", "ERROR EINVAL|"),
      Exchange(9, .getFeature, "", "GET_FEATURE 2|"),
      Exchange(9, .watch, "x|t|1|", "ERROR EINVAL|"),
      Exchange(0, .introduce, "9|1|2|", "INTRODUCE OK|"),
      Exchange(0, .setFeature, "9|2|", "ERROR EBUSY|"),
      Exchange(
        0, .getQuota, "",
        "GET_QUOTA nodes watches outstanding memory soft-memory transactions transaction-nodes node-permissions "
          + "path-max node-size|"),
      Exchange(0, .getQuota, "nodes|", "GET_QUOTA 1000|"),
      Exchange(0, .getQuota, "soft-memory|", "GET_QUOTA 2097152|"),
      Exchange(0, .getQuota, "bogus|", "ERROR EINVAL|"),
      Exchange(0, .setQuota, "9|nodes|2|", "SET_QUOTA OK|"),
      Exchange(0, .getQuota, "9|nodes|", "GET_QUOTA 2|"),
      Exchange(0, .getQuota, "nodes|", "GET_QUOTA 1000|"),
      Exchange(0, .setQuota, "nodes|-1|", "ERROR EINVAL|"),
      Exchange(0, .control, "quota|set|watches|3|", "CONTROL OK|"),
      Exchange(0, .getQuota, "watches|", "GET_QUOTA 3|"),
      Exchange(0, .control, "check|", "CONTROL OK|"),
      Exchange(0, .control, "print|hello|", "CONTROL OK|"),
      Exchange(0, .control, "bogus|", "ERROR EINVAL|"),
      Exchange(
        0, .control, "quota-soft|",
        "CONTROL Quota settings:\nmemory           :  2097152 Total Xenstore memory per domain\n|"),
    ])
  }

  @Test("answers ENOSYS to what does not exist", arguments: [15, 16, 20, 27, 65535, 0xFFFF_FFFF] as [UInt32])
  func unknown(type: UInt32) {
    #expect(WireClient(StoreServer()).ask(type, "/a\0") == "ERROR ENOSYS|")
  }

  @Test("the first event comes behind the OK of its watch, a writer's own events before the OK of its write")
  func eventOrder() {
    let client = WireClient(StoreServer())
    client.session.receive(WireClient.message(4, "/a\0t\0", request: 1) + WireClient.message(11, "/a\0v", request: 2))
    let types = headers(client.session.outputBytes).map { $0.type.rawValue }
    #expect(types == [4, 15, 15, 11])
    #expect(headers(client.session.outputBytes).map(\.requestID) == [1, 0, 0, 2])
  }

  private func headers(_ bytes: ArraySlice<UInt8>) -> [StoreMessageHeader] {
    var rest = bytes
    var found: [StoreMessageHeader] = []
    while let header = StoreMessageHeader(rest) {
      found.append(header)
      rest = rest.dropFirst(16 + Int(header.payloadByteCount))
    }
    return found
  }

  @Test("watches answer as xenstored's do: duplicates, unknown ones, depth, special paths")
  func watches() {
    let server = StoreServer()
    let client = WireClient(server), guest = WireClient(server, as: 3)
    #expect(client.ask(.watch, "/a\0t\0") == "WATCH OK|")
    #expect(client.ask(.watch, "/a\0t\0") == "ERROR EEXIST|")
    #expect(client.ask(.watch, "/a\0t2\00\0") == "WATCH OK|")
    #expect(client.ask(.watch, "/a\0t3\0-1\0") == "ERROR EINVAL|")
    #expect(client.ask(.watch, "/a\0") == "ERROR EINVAL|")
    #expect(client.ask(.unwatch, "/a\0nope\0") == "ERROR ENOENT|")
    #expect(client.ask(.watch, "@introduceDomain\0i\0") == "WATCH OK|")
    #expect(client.ask(.watch, "@introduceDomain\0id\01\0") == "WATCH OK|")
    #expect(client.ask(.watch, "@releaseDomain/5\0r5\0") == "WATCH OK|")
    #expect(guest.ask(.watch, "@introduceDomain\0i\0") == "WATCH OK|")
    #expect(
      client.takeEvents() == ["/a t", "/a t2", "@introduceDomain i", "@introduceDomain id", "@releaseDomain/5 r5"])
    _ = guest.takeEvents()
    for domain in [5, 6] { #expect(client.ask(.introduce, "\(domain)\01\02\0") == "INTRODUCE OK|") }
    #expect(
      client.takeEvents() == [
        "@introduceDomain i", "@introduceDomain/5 id", "@introduceDomain i", "@introduceDomain/6 id",
      ])
    #expect(client.ask(.release, "6\0") == "RELEASE OK|")
    #expect(client.ask(.release, "5\0") == "RELEASE OK|")
    #expect(client.takeEvents() == ["@releaseDomain/5 r5"])
    #expect(guest.takeEvents() == [], "domains come and go in private")
  }

  @Test("byte by byte or all at once, the answers are the same")
  func fragmentation() {
    let script: [(UInt32, String)] = [(11, "/a/b\0x"), (2, "/a/b\0"), (1, "/a\0"), (6, "\0"), (2, "/none\0")]
    let bytes = script.enumerated().flatMap { WireClient.message($1.0, $1.1, request: UInt32($0)) }
    let whole = WireClient(StoreServer()), parts = WireClient(StoreServer())
    whole.session.receive(bytes)
    for byte in bytes { parts.session.receive([byte]) }
    #expect(Array(whole.session.outputBytes) == Array(parts.session.outputBytes))
    #expect(whole.replies().count == script.count)
  }

  @Test("messages look as Xen's own headers lay them out")
  func goldenBytes() {
    #expect(
      WireClient.message(11, "/a/b\0xyz", transaction: 2, request: 1)
        == Self.bytes("0b0000000100000002000000080000002f612f620078797a"))
    let client = WireClient(StoreServer())
    client.session.receive(WireClient.message(2, "/none\0", request: 16))
    #expect(Array(client.session.outputBytes) == Self.bytes("10000000100000000000000007000000454e4f454e5400"))
  }

  private static func bytes(_ hex: String) -> [UInt8] {
    stride(from: 0, to: hex.count, by: 2).map { offset in
      UInt8(hex.dropFirst(offset).prefix(2), radix: 16) ?? 0
    }
  }
}
