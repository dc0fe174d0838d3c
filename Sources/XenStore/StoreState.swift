// SPDX-License-Identifier: MIT

import XenWire

/// Names a connection inside its server.
struct ConnectionID: Hashable, Sendable {
  let number: UInt64
}

/// A transaction's number, private to its connection (the `tx_id` of the wire; never 0).
public struct TransactionID: RawRepresentable, Hashable, Sendable, CustomStringConvertible {
  /// The number.
  public let rawValue: UInt32
  /// Wraps a number.
  public init(rawValue: UInt32) { self.rawValue = rawValue }
  /// The number in decimal.
  public var description: String { "\(rawValue)" }
}

/// What a watch says: something may have changed at `path`.
///
/// Events may be spurious, and one event may stand for several changes: whoever gets one looks again.
public struct WatchEvent: Hashable, Sendable {
  /// The changed path, relative to the caller's home when the watch was registered so.
  public let path: String
  /// The watch's token.
  public let token: String

  /// Makes an event.
  public init(path: String, token: String) {
    self.path = path
    self.token = token
  }

  /// The bytes of the event as a message: header, path, NUL, token, NUL.
  var messageByteCount: Int { 16 + path.utf8.count + token.utf8.count + 2 }
}

/// Everything that the store knows: one value, changed by one operation at a time.
///
/// Nothing in here waits, calls out or knows of threads; ``StoreServer`` guards it with a lock.
///
/// **Invariants.** Each domain's `nodes` and `memory` equal a recount of what is in the tree and in its connections;
/// every generation count given out is larger than all before it.
struct StoreState: Sendable {
  var tree = StoreTree()
  /// The last generation count given out.
  var generation: UInt64 = 0
  var domains: [DomainID: DomainRecord] = [:]
  var connections: [ConnectionID: ConnectionRecord] = [:]
  var watches = WatchIndex()
  /// The nodes whose permissions name a domain other than the control domain.
  var mentions: [DomainID: Set<StorePath>] = [:]
  /// The limits that new domains start with.
  var quotas: StoreQuotas
  private var lastConnection: UInt64 = 0
  /// Who must be told that events came, once the lock is free.
  private var wakes: [@Sendable () -> Void] = []

  /// Makes a store with the nodes that a fresh xenstored has.
  init(quotas: StoreQuotas) {
    self.quotas = quotas
    let closed = StorePermissions(owner: .control)
    domains[.control] = DomainRecord(generation: 0, quotas: quotas, isIntroduced: true)
    for path in [StorePath.root, .introduceDomain, .releaseDomain] {
      put(StoreNode(permissions: closed, generation: 0), at: path)
    }
    for path in [StorePath(unchecked: "/tool"), StorePath(unchecked: "/tool/xenstored")] {
      guard let parent = path.parent, var node = tree[parent] else { preconditionFailure("the root is missing") }
      node.children.append(path.name)
      put(node, at: parent)
      put(StoreNode(permissions: closed, generation: 0), at: path)
    }
  }

  // MARK: Connections

  mutating func connect(as domain: DomainID, isPrivileged: Bool) -> ConnectionID {
    lastConnection += 1
    let id = ConnectionID(number: lastConnection)
    if domains[domain] == nil { domains[domain] = DomainRecord(generation: generation, quotas: quotas) }
    connections[id] = ConnectionRecord(domain: domain, isPrivileged: isPrivileged)
    return id
  }

  /// Closes a connection: its watches, transactions and undelivered events go.
  mutating func disconnect(_ id: ConnectionID) {
    reset(id)
    connections[id] = nil
  }

  /// Drops a connection's watches, transactions and undelivered events.
  mutating func reset(_ id: ConnectionID) {
    removeWatchesAndTransactions(of: id)
    guard let record = connections[id] else { return }
    domains[record.domain]?.memory -= record.events.byteCount
    connections[id]?.events.removeAll()
  }

  /// Drops a connection's watches and transactions (RESET_WATCHES).
  mutating func removeWatchesAndTransactions(of id: ConnectionID) {
    guard let record = connections[id] else { return }
    for (key, number) in record.watches {
      watches.remove(number, at: key.path)
      domains[record.domain]?.watches -= 1
      domains[record.domain]?.memory -= key.byteCount
    }
    connections[id]?.watches = [:]
    for transaction in record.transactions.keys { dropTransaction(transaction, of: id) }
  }

