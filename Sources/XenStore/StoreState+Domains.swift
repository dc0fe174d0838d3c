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
    ensureDomain(domain)
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

  /// Notes that a suspended domain runs again.
  mutating func resume(_ domain: DomainID) throws(StoreError) {
    try checkConnected(domain)
    domains[domain]?.isShutDown = false
  }

  /// Notes that a domain has shut down or crashed but still exists: fires the watches that ask for it.
  mutating func shutDown(_ domain: DomainID) throws(StoreError) {
    try checkConnected(domain)
    guard domains[domain]?.isShutDown == false else { return }
    domains[domain]?.isShutDown = true
    fireSpecial(.releaseDomain, domain)
  }

  /// Gives a domain the rights of another (a device model's domain those of the guest that it serves).
  mutating func setTarget(of domain: DomainID, to target: DomainID) throws(StoreError) {
    guard domains[domain]?.isIntroduced == true, domains[target]?.isIntroduced == true else { throw .noSuchEntry }
    domains[domain]?.target = target
  }

  private func checkConnected(_ domain: DomainID) throws(StoreError) {
    guard domain != .control, domain.isReal else { throw .invalid }
    guard domains[domain]?.isIntroduced == true else { throw .noSuchEntry }
  }

  // MARK: Settings

  mutating func features(of domain: DomainID) throws(StoreError) -> StoreFeatures {
    guard domain.isReal else { throw .noSuchEntry }
    ensureDomain(domain)
    return domains[domain]?.features ?? .all
  }

  mutating func setFeatures(of domain: DomainID, to features: StoreFeatures) throws(StoreError) {
    guard domain.isReal else { throw .noSuchEntry }
    ensureDomain(domain)
    guard domains[domain]?.isIntroduced == false else { throw .busy }
    guard StoreFeatures.all.isSuperset(of: features) else { throw .invalid }
    domains[domain]?.features = features
  }

  mutating func quotas(of domain: DomainID) throws(StoreError) -> StoreQuotas {
    guard domain.isReal else { throw .noSuchEntry }
    ensureDomain(domain)
    return domains[domain]?.quotas ?? quotas
  }

  /// Sets a limit of one domain, or the one that new domains start with.
  mutating func setQuota(of domain: DomainID?, _ name: String, to value: Int) throws(StoreError) {
    guard value >= 0 else { throw .invalid }
    if let domain {
      guard try quotas(of: domain)[named: name] != nil else { throw .invalid }
      domains[domain]?.quotas[named: name] = value
      wakeStalled(domain)
    } else {
      guard quotas[named: name] != nil else { throw .invalid }
      quotas[named: name] = value
    }
  }

  /// Removes everything that a domain leaves behind, wherever in the tree it is (XSA-322, XSA-419).
  private mutating func forget(_ domain: DomainID) {
    for id in unprivilegedConnections(of: domain) { disconnect(id) }
    if !faults.has(.targetOutlivesGuest) {
      for (id, record) in domains where record.target == domain { domains[id]?.target = nil }
    }
    let paths = (mentions[domain] ?? []).sorted { $0.string < $1.string }
    for path in paths {
      guard var node = tree[path] else { continue }
      if node.permissions.owner == domain, !path.isRoot, !path.isSpecial, !keepsOrphans {
        if !faults.has(.orphansStay) { removeOrphan(path) }
      } else if !faults.has(.rightsOutliveDomain) {
        if node.permissions.owner == domain { node.permissions.owner = .control }
        node.permissions.keepExceptions { $0.domain != domain }
        put(node, at: path)
      }
    }
    if faults.has(.debtsOutliveDomain) {
      domains[domain]?.isIntroduced = false
      return
    }
    for (request, owner) in requestOwners where owner == domain { requestOwners[request] = nil }
    stalled[domain] = nil
    mentions[domain] = nil
    domains[domain] = nil
  }

  private mutating func removeOrphan(_ path: StorePath) {
    let steward = StoreCaller(
      connection: ConnectionID(number: 0), domain: .control, isPrivileged: true, home: .home(of: .control))
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
  private mutating func fireSpecial(_ path: StorePath, _ domain: DomainID) {
    let node = tree[path]
    deliver(path, .specialPlain, node: node, old: nil)
    deliver(path / domain, .specialDomain, node: node, old: nil)
  }
}
