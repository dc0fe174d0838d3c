// SPDX-License-Identifier: MIT

public import XenWire

extension StoreClient {
  // MARK: Nodes

  /// A node's value as text; bytes that are not UTF-8 are replaced.
  public func read(_ path: some StorePathName, in transaction: TransactionID? = nil) throws(StoreClientError) -> String
  {
    String(decoding: try readBytes(path, in: transaction), as: UTF8.self)
  }

  /// A node's value.
  public func readBytes(
    _ path: some StorePathName, in transaction: TransactionID? = nil
  ) throws(StoreClientError) -> [UInt8] {
    try request(.read, strings([path.text]), in: transaction)
  }

  /// Whether a node is there.
  public func exists(_ path: some StorePathName, in transaction: TransactionID? = nil) throws(StoreClientError) -> Bool
  {
    do {
      _ = try readBytes(path, in: transaction)
      return true
    } catch .refused(.noSuchEntry) {
      return false
    } catch {
      throw error
    }
  }

  /// Sets a node's value to text.
  public func write(
    _ path: some StorePathName, _ value: String, in transaction: TransactionID? = nil
  ) throws(StoreClientError) {
    try write(path, bytes: Array(value.utf8), in: transaction)
  }

  /// Sets a node's value.
  public func write(
    _ path: some StorePathName, bytes: [UInt8], in transaction: TransactionID? = nil
  ) throws(StoreClientError) {
    _ = try request(.write, strings([path.text]) + bytes, in: transaction)
  }

  /// Creates a node with an empty value; a node that exists keeps its value.
  public func makeDirectory(_ path: some StorePathName, in transaction: TransactionID? = nil) throws(StoreClientError) {
    _ = try request(.makeDirectory, strings([path.text]), in: transaction)
  }

  /// Removes a node and everything below it.
  public func remove(_ path: some StorePathName, in transaction: TransactionID? = nil) throws(StoreClientError) {
    _ = try request(.remove, strings([path.text]), in: transaction)
  }

  /// The names of a node's children, oldest first; a list that does not fit a message is fetched in parts.
  public func directory(
    _ path: some StorePathName, in transaction: TransactionID? = nil
  ) throws(StoreClientError) -> [String] {
    do {
      let list = try request(.directory, strings([path.text]), in: transaction)
      return StoreArguments(bytes: list[...]).strings()
    } catch .refused(.tooBig) {
      return try directoryParts(path, in: transaction)
    } catch {
      throw error
    }
  }

  private func directoryParts(
    _ path: some StorePathName, in transaction: TransactionID?
  ) throws(StoreClientError) -> [String] {
    var generation = ""
    var list: [UInt8] = []
    while true {
      let part = try request(.directoryPart, strings([path.text, "\(list.count)"]), in: transaction)
      guard let (count, names) = StoreArguments(bytes: part[...]).headAndRest else { throw .protocolViolation }
      if count != generation, !list.isEmpty {
        list = []
        generation = ""
        continue
      }
      generation = count
      guard names.last == 0 || names.isEmpty else { throw .protocolViolation }
      let isLast = names.count < 2 || names[names.endIndex - 2] == 0
      list.append(contentsOf: isLast ? names.dropLast() : names)
      if isLast { return StoreArguments(bytes: list[...]).strings() }
    }
  }

  /// A node's permissions.
  public func permissions(
    _ path: some StorePathName, in transaction: TransactionID? = nil
  ) throws(StoreClientError) -> StorePermissions {
    let reply = try request(.getPermissions, strings([path.text]), in: transaction)
    guard let permissions = StorePermissions(StoreArguments(bytes: reply[...]).strings()) else {
      throw .protocolViolation
    }
    return permissions
  }

  /// Sets a node's permissions.
  public func setPermissions(
    _ path: some StorePathName, _ permissions: StorePermissions, in transaction: TransactionID? = nil
  ) throws(StoreClientError) {
    _ = try request(
      .setPermissions, strings([path.text] + permissions.entries.map(\.description)), in: transaction)
  }

  // MARK: Transactions

  /// Opens a transaction.
  public func startTransaction() throws(StoreClientError) -> TransactionID {
    let reply = try request(.transactionStart, [0])
    guard let text = StoreArguments(bytes: reply[...]).only, let number = UInt32(text), number != 0 else {
      throw .protocolViolation
    }
    return TransactionID(rawValue: number)
  }

  /// Ends a transaction.
  /// - Throws: `.refused(.again)` when it must be redone.
  public func endTransaction(_ transaction: TransactionID, commit: Bool) throws(StoreClientError) {
    _ = try request(.transactionEnd, strings([commit ? "T" : "F"]), in: transaction)
  }

  /// Runs `body` in a transaction and commits it, again and again while the store answers `EAGAIN`.
  public func transaction<R>(_ body: (TransactionID) throws(StoreClientError) -> R) throws(StoreClientError) -> R {
    while true {
      let transaction = try startTransaction()
      let result: R
      do {
        result = try body(transaction)
      } catch {
        try? endTransaction(transaction, commit: false)
        throw error
      }
      do {
        try endTransaction(transaction, commit: true)
        return result
      } catch .refused(.again) {
        continue
      } catch {
        throw error
      }
    }
  }

  // MARK: Watches

  /// Asks to be told of changes at a path and below.
  /// - Parameter depth: How many levels below the path count; nil for all.
  public func watch(_ path: some StorePathName, token: String, depth: Int? = nil) throws(StoreClientError) {
    _ = try request(.watch, strings([path.text, token] + (depth.map { ["\($0)"] } ?? [])))
  }

  /// Ends a watch.
  public func unwatch(_ path: some StorePathName, token: String) throws(StoreClientError) {
    _ = try request(.unwatch, strings([path.text, token]))
  }

  /// Drops all watches and transactions of this connection.
  public func resetWatches() throws(StoreClientError) {
    _ = try request(.resetWatches, [0])
  }

  // MARK: Domains and the daemon

  /// Tells the store that a domain exists.
  public func introduce(_ domain: DomainID, frame: UInt64, port: UInt32) throws(StoreClientError) {
    _ = try request(.introduce, strings(["\(domain)", "\(frame)", "\(port)"]))
  }

  /// Tells the store that a domain is gone.
  public func release(_ domain: DomainID) throws(StoreClientError) {
    _ = try request(.release, strings(["\(domain)"]))
  }

  /// Whether the store knows a domain.
  public func isIntroduced(_ domain: DomainID) throws(StoreClientError) -> Bool {
    try request(.isDomainIntroduced, strings(["\(domain)"])) == Array("T\0".utf8)
  }

  /// Gives the daemon a command, as `xenstore-control` does, and answers what it says.
  public func control(_ words: String...) throws(StoreClientError) -> String {
    let reply = try request(.control, strings(words))
    return String(decoding: reply.last == 0 ? reply.dropLast() : reply, as: UTF8.self)
  }
}