  /// Who calls, for an operation inside a transaction or outside of any.
  /// - Throws: `EIO` when the connection is closed, `ENOENT` when the transaction does not exist.
  func caller(_ id: ConnectionID, in transaction: TransactionID?) throws(StoreError) -> StoreCaller {
    guard let record = connections[id] else { throw .inputOutput }
    if let transaction, record.transactions[transaction] == nil { throw .noSuchEntry }
    return StoreCaller(
      connection: id, domain: record.domain, isPrivileged: record.isPrivileged, target: record.target,
      home: record.home, transaction: transaction)
  }

  /// Notes that a connection's event queue is no longer empty.
  mutating func wake(_ handler: @escaping @Sendable () -> Void) { wakes.append(handler) }

  /// Takes the handlers to be called once the lock is free.
  mutating func takeWakes() -> [@Sendable () -> Void] {
    guard !wakes.isEmpty else { return [] }
    defer { wakes = [] }
    return wakes
  }
}

/// Who asks for an operation, and in which transaction.
struct StoreCaller: Sendable {
  let connection: ConnectionID
  let domain: DomainID
  let isPrivileged: Bool
  /// A domain whose rights the caller has too (SET_TARGET).
  let target: DomainID?
  let home: StorePath
  let transaction: TransactionID?

  /// Whether an entry for `domain` is about the caller.
  func isMeant(by domain: DomainID) -> Bool { domain == self.domain || domain == target || domain == .any }
}

/// What the store keeps for one connection.
struct ConnectionRecord: Sendable {
  let domain: DomainID
  let isPrivileged: Bool
  let home: StorePath
  var target: DomainID?
  var watches: [WatchKey: UInt64] = [:]
  var transactions: [TransactionID: OpenTransaction] = [:]
  var nextTransaction: UInt32 = 1
  var events = EventQueue()
  var handler: (@Sendable () -> Void)?

  init(domain: DomainID, isPrivileged: Bool) {
    self.domain = domain
    self.isPrivileged = isPrivileged
    home = .home(of: domain)
  }
}

/// What the store knows of one domain; a domain that comes back under an old number gets a new record.
struct DomainRecord: Sendable {
  /// The state's generation when the record came to be: permission entries that are older mean an earlier domain.
  let generation: UInt64
  var quotas: StoreQuotas
  var isIntroduced = false
  var isShutDown = false
  /// Nodes that the domain owns.
  var nodes = 0
  var watches = 0
  var transactions = 0
  /// Requests whose replies the domain has not taken yet.
  var outstanding = 0
  /// Bytes of its nodes, watches, transactions and undelivered output.
  var memory = 0

  init(generation: UInt64, quotas: StoreQuotas, isIntroduced: Bool = false) {
    self.generation = generation
    self.quotas = quotas
    self.isIntroduced = isIntroduced
  }
}

/// The events that a connection has not fetched yet, oldest first.
struct EventQueue: Sendable {
  private var events: [WatchEvent] = []
  private var head = 0
  private var pending: Set<WatchEvent> = []
  /// The bytes that the events will have as messages.
  private(set) var byteCount = 0

  var isEmpty: Bool { head == events.count }
  var count: Int { events.count - head }

  /// Whether the same event waits already; special events are told apart even when they look the same.
  func holds(_ event: WatchEvent) -> Bool { pending.contains(event) }

  mutating func append(_ event: WatchEvent) {
    events.append(event)
    if event.path.utf8.first != UInt8(ascii: "@") { pending.insert(event) }
    byteCount += event.messageByteCount
  }

  mutating func popFirst() -> WatchEvent? {
    guard head < events.count else { return nil }
    let event = events[head]
    head += 1
    if head == events.count {
      events.removeAll(keepingCapacity: events.count <= 64)
      head = 0
    } else if head >= 1024, head * 2 >= events.count {
      events.removeFirst(head)
      head = 0
    }
    pending.remove(event)
    byteCount -= event.messageByteCount
    return event
  }

  mutating func removeAll() { self = EventQueue() }
}
