// SPDX-License-Identifier: MIT

import Synchronization
import Testing
import XenStore
import XenWire

@Suite("A store connection")
struct StoreConnectionTests {
  let server = StoreServer()
  let control: StoreConnection
  let guest: StoreConnection
  static let one = DomainID(rawValue: 1)
  static let two = DomainID(rawValue: 2)

  init() throws {
    control = server.connect(as: .control)
    guest = server.connect(as: Self.one)
    try server.introduce(Self.one)
    try control.makeDirectory("/local/domain/1")
    try control.setPermissions("/local/domain/1", StorePermissions(owner: Self.one))
    while control.nextEvent() != nil {}
  }

  @Test("reads what was written, and creates the missing ancestors with empty values")
  func writesAndReads() throws {
    try control.write("/a/b/c", "value")
    #expect(try control.read("/a/b/c") == "value")
    #expect(try control.read("/a/b") == "")
    #expect(try control.directory("/a") == ["b"])
  }

  @Test("lists children in the order of their creation, few or many")
  func listsInOrder() throws {
    let names = (0..<200).map { "n\(($0 * 37) % 200)" }
    for name in names { try control.write("/d/\(name)", "") }
    #expect(try control.directory("/d") == names)
    try control.remove("/d/n37")
    try control.write("/d/n37", "")
    #expect(try control.directory("/d") == names.filter { $0 != "n37" } + ["n37"])
  }

  @Test("resolves relative paths in the domain's home, and reports them relative")
  func relativePaths() throws {
    try guest.watch("device", token: "t")
    #expect(guest.nextEvent() == WatchEvent(path: "device", token: "t"))
    try guest.write("device/x", "1")
    #expect(try control.read("/local/domain/1/device/x") == "1")
    #expect(guest.nextEvent() == WatchEvent(path: "device/x", token: "t"))
  }

  @Test("a missing node is ENOENT to those who may read the nearest ancestor, EACCES to others")
  func missingNodes() throws {
    #expect(throws: StoreError.noSuchEntry) { try control.read("/a/b") }
    #expect(throws: StoreError.access) { try guest.read("/a/b") }
    #expect(throws: StoreError.noSuchEntry) { try guest.read("device/vbd") }
    #expect(try guest.exists("device/vbd") == false)
  }

  @Test("removing goes all the way down; a missing node is fine when its parent exists")
  func removes() throws {
    try control.write("/a/b/c/d", "")
    try control.remove("/a/b")
    #expect(try control.exists("/a/b/c/d") == false)
    #expect(try control.directory("/a") == [])
    try control.remove("/a/b")
    #expect(throws: StoreError.noSuchEntry) { try control.remove("/a/b/c") }
    #expect(throws: StoreError.invalid) { try control.remove("/") }
  }

  @Test("a guest owns what it creates, with the parent's other permissions")
  func inheritance() throws {
    try control.setPermissions(
      "/local/domain/1", StorePermissions(owner: Self.one, [StorePermission(.both, Self.two)]))
    let other = server.connect(as: Self.two)
    try other.write("/local/domain/1/x", "")
    #expect(try control.permissions("/local/domain/1/x").description == "n2 b2")
    try control.write("/local/domain/1/y", "")
    #expect(try control.permissions("/local/domain/1/y").description == "n1 b2")
  }

