// SPDX-License-Identifier: MIT

public import XenWire

/// A domain's way into a ``StoreServer`` of the same process.
///
/// Nodes are named by a ``StorePath``, or by text that may be relative to the domain's home. Calls may come from any
/// thread. A connection that is closed, by ``close()`` or because its domain was released, answers `EIO`.
public final class StoreConnection: Sendable {
  let server: StoreServer
  let id: ConnectionID
  /// The domain that the connection speaks for.
  public let domain: DomainID

  init(server: StoreServer, id: ConnectionID, domain: DomainID) {
    self.server = server
    self.id = id
    self.domain = domain
  }

  deinit { close() }

  /// Ends the connection: its watches, transactions and undelivered events are gone.
  public func close() {
    server.perform { state in state.disconnect(id) }
  }

  private func attempt<R: Sendable>(
    in transaction: TransactionID? = nil, isReading: Bool = false,
    _ body: (inout StoreState, StoreCaller) throws(StoreError) -> R
  ) throws(StoreError) -> R {
    if !isReading, let refusal = server.interruption?() { throw refusal }
    return try server.attempt { (state) throws(StoreError) -> R in
      let caller = try state.caller(id, in: transaction)
      return try body(&state, caller)
    }
  }

  // MARK: Nodes

  /// A node's value.
  public func readBytes(_ path: some StorePathName, in transaction: TransactionID? = nil) throws(StoreError) -> [UInt8]
  {
    try attempt(in: transaction, isReading: true) { (state, caller) throws(StoreError) in
      try state.read(try state.resolve(path, caller), caller).value
    }
  }

  /// Whether a node is there.
  /// - Throws: `EACCES` when the domain may not know.
  public func exists(_ path: some StorePathName, in transaction: TransactionID? = nil) throws(StoreError) -> Bool {
    try attempt(in: transaction, isReading: true) { (state, caller) throws(StoreError) in
      try state.lookUp(try state.resolve(path, caller), .read, caller) != nil
    }
  }

  /// The names of a node's children, oldest first.
  public func directory(_ path: some StorePathName, in transaction: TransactionID? = nil) throws(StoreError) -> [String]
  {
    try attempt(in: transaction, isReading: true) { (state, caller) throws(StoreError) in
      try state.read(try state.resolve(path, caller), caller).children.inOrder
    }
  }

  /// Sets a node's value; the node and missing ancestors are created.
  /// - Throws: `E2BIG` when it is longer than a message can carry.
  public func write(
    _ path: some StorePathName, bytes: [UInt8], in transaction: TransactionID? = nil
  ) throws(StoreError) {
    guard bytes.count <= StoreMessageHeader.maximumPayload else { throw .tooBig }
    try attempt(in: transaction) { (state, caller) throws(StoreError) in
      try state.write(try state.resolve(path, caller), bytes, caller)
    }
  }

  /// Creates a node with an empty value, and missing ancestors; a node that exists keeps its value.
  public func makeDirectory(_ path: some StorePathName, in transaction: TransactionID? = nil) throws(StoreError) {
    try attempt(in: transaction) { (state, caller) throws(StoreError) in
      try state.makeDirectory(try state.resolve(path, caller), caller)
    }
  }

  /// Removes a node and everything below it; a node that does not exist is fine if its parent does.
  public func remove(_ path: some StorePathName, in transaction: TransactionID? = nil) throws(StoreError) {
    try attempt(in: transaction) { (state, caller) throws(StoreError) in
      try state.remove(try state.resolve(path, caller), caller)
    }
  }

  /// A node's permissions; special paths are allowed.
  public func permissions(
    _ path: some StorePathName, in transaction: TransactionID? = nil
  ) throws(StoreError) -> StorePermissions {
    try attempt(in: transaction, isReading: true) { (state, caller) throws(StoreError) in
      try state.read(try state.resolve(path, caller, allowsSpecial: true), caller).permissions
    }
  }

  /// Sets a node's permissions; special paths are allowed.
  ///
  /// Only the owner may, and only a privileged connection may change the owner.
  public func setPermissions(
    _ path: some StorePathName, _ permissions: StorePermissions, in transaction: TransactionID? = nil
  ) throws(StoreError) {
    try attempt(in: transaction) { (state, caller) throws(StoreError) in
      try state.setPermissions(try state.resolve(path, caller, allowsSpecial: true), permissions, caller)
    }
  }

  // MARK: Transactions

  /// Opens a transaction: later calls that name it see and change a world of their own until it ends.
  public func startTransaction() throws(StoreError) -> TransactionID {
    try attempt { (state, caller) throws(StoreError) in try state.startTransaction(caller) }
  }

  /// Ends a transaction; its number is dead afterwards, whatever the outcome.
  /// - Throws: `EAGAIN` when it must be redone because somebody changed what it had looked at.
  public func endTransaction(_ transaction: TransactionID, commit: Bool) throws(StoreError) {
    try attempt(in: transaction) { (state, caller) throws(StoreError) in
      try state.endTransaction(caller, commit: commit)
    }
  }

  // MARK: Watches

  /// Asks to be told of changes at a path and below; an event comes at once, even if there is no such node.
  /// - Parameter depth: How many levels below the path count: 0 for the node alone, nil for all.
  public func watch(_ path: some StorePathName, token: String, depth: Int? = nil) throws(StoreError) {
    try attempt { (state, caller) throws(StoreError) in
      try state.watch(path, token: token, depth: depth, caller)
    }
  }

  /// Ends a watch; events of it that wait are still handed out.
  public func unwatch(_ path: some StorePathName, token: String) throws(StoreError) {
    try attempt { (state, caller) throws(StoreError) in try state.unwatch(path, token: token, caller) }
  }

  /// Takes the oldest event; nil when none waits.
  public func nextEvent() -> WatchEvent? {
    server.perform { state in state.nextEvent(id) }
  }

  /// Has a handler called whenever the queue of events stops being empty, and at once if it is not empty now.
  ///
  /// It runs on whatever thread caused the event, with no lock held, and may call the store.
  public func onEvents(_ handler: (@Sendable () -> Void)?) {
    server.perform { state in
      state.connections[id]?.handler = handler
      if let handler, state.connections[id]?.events.isEmpty == false { state.wake(handler) }
    }
  }
}
