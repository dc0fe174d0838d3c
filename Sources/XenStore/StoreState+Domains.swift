// SPDX-License-Identifier: MIT

import XenWire

extension StoreState {
  /// Tells the store that a domain exists; a second introduction resets the domain's connections instead.
  mutating func introduce(_ domain: DomainID) throws(StoreError) {
    guard domain.isReal else { throw .invalid }
    if domains[domain]?.isIntroduced == true {
      for id in unprivilegedConnections(of: domain) { reset(id) }
      return
    }
    if domains[domain] == nil { domains[domain] = DomainRecord(generation: generation, quotas: quotas) }
    domains[domain]?.isIntroduced = true
    domains[domain]?.isShutDown = false
    fireSpecial(.introduceDomain, domain)
  }

  /// Tells the store that a domain is gone: its connections, its nodes and the rights it had go too.
  mutating func release(_ domain: DomainID) throws(StoreError) {
    guard domain != .control, domain.isReal else { throw .invalid }
    guard domains[domain]?.isIntroduced == true else { throw .noSuchEntry }
    forget(domain)
    fireSpecial(.releaseDomain, domain)
  }

  /// Removes everything that a domain leaves behind, wherever in the tree it is (XSA-322, XSA-419).
  private mutating func forget(_ domain: DomainID) {
    for id in unprivilegedConnections(of: domain) { disconnect(id) }
    for (id, record) in connections where record.target == domain { connections[id]?.target = nil }
    let paths = (mentions[domain] ?? []).sorted { $0.string < $1.string }
    for path in paths {
      guard var node = tree[path] else { continue }
      if node.permissions.owner == domain, !path.isRoot, !path.isSpecial {
        removeOrphan(path)
      } else {
        if node.permissions.owner == domain { node.permissions.owner = .control }
        node.permissions.keepExceptions { $0.domain != domain }
        put(node, at: path)
      }
    }
    mentions[domain] = nil
    domains[domain] = nil
  }

  private mutating func removeOrphan(_ path: StorePath) {
    let steward = StoreCaller(
      connection: ConnectionID(number: 0), domain: .control, isPrivileged: true, target: nil,
      home: .home(of: .control), transaction: nil)
    do throws(StoreError) {
      try remove(path, steward)
    } catch {
      preconditionFailure("an orphaned node could not be removed: \(error)")
    }
  }

  private func unprivilegedConnections(of domain: DomainID) -> [ConnectionID] {
    connections.filter { $0.value.domain == domain && !$0.value.isPrivileged }.map(\.key)
      .sorted { $0.number < $1.number }
  }

  /// Fires the special watches without depth, then those that ask which domain it was.
  func specialPath(_ path: StorePath, _ domain: DomainID) -> StorePath { path.child("\(domain)") }

  private mutating func fireSpecial(_ path: StorePath, _ domain: DomainID) {
    let node = tree[path]
    deliver(path, .specialPlain, node: node, old: nil)
    deliver(specialPath(path, domain), .specialDomain, node: node, old: nil)
  }
}
