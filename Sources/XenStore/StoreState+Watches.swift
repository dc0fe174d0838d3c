// SPDX-License-Identifier: MIT

import XenWire

/// Which watches a change concerns.
enum WatchMatch: Sendable {
  /// Those of the very path: something below a removed node went with it.
  case exact
  /// Those of the path and of its ancestors, as deep as they look.
  case subtree
  /// Those of a special path that ask for no depth.
  case specialPlain
  /// Those of a special path that ask for depth, and those of one domain's own special path.
  case specialDomain
}

/// What tells a connection's watches apart.
struct WatchKey: Hashable, Sendable {
  let path: StorePath
  let token: String
  /// What the watch costs the memory quota.
  var byteCount: Int { path.byteCount + token.utf8.count }
}

/// One registered watch.
struct WatchRecord: Sendable {
  let connection: ConnectionID
  let path: StorePath
  let token: String
  /// How many levels below the path count; nil for all.
  let depth: Int?
  /// The bytes at the front of an event's path that the watcher left out.
  let prefixByteCount: Int
}

/// All watches, found by path in as many steps as the path has parts.
struct WatchIndex: Sendable {
  private(set) var records: [UInt64: WatchRecord] = [:]
  private var byPath: [StorePath: [UInt64]] = [:]
  private var lastNumber: UInt64 = 0

  var isEmpty: Bool { records.isEmpty }

  /// Adds a watch and answers its number; later watches have larger numbers.
  mutating func insert(_ record: WatchRecord) -> UInt64 {
    lastNumber += 1
    records[lastNumber] = record
    byPath[record.path, default: []].append(lastNumber)
    return lastNumber
  }

  mutating func remove(_ number: UInt64, at path: StorePath) {
    records[number] = nil
    byPath[path]?.removeAll { $0 == number }
    if byPath[path]?.isEmpty == true { byPath[path] = nil }
  }

  /// The watches that a change concerns, oldest first.
  func concerned(by path: StorePath, _ match: WatchMatch) -> [UInt64] {
    switch match {
    case .exact: return byPath[path] ?? []
    case .specialPlain: return (byPath[path] ?? []).filter { records[$0]?.depth == nil }
    case .specialDomain:
      guard let slash = path.string.utf8.firstIndex(of: UInt8(ascii: "/")) else { return [] }
      let plain = StorePath(unchecked: String(path.string[..<slash]))
      let deep = (byPath[plain] ?? []).filter { (records[$0]?.depth ?? 0) > 0 }
      return ((byPath[path] ?? []) + deep).sorted()
    case .subtree:
      var found = byPath[path] ?? []
      var isMixed = false
      var distance = 0
      var cursor = path.parent
      while let ancestor = cursor {
        distance += 1
        for number in byPath[ancestor] ?? [] where (records[number]?.depth ?? .max) >= distance {
          found.append(number)
          isMixed = true
        }
        cursor = ancestor.parent
      }
      return isMixed && found.count > 1 ? found.sorted() : found
    }
  }
}

extension StoreState {
  mutating func watch(
    _ name: some StorePathName, token: String, depth: Int?, _ caller: StoreCaller
  ) throws(StoreError) {
    if let depth, depth < 0 { throw .invalid }
    guard !token.utf8.contains(0) else { throw .invalid }
    let path = try resolve(name, caller, allowsSpecial: true)
    guard token.utf8.count <= StoreMessageHeader.maximumPayload else { throw .invalid }
    let key = WatchKey(path: path, token: token)
    guard connections[caller.connection]?.watches[key] == nil else { throw .exists }
    let count = domains[caller.domain]?[.watches] ?? 0
    if isExceeded(.watches, by: count + 1, caller) { throw .noSpace }
    if isMemoryShort(key.byteCount, caller) { throw .noMemory }
    let prefix = name.isRelative ? caller.home.byteCount + 1 : 0
    let record = WatchRecord(
      connection: caller.connection, path: path, token: token, depth: depth, prefixByteCount: prefix)
    let number = watches.insert(record)
    connections[caller.connection]?.watches[key] = number
    domains[caller.domain]?.add(.watches, 1)
    domains[caller.domain]?.add(.memory, key.byteCount)
    enqueue(WatchEvent(path: path.text(without: prefix), token: token), for: caller.connection, cause: 0)
  }

  mutating func unwatch(_ name: some StorePathName, token: String, _ caller: StoreCaller) throws(StoreError) {
    // xenstored does not ask whether the path is well-formed: it has no such watch.
    guard let path = try? resolve(name, caller, allowsSpecial: true) else { throw .noSuchEntry }
    let key = WatchKey(path: path, token: token)
    guard let number = connections[caller.connection]?.watches.removeValue(forKey: key) else { throw .noSuchEntry }
    watches.remove(number, at: path)
    domains[caller.domain]?.add(.watches, -1)
    domains[caller.domain]?.add(.memory, -key.byteCount)
  }

