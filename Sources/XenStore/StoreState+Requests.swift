// SPDX-License-Identifier: MIT

import XenWire

/// The bytes of a long child list, kept while a client fetches it part by part.
struct ChildListing: Sendable {
  let path: StorePath
  let generation: UInt64
  let bytes: [UInt8]
}

extension StoreState {
  /// Starts a request of an unprivileged client and answers its number.
  mutating func beginRequest(of domain: DomainID) -> UInt64 {
    domains[domain]?.add(.outstanding, 1)
    let request = requests.begin()
    requestOwners[request] = domain
    return request
  }

  /// Notes that one of the things that a request had set off was taken.
  mutating func settle(_ request: UInt64) {
    guard request != 0, requests.release(request), let domain = requestOwners.removeValue(forKey: request) else {
      return
    }
    domains[domain]?.add(.outstanding, -1)
    wakeStalled(domain)
  }

  /// Has the stalled connections of a domain look again whether they may go on.
  mutating func wakeStalled(_ domain: DomainID) {
    for id in stalled.removeValue(forKey: domain) ?? [] {
      if let handler = connections[id]?.handler { wake(handler) }
    }
  }

  /// Whether a connection's requests are carried out now, or must wait for a quota or for write credit.
  mutating func mayServe(_ id: ConnectionID) -> Bool {
    guard let caller = connections[id]?.identity, !caller.isPrivileged, let record = domains[caller.domain] else {
      return true
    }
    let isOverQuota =
      record.quotas.isExceeded(.outstanding, by: record[.outstanding] + 1)
      || record.quotas.isExceeded(.memory, by: record[.memory] + 1)
    if faults.has(.deafGuestServed) { return true }
    if record.writeCredit.isSpent { updateWriteCredit(caller.domain) }
    let isServed = !isOverQuota && domains[caller.domain]?.writeCredit.isSpent == false
    if !isServed { stalled[caller.domain, default: []].insert(id) }
    return isServed
  }

  /// Takes write credit of an unprivileged domain whose change may make somebody's transaction fail.
  mutating func chargeWrite(_ caller: StoreCaller) {
    guard !caller.isPrivileged, transactionCount > 0, !faults.has(.writesAreFree) else { return }
    updateWriteCredit(caller.domain)
    domains[caller.domain]?.writeCredit.spend()
  }

  private mutating func updateWriteCredit(_ domain: DomainID) {
    let time = now(), sharers = domains.count - 1
    domains[domain]?.writeCredit.update(at: time, domains: sharers, reserve: &writeReserve)
  }

  /// A node's child names with a NUL behind each.
  mutating func childList(of node: StoreNode, at path: StorePath) -> [UInt8] {
    if let listing, listing.generation == node.generation, listing.path == path { return listing.bytes }
    var bytes: [UInt8] = []
    bytes.reserveCapacity(node.children.byteCount)
    for name in node.children.inOrder {
      bytes.append(contentsOf: name.utf8)
      bytes.append(0)
    }
    if bytes.count > StoreMessageHeader.maximumPayload {
      listing = ChildListing(path: path, generation: node.generation, bytes: bytes)
    }
    return bytes
  }
}
