// SPDX-License-Identifier: MIT

import XenWire

extension StoreState {
  /// What a caller may do with a node.
  func access(of caller: StoreCaller, to node: StoreNode) -> StoreAccess {
    let permissions = node.permissions
    if caller.isPrivileged || caller.isMeant(by: permissions.owner) { return [.read, .write, .owner] }
    for entry in permissions.exceptions where caller.isMeant(by: entry.domain) && isAlive(entry, in: node) {
      return entry.access
    }
    return permissions.others
  }

  /// Whether an entry is about the domain that bears the number today, not about an earlier one (XSA-322, XSA-417).
  func isAlive(_ entry: StorePermission, in node: StoreNode) -> Bool {
    if entry.domain == .any || faults.has(.rightsOutliveDomain) { return true }
    guard entry.domain.isReal, let record = domains[entry.domain] else { return false }
    return record.generation <= node.generation
  }

  /// The node as the caller sees it, whatever its permissions; inside a transaction the look is recorded.
  /// - Throws: `ENOSPC` when the transaction has looked at too many nodes; the transaction is then doomed.
  mutating func touch(_ path: StorePath, _ caller: StoreCaller) throws(StoreError) -> StoreNode? {
    guard let transaction = caller.transaction else { return tree[path] }
    if let seen = connections[caller.connection]?.transactions[transaction]?.accessed[path] { return seen.node }
    let node = tree[path]
    let count = connections[caller.connection]?.transactions[transaction]?.order.count ?? 0
    if !caller.isPrivileged, isExceeded(.transactionNodes, by: count + 1, caller) {
      throw fail(.noSpace, caller)
    }
    let bytes = path.byteCount + (node?.byteCount ?? 0)
    connections[caller.connection]?.transactions[transaction]?.record(node, at: path, byteCount: bytes)
    domains[caller.domain]?.add(.memory, bytes)
    return node
  }

  /// The node if it exists and the caller may use it as required; nil if it does not and the caller may know.
  /// - Throws: `EACCES`.
  mutating func lookUp(
    _ path: StorePath, _ required: StoreAccess, _ caller: StoreCaller
  ) throws(StoreError) -> StoreNode? {
    let node = try touch(path, caller)
    if path.isRoot, faults.has(.rootUnchecked) { return node }
    if let node, access(of: caller, to: node).isSuperset(of: required) { return node }
    let ancestor = try nearestAncestor(of: path, caller)
    guard node == nil, !access(of: caller, to: ancestor).isDisjoint(with: required) else { throw .access }
    return nil
  }

  /// The closest existing node above a path.
  private mutating func nearestAncestor(of path: StorePath, _ caller: StoreCaller) throws(StoreError) -> StoreNode {
    var cursor = path
    while true {
      cursor = cursor.parent ?? .root
      if let node = try touch(cursor, caller) { return node }
      precondition(!cursor.isRoot, "the root is missing")
    }
  }

  /// Whether an amount is more than the caller's domain may have.
  func isExceeded(_ quota: StoreQuota, by amount: Int, _ caller: StoreCaller) -> Bool {
    guard !caller.isPrivileged, let record = domains[caller.domain] else { return false }
    return record.quotas.isExceeded(quota, by: amount)
  }

  /// The absolute path that a name means for a caller.
  /// - Throws: `EINVAL` when it is malformed, too long, or special where only nodes are allowed.
  func resolve(
    _ name: some StorePathName, _ caller: StoreCaller, allowsSpecial: Bool = false
  ) throws(StoreError) -> StorePath {
    if faults.has(.trailingSlashIgnored), name.text.utf8.count > 1, name.text.utf8.last == UInt8(ascii: "/") {
      return try resolve(String(name.text.dropLast()), caller, allowsSpecial: allowsSpecial)
    }
    let path = try name.resolved(in: caller.home)
    guard allowsSpecial || !path.isSpecial else { throw .invalid }
    let isTooLong = isExceeded(.pathMaximum, by: path.byteCount - path.homeByteCount, caller)
    if !caller.isPrivileged, isTooLong, !faults.has(.lengthBeforePrefix) {
      throw .invalid
    }
    return path
  }

  /// Passes an error on; inside a transaction a failure half-way leaves nothing that could be committed.
  mutating func fail(_ error: StoreError, _ caller: StoreCaller) -> StoreError {
    if let transaction = caller.transaction, !faults.has(.failedStepCommits) {
      connections[caller.connection]?.transactions[transaction]?.isDoomed = true
    }
    return error
  }
}

extension StorePath {
  /// The bytes of a leading `/local/domain/<id>/`; 0 when there is none.
  fileprivate var homeByteCount: Int {
    let prefix = "/local/domain/"
    guard string.utf8.starts(with: prefix.utf8) else { return 0 }
    let digits = string.utf8.dropFirst(prefix.utf8.count).prefix { $0 >= 0x30 && $0 <= 0x39 }
    guard (1...5).contains(digits.count), digits.endIndex < string.utf8.endIndex,
      string.utf8[digits.endIndex] == UInt8(ascii: "/")
    else { return 0 }
    return prefix.utf8.count + digits.count + 1
  }
}
