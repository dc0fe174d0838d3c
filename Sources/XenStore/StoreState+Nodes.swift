// SPDX-License-Identifier: MIT

import XenWire

extension StoreState {
  mutating func read(_ path: StorePath, _ caller: StoreCaller) throws(StoreError) -> StoreNode {
    guard let node = try lookUp(path, .read, caller) else { throw .noSuchEntry }
    return node
  }

  mutating func write(_ path: StorePath, _ value: [UInt8], _ caller: StoreCaller) throws(StoreError) {
    if var node = try lookUp(path, .write, caller) {
      node.value = value
      try replace(node, at: path, caller)
    } else {
      try create(path, value, caller)
    }
    try fire(path, .subtree, old: nil, caller)
  }

  mutating func makeDirectory(_ path: StorePath, _ caller: StoreCaller) throws(StoreError) {
    if try lookUp(path, .write, caller) != nil { return }
    try create(path, [], caller)
    try fire(path, .subtree, old: nil, caller)
  }

  mutating func setPermissions(
    _ path: StorePath, _ permissions: StorePermissions, _ caller: StoreCaller
  ) throws(StoreError) {
    if isExceeded(.nodePermissions, by: permissions.entries.count, caller) { throw .noSpace }
    guard permissions.entries.count <= StoreMessageHeader.maximumPayload / 2 else { throw .tooBig }
    guard permissions.owner.isReal else { throw .noSuchEntry }
    for entry in permissions.entries where entry.domain.isReal { ensureDomain(entry.domain) }
    guard var node = try lookUp(path, [.write, .owner], caller) else { throw .noSuchEntry }
    guard caller.isPrivileged || permissions.owner == node.permissions.owner else { throw .notPermitted }
    let old = node
    node.permissions = permissions
    try replace(node, at: path, caller)
    // Who may hear of domains is no event of a domain's life.
    if !path.isSpecial { try fire(path, .subtree, old: old, caller) }
  }

  mutating func remove(_ path: StorePath, _ caller: StoreCaller) throws(StoreError) {
    guard try lookUp(path, .write, caller) != nil else {
      guard try touch(path.parent ?? .root, caller) != nil else { throw .noSuchEntry }
      return
    }
    guard let parentPath = path.parent else { throw .invalid }
    guard let above = try touch(parentPath, caller) else { throw torn(path, caller) }
    let victims = try subtree(path, caller)
    if caller.transaction != nil, !above.children.contains(path.name) { throw torn(path, caller) }
    for victim in victims {
      guard let node = try touch(victim, caller) else { preconditionFailure("\(victim) went") }
      change(victim, to: nil, caller)
      try fire(victim, victim == path ? .subtree : .exact, removed: node, caller)
    }
    guard var parent = try touch(parentPath, caller) else { preconditionFailure("\(path) has no parent") }
    parent.children.remove(path.name)
    change(parentPath, to: parent, caller)
  }

  /// What a transaction is told that looked at a parent and at its child at different times, while others changed them.
  ///
  /// It could not be committed any more, so it may as well be redone now. Outside of a transaction this cannot be.
  private func torn(_ path: StorePath, _ caller: StoreCaller) -> StoreError {
    precondition(caller.transaction != nil, "\(path) and its parent disagree")
    return .again
  }

  /// A node and all below it, children before their parents, in the order of the child lists.
  private mutating func subtree(_ path: StorePath, _ caller: StoreCaller) throws(StoreError) -> [StorePath] {
    var result: [StorePath] = []
    var stack: [(path: StorePath, children: [String], next: Int)] = []
    var entering: StorePath? = path
    while true {
      if let current = entering {
        guard let node = try touch(current, caller) else { throw torn(current, caller) }
        stack.append((current, node.children.inOrder, 0))
        entering = nil
      }
      guard let top = stack.last else { return result }
      if top.next < top.children.count {
        stack[stack.count - 1].next += 1
        entering = top.path.child(top.children[top.next])
      } else {
        result.append(top.path)
        stack.removeLast()
      }
    }
  }

