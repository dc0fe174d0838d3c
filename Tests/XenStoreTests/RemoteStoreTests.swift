// SPDX-License-Identifier: MIT

import Glibc
import PVTestSupport
import Synchronization
import Testing
import XenStore
import XenWire

@Suite("A driver's handle on a store elsewhere")
struct RemoteStoreTests {
  let folder: TemporaryFolder
  let server = StoreServer()
  let socket: StoreSocketServer

  init() throws {
    folder = try TemporaryFolder()
    socket = try StoreSocketServer(server: server, path: folder.path + "/socket")
  }

  /// A handle on a connection of its own, with a thread that listens.
  func connect() throws -> RemoteStore { try RemoteStore(patient: socket.path) }

  /// Waits for a condition, for as long as a busy machine may need.
  func wait(until condition: () -> Bool) -> Bool { Patience.wait(until: condition) }

  /// The same calls through the protocol, whichever store answers.
  func exercise(_ store: any StoreHandle) throws -> [String] {
    var log: [String] = []
    try store.write("/drv/a", "1")
    try store.makeDirectory("/drv/b", in: nil)
    log += try store.directory("/drv", in: nil)
    try store.transaction { (transaction) throws(StoreError) in
      try store.write("/drv/c", try store.read("/drv/a", in: transaction) + "2", in: transaction)
    }
    log.append(try store.read("/drv/c"))
    try store.setPermissions("/drv/c", StorePermissions(owner: DomainID(rawValue: 3)), in: nil)
    log.append("\(try store.permissions("/drv/c", in: nil))")
    try store.remove("/drv/a", in: nil)
    log.append("\(try store.exists("/drv/a", in: nil))")
    do throws(StoreError) { _ = try store.read("/drv/a") } catch { log.append(error.wireName) }
    try store.watch("/drv", token: "a/b c")
    while let event = store.nextEvent() { log.append("\(event.path) \(event.token)") }
    try store.unwatch("/drv", token: "a/b c")
    do throws(StoreError) { try store.unwatch("/drv", token: "a/b c") } catch { log.append(error.wireName) }
    return log
  }

  @Test("answers what the store in the same process answers")
  func sameAnswers() throws {
    let near = try exercise(StoreServer().connect(as: .control))
    #expect(try exercise(try connect()) == near)
    #expect(near == ["a", "b", "12", "n3", "false", "ENOENT", "/drv a/b c", "ENOENT"])
  }

  @Test("handles that share a connection have watches and events of their own")
  func shares() throws {
    let one = try connect()
    let two = one.share()
    try one.watch("/a", token: "t")
    try two.watch("/b", token: "t")
    let tools = server.connect(as: .control)
    #expect(wait { one.nextEvent() == WatchEvent(path: "/a", token: "t") })
    #expect(wait { two.nextEvent() == WatchEvent(path: "/b", token: "t") })
    try tools.write("/b", "")
    #expect(wait { two.nextEvent() == WatchEvent(path: "/b", token: "t") })
    #expect(one.nextEvent() == nil)
    two.close()
    #expect(server.statistics.watches == 1)
    try tools.write("/a", "")
    #expect(wait { one.nextEvent() == WatchEvent(path: "/a", token: "t") })
  }

  @Test("the handler hears of every change, also of those that come while a call waits for its answer")
  func handler() throws {
    let store = try connect()
    let seen = Mutex<Set<String>>([])
    store.onEvents { [weak store] in
      while let event = store?.nextEvent() { _ = seen.withLock { $0.insert(event.path) } }
    }
    try store.watch("/n", token: "t")
    let tools = server.connect(as: .control)
    for index in 0..<200 {
      try tools.write("/n/\(index)", "")
      if index % 3 == 0 { _ = try store.read("/n/\(index)") }
    }
    #expect(wait { seen.withLock { $0.count } == 201 })
    store.onEvents(nil)
  }

  @Test("calls from several threads each get their own answer")
  func threads() throws {
    let store = try connect()
    let wrong = Atomic(0)
    let threads = (0..<4).map { thread in
      TestThread {
        for index in 0..<100 {
          do throws(StoreError) {
            try store.write("/t\(thread)", "\(index)")
            if try store.read("/t\(thread)") != "\(index)" { wrong.add(1, ordering: .relaxed) }
          } catch { wrong.add(1, ordering: .relaxed) }
        }
      }
    }
    for thread in threads { thread.join() }
    #expect(wrong.load(ordering: .relaxed) == 0)
  }

  @Test("a store that goes away is told to the handler; calls are answered EIO")
  func gone() throws {
    let store = try connect()
    let told = Atomic(0)
    store.onEvents { told.add(1, ordering: .relaxed) }
    socket.stop()
    #expect(wait { store.isBroken && told.load(ordering: .relaxed) > 0 })
    #expect(throws: StoreError.inputOutput) { try store.read("/") }
  }
}
