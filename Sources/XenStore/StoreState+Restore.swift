// SPDX-License-Identifier: MIT

import XenWire

extension StoreState {
  /// Makes a store from a stream.
  init(restoring bytes: [UInt8], clock: @escaping @Sendable () -> UInt64) throws(StoreStreamError) {
    self.init(quotas: .xenstored, clock: clock)
    tree = StoreTree()
    domains = [.control: DomainRecord(generation: 0, quotas: quotas, isIntroduced: true)]
    var stream = StreamReader(bytes[...])
    let version = try stream.preamble()
    var guests: [UInt32: ConnectionID] = [:]
    var isComplete = false
    while !isComplete {
      var (record, body) = try stream.record()
      switch record {
      case .end: isComplete = true
      case .globalQuota: quotas = try Self.quotas(&body, count: try body.take(UInt16.self), skipped: 2)
      case .connection: try restoreConnection(&body, &guests)
      case .domain: try restoreDomain(&body, version: version)
      case .watch, .extendedWatch: try restoreWatch(&body, record, guests)
      case .node: try restoreNode(&body)
      case .global, .transaction: continue
      }
    }
    try finishRestoring()
  }

  private static func quotas(
    _ body: inout StreamReader, count: UInt16, skipped: Int
  ) throws(StoreStreamError) -> StoreQuotas {
    _ = try body.take(skipped)
    var values: [Int] = []
    for _ in 0..<count { values.append(Int(try body.take(UInt32.self))) }
    var quotas = StoreQuotas.xenstored
    for value in values { quotas[named: try body.text()] = value }
    return quotas
  }

  private mutating func restoreConnection(
    _ body: inout StreamReader, _ guests: inout [UInt32: ConnectionID]
  ) throws(StoreStreamError) {
    let number = try body.take(UInt32.self)
    let kind = try body.take(UInt16.self)
    _ = try body.take(UInt16.self)
    let domain = DomainID(rawValue: try body.take(UInt16.self))
    let target = try body.take(UInt16.self)
    guard kind == 0, domain != .control else { return }
    guard domain.isReal else { throw .malformed("a connection of domain \(domain)") }
    ensureDomain(domain)
    domains[domain]?.isIntroduced = true
    if target != StoreStream.noTarget { domains[domain]?.target = DomainID(rawValue: target) }
    let id = connect(as: domain, isPrivileged: false)
    guests[number] = id
    vacant[domain] = id
  }

  private mutating func restoreDomain(_ body: inout StreamReader, version: UInt32) throws(StoreStreamError) {
    let domain = DomainID(rawValue: try body.take(UInt16.self))
    let count = try body.take(UInt16.self)
    let features = try body.take(UInt32.self)
    guard domain.isReal else { throw .malformed("data of domain \(domain)") }
    ensureDomain(domain)
    domains[domain]?.quotas = try Self.quotas(&body, count: count, skipped: 0)
    if version > 1 { domains[domain]?.features = StoreFeatures(rawValue: features) }
  }

  private mutating func restoreWatch(
    _ body: inout StreamReader, _ record: StoreStream.Record, _ guests: [UInt32: ConnectionID]
  ) throws(StoreStreamError) {
    guard let id = guests[try body.take(UInt32.self)] else { return }
    let pathLength = Int(try body.take(UInt16.self))
    let tokenLength = Int(try body.take(UInt16.self))
    var depth: Int?
    if record == .extendedWatch {
      let number = try body.take(UInt16.self)
      _ = try body.take(UInt16.self)
      depth = number == 0xFFFF ? nil : Int(number)
    }
    let path = try body.text(pathLength)
    let token = try body.text(tokenLength)
    do throws(StoreError) {
      var guest = try caller(id, in: nil)
      guest.isPrivileged = true
      try watch(path, token: token, depth: depth, guest)
    } catch {
      throw .malformed("the watch of \(path): \(error)")
    }
  }

  private mutating func restoreNode(_ body: inout StreamReader) throws(StoreStreamError) {
    let connection = try body.take(UInt32.self)
    _ = try body.take(UInt32.self)
    let pathLength = Int(try body.take(UInt16.self))
    let valueLength = Int(try body.take(UInt16.self))
    _ = try body.take(UInt16.self)
    let count = try body.take(UInt16.self)
    guard connection == 0 else { return }
    var entries: [StorePermission] = []
    for index in 0..<count {
      let letter = Character(UnicodeScalar(try body.take(UInt8.self)))
      let isStale = try body.take(UInt8.self) & 1 != 0
      let domain = DomainID(rawValue: try body.take(UInt16.self))
      guard let access = StoreAccess(letter: letter) else { throw .malformed("the permission \(letter)") }
      if index == 0 || !isStale { entries.append(StorePermission(access, domain)) }
    }
    let text = try body.text(pathLength)
    guard let path = StorePath(text), let permissions = StorePermissions(entries: entries), tree[path] == nil else {
      throw .malformed("the node \(text)")
    }
    for entry in entries where entry.domain.isReal { ensureDomain(entry.domain) }
    if let parentPath = path.parent {
      guard var parent = tree[parentPath] else { throw .malformed("\(path) comes before its parent") }
      parent.children.append(path.name)
      put(parent, at: parentPath)
    }
    let value = Array(try body.take(valueLength))
    put(StoreNode(value: value, permissions: permissions, generation: 0), at: path)
  }

  private mutating func finishRestoring() throws(StoreStreamError) {
    guard tree[.root] != nil else { throw .malformed("there is no root") }
    for path in [StorePath.introduceDomain, .releaseDomain] where tree[path] == nil {
      put(StoreNode(permissions: StorePermissions(owner: .control), generation: 0), at: path)
    }
    for id in connections.keys {
      while nextEvent(id) != nil {}
    }
  }
}