  /// Creates a node and the ancestors that it lacks; all are made or none.
  private mutating func create(_ path: StorePath, _ value: [UInt8], _ caller: StoreCaller) throws(StoreError) {
    var missing: [StorePath] = []
    var cursor = path
    var existing: StoreNode?
    while existing == nil {
      missing.append(cursor)
      guard let parent = cursor.parent else { preconditionFailure("the root is missing") }
      cursor = parent
      existing = try touch(cursor, caller)
    }
    guard var anchor = existing, let first = missing.last else { preconditionFailure("nothing to create") }
    if caller.transaction != nil, anchor.children.contains(first.name) { throw torn(path, caller) }
    let owned = domains[caller.domain]?[.nodes] ?? 0
    let growing = faults.has(.quotaOfThePast) ? 0 : missing.count
    if isExceeded(.nodes, by: owned + growing, caller) { throw fail(.noSpace, caller) }

    anchor.children.append(first.name)
    var permissions = anchor.permissions
    if !caller.isPrivileged { permissions.owner = caller.domain }
    var made: [(StorePath, StoreNode)] = [(cursor, anchor)]
    var below: String?
    for (index, newPath) in missing.enumerated() {
      var node = StoreNode(permissions: permissions, generation: 0)
      if index == 0 { node.value = value }
      if let below { node.children.append(below) }
      below = newPath.name
      made.append((newPath, node))
    }
    var growth = 0
    for (newPath, node) in made {
      if isExceeded(.nodeSize, by: node.byteCount, caller) { throw fail(.noSpace, caller) }
      growth += node.byteCount + (newPath == cursor ? 0 : newPath.byteCount)
    }
    growth -= (try touch(cursor, caller))?.byteCount ?? 0
    if isMemoryShort(growth, caller) { throw fail(.noMemory, caller) }
    for (newPath, node) in made.dropFirst() { change(newPath, to: node, caller) }
    change(cursor, to: anchor, caller)
  }

  /// Puts a changed node in the place of the one that was there.
  private mutating func replace(
    _ node: StoreNode, at path: StorePath, _ caller: StoreCaller
  ) throws(StoreError) {
    if !caller.isPrivileged {
      if isExceeded(.nodeSize, by: node.byteCount, caller) { throw fail(.noSpace, caller) }
      let old = try touch(path, caller)
      if isMemoryShort(node.byteCount - (old?.byteCount ?? 0), caller) { throw fail(.noMemory, caller) }
    }
    change(path, to: node, caller)
  }

  /// Whether the caller's domain has no room for so many more bytes.
  func isMemoryShort(_ growth: Int, _ caller: StoreCaller) -> Bool {
    guard growth > 0, !caller.isPrivileged, let record = domains[caller.domain] else { return false }
    return record.quotas.isExceeded(.memory, by: record[.memory] + growth)
  }

  /// Changes or removes a node in the tree or in the caller's transaction; it gets a new generation count.
  mutating func change(_ path: StorePath, to node: StoreNode?, _ caller: StoreCaller) {
    guard let transaction = caller.transaction else {
      chargeWrite(caller)
      return put(node, at: path)
    }
    var node = node
    generation += 1
    node?.generation = generation
    let growth = connections[caller.connection]?.transactions[transaction]?.change(path, to: node) ?? 0
    domains[caller.domain]?.add(.memory, growth)
  }

  /// Changes or removes a node in the tree: new generation count, ledgers and mentions follow.
  mutating func put(_ node: StoreNode?, at path: StorePath) {
    var node = node
    generation += 1
    node?.generation = generation
    let old = tree[path]
    if let old, let node, old.permissions == node.permissions {
      if old.byteCount != node.byteCount {
        domains[node.permissions.owner]?.add(.memory, node.byteCount - old.byteCount)
      }
    } else {
      if let old {
        domains[old.permissions.owner]?.add(.nodes, -1)
        domains[old.permissions.owner]?.add(.memory, -old.byteCount - path.byteCount)
      }
      if let node {
        let owner = node.permissions.owner
        ensureDomain(owner)
        domains[owner]?.add(.nodes, 1)
        domains[owner]?.add(.memory, node.byteCount + path.byteCount)
      }
      for entry in old?.permissions.entries ?? [] where entry.domain != .control {
        mentions[entry.domain]?.remove(path)
      }
      for entry in node?.permissions.entries ?? [] where entry.domain != .control {
        mentions[entry.domain, default: []].insert(path)
      }
    }
    tree[path] = node
  }
}
