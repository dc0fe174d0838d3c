// SPDX-License-Identifier: MIT

public import XenWire

/// One domain's way into a store, wherever the store is: a ``StoreConnection`` in this process, or a ``RemoteStore`` behind
/// a socket or a ring page (what C calls an `xs_handle`).
///
/// Drivers and tools are written against this, so the same handshake runs here and on a real Xen. Calls may come from any
/// thread.
public protocol StoreHandle: AnyObject, Sendable {
  /// The domain that the handle speaks for; relative paths start at its home.
  var domain: DomainID { get }
  /// A node's value.
  func readBytes(_ path: some StorePathName, in transaction: TransactionID?) throws(StoreError) -> [UInt8]
  /// Sets a node's value; the node and missing ancestors are created.
  func write(_ path: some StorePathName, bytes: [UInt8], in transaction: TransactionID?) throws(StoreError)
  /// Whether a node is there.
  func exists(_ path: some StorePathName, in transaction: TransactionID?) throws(StoreError) -> Bool
  /// The names of a node's children, oldest first.
  func directory(_ path: some StorePathName, in transaction: TransactionID?) throws(StoreError) -> [String]
  /// Creates a node with an empty value; a node that exists keeps its value.
  func makeDirectory(_ path: some StorePathName, in transaction: TransactionID?) throws(StoreError)
  /// Removes a node and everything below it.
  func remove(_ path: some StorePathName, in transaction: TransactionID?) throws(StoreError)
  /// A node's permissions.
  func permissions(_ path: some StorePathName, in transaction: TransactionID?) throws(StoreError) -> StorePermissions
  /// Sets a node's permissions.
  func setPermissions(
    _ path: some StorePathName, _ permissions: StorePermissions, in transaction: TransactionID?) throws(StoreError)
  /// Opens a transaction.
  func startTransaction() throws(StoreError) -> TransactionID
  /// Ends a transaction.
  /// - Throws: `EAGAIN` when it must be redone.
  func endTransaction(_ transaction: TransactionID, commit: Bool) throws(StoreError)
  /// Asks to be told of changes at a path and below.
  func watch(_ path: some StorePathName, token: String, depth: Int?) throws(StoreError)
  /// Ends a watch.
  func unwatch(_ path: some StorePathName, token: String) throws(StoreError)
  /// Takes the oldest event; nil when none waits.
  func nextEvent() -> WatchEvent?
  /// Has a handler called whenever the queue of events stops being empty, and at once if it is not empty now.
  func onEvents(_ handler: (@Sendable () -> Void)?)
  /// Ends the handle's watches, transactions and undelivered events.
  func close()
}

extension StoreHandle {
  /// A node's value as text; bytes that are not UTF-8 are replaced.
  public func read(_ path: some StorePathName, in transaction: TransactionID? = nil) throws(StoreError) -> String {
    String(decoding: try readBytes(path, in: transaction), as: UTF8.self)
  }

  /// Sets a node's value to text.
  public func write(
    _ path: some StorePathName, _ value: String, in transaction: TransactionID? = nil
  ) throws(StoreError) {
    try write(path, bytes: Array(value.utf8), in: transaction)
  }

  /// Sets a node's permissions, outside of transactions.
  public func setPermissions(_ path: some StorePathName, _ permissions: StorePermissions) throws(StoreError) {
    try setPermissions(path, permissions, in: nil)
  }

  /// Creates a node with an empty value, outside of transactions.
  public func makeDirectory(_ path: some StorePathName) throws(StoreError) { try makeDirectory(path, in: nil) }

  /// Removes a node and everything below it, outside of transactions.
  public func remove(_ path: some StorePathName) throws(StoreError) { try remove(path, in: nil) }

  /// Whether a node is there, outside of transactions.
  public func exists(_ path: some StorePathName) throws(StoreError) -> Bool { try exists(path, in: nil) }

  /// The names of a node's children, outside of transactions.
  public func directory(_ path: some StorePathName) throws(StoreError) -> [String] { try directory(path, in: nil) }

  /// Asks to be told of changes at a path and at any depth below.
  public func watch(_ path: some StorePathName, token: String) throws(StoreError) {
    try watch(path, token: token, depth: nil)
  }

  /// Runs `body` in a transaction and commits it, again and again while the answer is `EAGAIN`.
  ///
  /// When `body` throws anything but `EAGAIN` the transaction is aborted and the error passed on.
  /// - Parameter attempts: How often to try before `EAGAIN` is passed on.
  public func transaction<R>(
    attempts: Int = 1000, _ body: (TransactionID) throws(StoreError) -> R
  ) throws(StoreError) -> R {
    for _ in 1..<max(attempts, 2) {
      do {
        return try runTransaction(body)
      } catch .again {
        continue
      } catch {
        throw error
      }
    }
    return try runTransaction(body)
  }

  private func runTransaction<R>(_ body: (TransactionID) throws(StoreError) -> R) throws(StoreError) -> R {
    let transaction = try startTransaction()
    let result: R
    do {
      result = try body(transaction)
    } catch {
      try? endTransaction(transaction, commit: false)
      throw error
    }
    try endTransaction(transaction, commit: true)
    return result
  }
}

extension StoreConnection: StoreHandle {}
