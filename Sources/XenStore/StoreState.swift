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
  /// The events that wait at all connections together.
  var waitingEvents = 0
  var watches = WatchIndex()
  /// The nodes whose permissions name a domain other than the control domain.
  var mentions: [DomainID: Set<StorePath>] = [:]
  /// Connections of guests that a saved state told of and that nobody has taken up yet.
  var vacant: [DomainID: ConnectionID] = [:]
  /// The limits that new domains start with.
  var quotas: StoreQuotas
  /// How long an unprivileged client may leave an event untaken before it is dropped, in nanoseconds; 0 for ever.
  var eventPatience: UInt64 = 20_000_000_000
  /// Nodes of a domain that is gone become the control domain's, instead of going with it.
  var keepsOrphans = false
  /// The number of open transactions of all connections.
  var transactionCount = 0
  /// Requests of unprivileged clients whose replies and events have not all been taken.
  var requests = RequestLedger()
  var requestOwners: [UInt64: DomainID] = [:]
  /// Connections whose requests wait for a quota of their domain.
  var stalled: [DomainID: Set<ConnectionID>] = [:]
  /// Write credit that no domain holds at the moment.
  var writeReserve = WriteCredit.initialReserve
  /// The last long child list that was asked for in parts.
  var listing: ChildListing?
  /// A clock in nanoseconds that never goes back.
  let now: @Sendable () -> UInt64
  var lastConnection: UInt64 = 0
  /// Bugs that a test has planted.
  var faults = StoreFaults()
  /// Who must be told that events came, once the lock is free.
  private var wakes: [@Sendable () -> Void] = []

  /// Makes a store with the nodes that a fresh xenstored has.
  init(quotas: StoreQuotas, clock: @escaping @Sendable () -> UInt64) {
    self.quotas = quotas
    now = clock
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
    if !isPrivileged, let id = vacant.removeValue(forKey: domain), connections[id] != nil { return id }
    lastConnection += 1
    let id = ConnectionID(number: lastConnection)
    ensureDomain(domain)
    connections[id] = ConnectionRecord(
      identity: StoreCaller(
        connection: id, domain: domain, isPrivileged: isPrivileged, home: .home(of: domain)))
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
    while nextEvent(id) != nil {}
  }

  /// Drops a connection's watches and transactions (RESET_WATCHES).
  mutating func removeWatchesAndTransactions(of id: ConnectionID) {
    guard let record = connections[id] else { return }
    for (key, number) in record.watches {
      if !faults.has(.secondIndexKept) { watches.remove(number, at: key.path) }
      domains[record.domain]?.add(.watches, -1)
      domains[record.domain]?.add(.memory, -key.byteCount)
    }
    connections[id]?.watches = [:]
    for transaction in record.transactions.keys { dropTransaction(transaction, of: id) }
  }

  /// Who calls, for an operation inside a transaction or outside of any.
  /// - Throws: `EIO` when the connection is closed, `ENOENT` when the transaction does not exist.
  func caller(_ id: ConnectionID, in transaction: TransactionID?) throws(StoreError) -> StoreCaller {
    guard var caller = connections[id]?.identity else { throw .inputOutput }
    if let transaction {
      guard connections[id]?.transactions[transaction] != nil else { throw .noSuchEntry }
      caller.transaction = transaction
    }
    if !caller.isPrivileged { caller.target = domains[caller.domain]?.target }
    return caller
  }

  /// Whether a connection has not been closed, by itself or because its domain was released.
  func isOpen(_ id: ConnectionID) -> Bool { connections.index(forKey: id) != nil }

  /// Makes sure that there is a record of a domain.
  mutating func ensureDomain(_ domain: DomainID) {
    if domains.index(forKey: domain) == nil { domains[domain] = DomainRecord(generation: generation, quotas: quotas) }
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
  var isPrivileged: Bool
  /// A domain whose rights the caller has too (SET_TARGET).
  var target: DomainID?
  let home: StorePath
  var transaction: TransactionID?

  /// Whether an entry for `domain` is about the caller.
  func isMeant(by domain: DomainID) -> Bool { domain == self.domain || domain == target || domain == .any }
}

/// What the store keeps for one connection.
struct ConnectionRecord: Sendable {
  /// The connection as a caller outside of transactions.
  let identity: StoreCaller
  var watches: [WatchKey: UInt64] = [:]
  var transactions: [TransactionID: OpenTransaction] = [:]
  var nextTransaction: UInt32 = 1
  var events = EventQueue()
  var handler: (@Sendable () -> Void)?
  /// The most bytes of undelivered events that a privileged connection may pile up; nil for no limit.
  var eventLimit: Int?
  /// More events came than the connection may pile up: they are lost and it must be closed.
  var isOverrun = false

  var domain: DomainID { identity.domain }
  var isPrivileged: Bool { identity.isPrivileged }

  init(identity: StoreCaller) { self.identity = identity }

  /// What became of an event.
  enum Outcome {
    /// It waits already, or nothing can be delivered any more.
    case ignored
    /// It waits, or was one too many; the handler is given if it must be called.
    case queued((@Sendable () -> Void)?)
    case overrun((@Sendable () -> Void)?)
  }

  mutating func offer(_ entry: EventQueue.Entry, merges: Bool) -> Outcome {
    if isOverrun || merges && events.holds(entry.event) { return .ignored }
    if let eventLimit, events.byteCount + entry.event.messageByteCount > eventLimit {
      isOverrun = true
      return .overrun(handler)
    }
    let wasEmpty = events.isEmpty
    events.append(entry)
    return .queued(wasEmpty ? handler : nil)
  }
}
