// SPDX-License-Identifier: MIT

import XenWire

/// What one transaction has looked at and changed.
///
/// A node is copied when it is first touched, together with the generation count that it had; from then on the
/// transaction sees and changes its copy. At the end every count must still be the same in the tree.
struct OpenTransaction: Sendable {
  struct Access: Sendable {
    /// The node as the transaction sees it; nil when missing or removed.
    var node: StoreNode?
    /// The node as it was when first touched.
    let original: StoreNode?
    var isModified = false
    var match: WatchMatch?
    /// What the copy costs the caller's memory quota.
    var byteCount: Int
  }

  var accessed: [StorePath: Access] = [:]
  /// The paths in the order in which they were first touched.
  var order: [StorePath] = []
  /// A step failed half-way: the end answers `ENOMEM`.
  var isDoomed = false
  var byteCount = 0

  mutating func record(_ node: StoreNode?, at path: StorePath, byteCount bytes: Int) {
    accessed[path] = Access(node: node, original: node, byteCount: bytes)
    order.append(path)
    byteCount += bytes
  }

  /// Changes a touched node and answers by how many bytes the transaction grew.
  mutating func change(_ path: StorePath, to node: StoreNode?) -> Int {
    guard let old = accessed[path] else { preconditionFailure("\(path) was changed but never looked at") }
    let bytes = path.byteCount + (node?.byteCount ?? 0)
    accessed[path]?.node = node
    accessed[path]?.isModified = true
    accessed[path]?.byteCount = bytes
    byteCount += bytes - old.byteCount
    return bytes - old.byteCount
  }
}

extension ConnectionRecord {
  /// Picks a number that is not in use, and opens a transaction under it.
  fileprivate mutating func openTransaction() -> TransactionID {
    var id = TransactionID(rawValue: nextTransaction)
    while id.rawValue == 0 || transactions[id] != nil { id = TransactionID(rawValue: id.rawValue &+ 1) }
    nextTransaction = id.rawValue &+ 1
    transactions[id] = OpenTransaction()
    return id
  }
}

extension StoreState {
  mutating func startTransaction(_ caller: StoreCaller) throws(StoreError) -> TransactionID {
    guard caller.transaction == nil else { throw .busy }
    let count = domains[caller.domain]?[.transactions] ?? 0
    if isExceeded(.transactions, by: count + 1, caller) { throw .noSpace }
    generation += 1
    let id = connections[caller.connection]?.openTransaction()
    guard let id else { throw .inputOutput }
    domains[caller.domain]?.add(.transactions, 1)
    transactionCount += 1
    return id
  }

  /// Forgets a transaction without a trace.
  mutating func dropTransaction(_ id: TransactionID, of connection: ConnectionID) {
    guard let domain = connections[connection]?.domain,
      let transaction = connections[connection]?.transactions.removeValue(forKey: id)
    else { return }
    domains[domain]?.add(.transactions, -1)
    domains[domain]?.add(.memory, -transaction.byteCount)
    transactionCount -= 1
  }

  /// Ends the caller's transaction; whatever comes of it, its number is then dead.
  /// - Throws: `EAGAIN` when a node that it touched has changed since, `ENOMEM` when a step had failed, `ENOSPC` when
  ///   the nodes it made are too many.
  mutating func endTransaction(_ caller: StoreCaller, commit: Bool) throws(StoreError) {
    guard let id = caller.transaction, let transaction = connections[caller.connection]?.transactions[id] else {
      throw .noSuchEntry
    }
    dropTransaction(id, of: caller.connection)
    guard commit else { return }
    if transaction.isDoomed { throw .noMemory }
    if !caller.isPrivileged { try checkNodeQuotas(transaction) }
    for (path, access) in transaction.accessed where access.original?.generation != tree[path]?.generation {
      throw .again
    }
    for access in transaction.accessed.values where access.isModified {
      if let node = access.node, !ownerIsAlive(node) { throw .again }
    }
    chargeWrite(caller)
    for path in transaction.order {
      guard let access = transaction.accessed[path], access.isModified else { continue }
      var node = access.node
      if let seen = access.node { node?.permissions.keepExceptions { isAlive($0, in: seen) || !$0.domain.isReal } }
      put(node, at: path)
    }
    for path in transaction.order {
      guard let access = transaction.accessed[path], let match = access.match else { continue }
      deliver(path, match, node: tree[path], old: access.original)
    }
  }

  /// Whether a node's owner is still the domain that it was made for.
  private func ownerIsAlive(_ node: StoreNode) -> Bool {
    guard let record = domains[node.permissions.owner] else { return false }
    return record.generation <= node.generation
  }

  /// Checks that no unprivileged domain would own too many nodes after a commit.
  private func checkNodeQuotas(_ transaction: OpenTransaction) throws(StoreError) {
    var growth: [DomainID: Int] = [:]
    for access in transaction.accessed.values where access.isModified {
      if let node = access.node { growth[node.permissions.owner, default: 0] += 1 }
      if let node = access.original { growth[node.permissions.owner, default: 0] -= 1 }
    }
    for (domain, count) in growth where count > 0 && domain != .control {
      guard let record = domains[domain] else { continue }
      if record.quotas.isExceeded(.nodes, by: record[.nodes] + count) { throw .noSpace }
    }
  }
}