  /// Says that a node was created, written or given other permissions; inside a transaction it is said at the end.
  mutating func fire(
    _ path: StorePath, _ match: WatchMatch, old: StoreNode?, _ caller: StoreCaller
  ) throws(StoreError) {
    guard caller.transaction == nil else { return postpone(path, match, caller) }
    guard !watches.isEmpty else { return }
    deliver(path, match, node: tree[path], old: old)
  }

  /// Says that a node was removed; inside a transaction it is said at the end.
  mutating func fire(
    _ path: StorePath, _ match: WatchMatch, removed node: StoreNode, _ caller: StoreCaller
  ) throws(StoreError) {
    guard caller.transaction == nil else { return postpone(path, match, caller) }
    deliver(path, match, node: node, old: nil)
  }

  private mutating func postpone(_ path: StorePath, _ match: WatchMatch, _ caller: StoreCaller) {
    guard let transaction = caller.transaction else { return }
    let before = connections[caller.connection]?.transactions[transaction]?.accessed[path]?.match
    if before == nil || match == .subtree {
      connections[caller.connection]?.transactions[transaction]?.accessed[path]?.match = match
    }
  }

  /// Queues an event for every watch that a change concerns and whose owner may know of it (XSA-115).
  mutating func deliver(_ path: StorePath, _ match: WatchMatch, node: StoreNode?, old: StoreNode?) {
    guard !watches.isEmpty else { return }
    let numbers = watches.concerned(by: path, match)
    guard !numbers.isEmpty else { return }
    let parent = path.parent.flatMap { tree[$0] }
    for number in numbers {
      guard let watch = watches.records[number],
        mayKnow(watch.connection, [old, node, parent])
      else { continue }
      let event = WatchEvent(path: path.text(without: watch.prefixByteCount), token: watch.token)
      enqueue(event, for: watch.connection, cause: requests.current)
    }
  }

  /// Whether a connection may read one of the nodes.
  private func mayKnow(_ connection: ConnectionID, _ nodes: [StoreNode?]) -> Bool {
    guard let watcher = try? caller(connection, in: nil) else { return false }
    if watcher.isPrivileged || faults.has(.watchesTellAll) { return true }
    for case let node? in nodes where access(of: watcher, to: node).contains(.read) { return true }
    return false
  }

  /// Puts an event behind those that a connection has not fetched yet.
  ///
  /// An event that is longer than a message is dropped (XSA-324), one that waits already is not queued twice, and one
  /// that the domain has no memory left for is dropped (XSA-326).
  private mutating func enqueue(_ event: WatchEvent, for connection: ConnectionID, cause: UInt64) {
    let bytes = event.messageByteCount
    let fits = bytes <= StoreMessageHeader.byteCount + StoreMessageHeader.maximumPayload
    guard fits || faults.has(.longEventQueued),
      let identity = connections[connection]?.identity
    else { return }
    if !identity.isPrivileged, let domain = domains[identity.domain],
      domain.quotas.isExceeded(.memory, by: domain[.memory] + bytes)
    {
      return
    }
    let since = identity.isPrivileged ? 0 : now()
    let entry = EventQueue.Entry(event: event, cause: cause, since: since)
    switch connections[connection]?.offer(entry, merges: !faults.has(.eventsNotMerged)) {
    case .ignored, nil: return
    case .overrun(let handler):
      if let handler { wake(handler) }
    case .queued(let handler):
      if let handler { wake(handler) }
      waitingEvents += 1
      domains[identity.domain]?.add(.memory, bytes)
      requests.hold(cause)
    }
  }

  /// Takes the oldest event of a connection.
  mutating func nextEvent(_ connection: ConnectionID) -> WatchEvent? {
    guard waitingEvents > 0, let entry = connections[connection]?.events.popFirst(),
      let domain = connections[connection]?.domain
    else { return nil }
    waitingEvents -= 1
    domains[domain]?.add(.memory, -entry.event.messageByteCount)
    settle(entry.cause)
    return entry.event
  }

  /// Drops the events that an unprivileged connection has left waiting for longer than ``eventPatience``.
  mutating func expireEvents(of connection: ConnectionID) {
    guard eventPatience > 0 else { return }
    let time = now()
    while let first = connections[connection]?.events.first, first.since != 0, first.since + eventPatience <= time {
      _ = nextEvent(connection)
    }
  }
}

extension StorePath {
  /// The text behind a watcher's own prefix.
  fileprivate func text(without prefixByteCount: Int) -> String {
    guard prefixByteCount > 0 else { return string }
    return String(string.utf8.dropFirst(prefixByteCount)) ?? ""
  }
}
