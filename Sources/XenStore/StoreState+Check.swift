// SPDX-License-Identifier: MIT

import XenWire

extension StoreState {
  /// What is wrong with the store: sentences about nodes without parents, and ledgers that a recount does not confirm.
  func inconsistencies() -> [String] {
    var found: [String] = []
    var owned: [DomainID: Int] = [:]
    var held: [DomainID: Int] = [:]
    var named: [DomainID: Set<StorePath>] = [:]
    var reached = 0
    var stack = [StorePath.root, .introduceDomain, .releaseDomain]
    while let path = stack.popLast() {
      guard let node = tree[path] else {
        found.append("\(path) is listed by its parent but does not exist")
        continue
      }
      reached += 1
      owned[node.permissions.owner, default: 0] += 1
      held[node.permissions.owner, default: 0] += node.byteCount + path.byteCount
      for entry in node.permissions.entries where entry.domain != .control {
        named[entry.domain, default: []].insert(path)
      }
      let names = node.children.inOrder
      if names.reduce(0, { $0 + $1.utf8.count + 1 }) != node.children.byteCount {
        found.append("\(path) miscounts its children")
      }
      stack.append(contentsOf: names.map { path.child($0) })
    }
    if reached != tree.count { found.append("\(tree.count - reached) nodes have no parent that lists them") }
    if named != mentions.filter({ !$0.value.isEmpty }) { found.append("the index of named domains is wrong") }
    for (id, connection) in connections {
      held[connection.domain, default: 0] += connection.events.byteCount
      held[connection.domain, default: 0] += connection.watches.keys.reduce(0) { $0 + $1.byteCount }
      held[connection.domain, default: 0] += connection.transactions.values.reduce(0) { $0 + $1.byteCount }
      for (key, number) in connection.watches where watches.records[number]?.connection != id {
        found.append("the watch of \(key.path) is not in the index")
      }
    }
    if connections.values.reduce(0, { $0 + $1.watches.count }) != watches.records.count {
      found.append("the watch index holds watches of nobody")
    }
    if connections.values.reduce(0, { $0 + $1.events.count }) != waitingEvents {
      found.append("the count of waiting events is wrong")
    }
    for (domain, record) in domains {
      if record[.nodes] != owned[domain, default: 0] {
        found.append("domain \(domain) owns \(owned[domain, default: 0]) nodes, not \(record[.nodes])")
      }
      // Unsent replies are counted too, which only their sessions can see.
      if record[.memory] < held[domain, default: 0] {
        found.append("domain \(domain) holds \(held[domain, default: 0]) bytes, not \(record[.memory])")
      }
    }
    for domain in owned.keys where domains[domain] == nil { found.append("domain \(domain) owns nodes unknown") }
    return found
  }

  /// The most that any unprivileged domain was seen to use of something.
  func peak(_ quota: StoreQuota) -> Int {
    domains.filter { $0.key != .control }.values.map { $0.peak(quota) }.max() ?? 0
  }

  mutating func resetPeaks() {
    for domain in domains.keys { domains[domain]?.resetPeaks() }
  }

  /// How much of everything there is, for people.
  func memoryReport() -> String {
    let bytes = domains.values.reduce(0) { $0 + $1[.memory] }
    return """
      nodes: \(tree.count)
      domains: \(domains.count)
      connections: \(connections.count)
      watches: \(watches.records.count)
      transactions: \(transactionCount)
      events waiting: \(waitingEvents)
      accounted bytes: \(bytes)

      """
  }
}