  @Test("only the owner changes permissions, and gives nothing away")
  func changesPermissions() throws {
    try control.write("/local/domain/1/x", "")
    try guest.setPermissions("x", StorePermissions(owner: Self.one, [StorePermission(.read, Self.two)]))
    let other = server.connect(as: Self.two)
    #expect(try other.read("/local/domain/1/x") == "")
    #expect(throws: StoreError.access) { try other.write("/local/domain/1/x", "") }
    #expect(throws: StoreError.access) {
      try other.setPermissions("/local/domain/1/x", StorePermissions(owner: Self.two))
    }
    #expect(throws: StoreError.notPermitted) {
      try guest.setPermissions("x", StorePermissions(owner: Self.two))
    }
  }

  @Test("a watch fires at registration, on the same value, below, and on removal of an ancestor with its own path")
  func watches() throws {
    try control.watch("/a/b", token: "t")
    #expect(control.nextEvent() == WatchEvent(path: "/a/b", token: "t"))
    try control.write("/a/b/c", "1")
    #expect(control.nextEvent()?.path == "/a/b/c")
    try control.write("/a/b/c", "1")
    #expect(control.nextEvent()?.path == "/a/b/c")
    try control.remove("/a")
    #expect(control.nextEvent()?.path == "/a/b")
    #expect(control.nextEvent() == nil)
    #expect(throws: StoreError.exists) { try control.watch("/a/b", token: "t") }
    try control.unwatch("/a/b", token: "t")
    #expect(throws: StoreError.noSuchEntry) { try control.unwatch("/a/b", token: "t") }
  }

  @Test("a watch with depth looks no deeper")
  func watchDepth() throws {
    try control.watch("/a", token: "0", depth: 0)
    try control.watch("/a", token: "1", depth: 1)
    while control.nextEvent() != nil {}
    try control.write("/a/b/c", "")
    #expect(control.nextEvent() == nil)
    try control.write("/a/b", "")
    #expect(control.nextEvent() == WatchEvent(path: "/a/b", token: "1"))
    try control.write("/a", "")
    #expect(control.nextEvent()?.token == "0")
    #expect(control.nextEvent()?.token == "1")
    #expect(throws: StoreError.invalid) { try control.watch("/a", token: "2", depth: -1) }
  }

  @Test("a transaction is seen by nobody until it commits, and its events come then")
  func transactionIsolation() throws {
    try control.watch("/a", token: "t")
    _ = control.nextEvent()
    let other = server.connect(as: .control)
    let transaction = try other.startTransaction()
    try other.write("/a", "1", in: transaction)
    #expect(try other.read("/a", in: transaction) == "1")
    #expect(try control.exists("/a") == false)
    #expect(control.nextEvent() == nil)
    try other.endTransaction(transaction, commit: true)
    #expect(try control.read("/a") == "1")
    #expect(control.nextEvent()?.path == "/a")
    #expect(throws: StoreError.noSuchEntry) { try other.read("/a", in: transaction) }
  }

  @Test("an aborted transaction leaves nothing behind")
  func transactionAbort() throws {
    let transaction = try control.startTransaction()
    try control.write("/a/b", "1", in: transaction)
    try control.endTransaction(transaction, commit: false)
    #expect(try control.exists("/a") == false)
  }

  @Test("whatever was touched first and has changed since makes the commit fail; what was not touched does not")
  func transactionConflicts() throws {
    try control.write("/a", "1")
    try control.write("/b", "1")
    let other = server.connect(as: .control)
    var transaction = try control.startTransaction()
    _ = try control.read("/a", in: transaction)
    try other.write("/b", "2")
    try control.endTransaction(transaction, commit: true)

    transaction = try control.startTransaction()
    _ = try control.read("/a", in: transaction)
    try other.write("/a", "1")
    #expect(try control.read("/a", in: transaction) == "1")
    #expect(throws: StoreError.again) { try control.endTransaction(transaction, commit: true) }

    transaction = try control.startTransaction()
    #expect(try control.exists("/c", in: transaction) == false)
    try other.write("/c", "")
    #expect(throws: StoreError.again) { try control.endTransaction(transaction, commit: true) }
  }

  @Test("two transactions that add different children to one parent conflict")
  func transactionSiblings() throws {
    try control.makeDirectory("/p")
    let first = try control.startTransaction(), second = try control.startTransaction()
    try control.write("/p/1", "", in: first)
    try control.write("/p/2", "", in: second)
    try control.endTransaction(first, commit: true)
    #expect(throws: StoreError.again) { try control.endTransaction(second, commit: true) }
    #expect(try control.directory("/p") == ["1"])
  }

  @Test("a transaction that saw a parent and its child at different times is told to start over")
  func tornTransaction() throws {
    try control.write("/p/c", "1")
    let other = server.connect(as: .control)
    let first = try control.startTransaction(), second = try control.startTransaction()
    _ = try control.read("/p/c", in: first)
    _ = try control.directory("/p", in: second)
    try other.remove("/p")
    #expect(throws: StoreError.again) { try control.remove("/p/c", in: first) }
    #expect(throws: StoreError.again) { try control.write("/p/c", "2", in: second) }
    #expect(throws: StoreError.again) { try control.remove("/p", in: second) }
    for transaction in [first, second] {
      #expect(throws: StoreError.again) { try control.endTransaction(transaction, commit: true) }
    }
  }

  @Test("the convenience retries a transaction until nobody interferes")
  func transactionRetries() throws {
    try control.write("/n", "0")
    let other = server.connect(as: .control)
    var runs = 0
    let seen = try control.transaction { (transaction) throws(StoreError) -> String in
      runs += 1
      let value = try control.read("/n", in: transaction)
      if runs == 1 { try other.write("/n", "7") }
      try control.write("/n", value + "!", in: transaction)
      return value
    }
    #expect(runs == 2)
    #expect(seen == "7")
    #expect(try control.read("/n") == "7!")
  }

  @Test("a guest hears of nodes that it may read, and of no others")
  func watchPermissions() throws {
    try guest.watch("/", token: "all")
    _ = guest.nextEvent()
    try control.write("/secret", "")
    #expect(guest.nextEvent() == nil)
    try control.setPermissions("/secret", StorePermissions(owner: .control, others: .read))
    #expect(guest.nextEvent()?.path == "/secret")
    try control.setPermissions("/secret", StorePermissions(owner: .control))
    #expect(guest.nextEvent()?.path == "/secret")
    try control.write("/secret", "2")
    #expect(guest.nextEvent() == nil)
  }

  @Test("the handler runs when events begin to wait, outside the lock")
  func handlers() throws {
    let calls = Mutex(0)
    let watcher = control
    watcher.onEvents {
      calls.withLock { $0 += 1 }
      while watcher.nextEvent() != nil {}
    }
    try control.watch("/a", token: "t")
    try control.write("/a", "1")
    #expect(calls.withLock { $0 } == 2)
    watcher.onEvents(nil)
  }

  @Test("a released domain takes its nodes, its rights and its connections with it")
  func release() throws {
    try control.watch(StorePath.releaseDomain, token: "r")
    try control.watch(StorePath.releaseDomain, token: "d", depth: 1)
    while control.nextEvent() != nil {}
    try guest.write("device", "1")
    try control.write("/elsewhere", "1")
    try control.setPermissions("/elsewhere", StorePermissions(owner: .control, [StorePermission(.both, Self.one)]))
    try server.release(Self.one)
    #expect(control.nextEvent() == WatchEvent(path: "@releaseDomain", token: "r"))
    #expect(control.nextEvent() == WatchEvent(path: "@releaseDomain/1", token: "d"))
    #expect(try control.exists("/local/domain/1") == false)
    #expect(try control.permissions("/elsewhere").description == "n0")
    #expect(throws: StoreError.inputOutput) { try guest.read("/elsewhere") }
    let reborn = server.connect(as: Self.one)
    #expect(throws: StoreError.access) { try reborn.read("/elsewhere") }
  }
}
