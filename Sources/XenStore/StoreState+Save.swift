// SPDX-License-Identifier: MIT

import XenWire

extension StoreState {
  /// The state as a stream.
  func saved() -> [UInt8] {
    var stream = StreamWriter()
    stream.append(.globalQuota) { body in
      body.append(UInt16(StoreQuotas.names.count))
      body.append(UInt16(0))
      Self.append(quotas, to: &body)
    }
    var guests: [DomainID: UInt32] = [:]
    for (domain, record) in domains.sorted(by: { $0.key < $1.key }) {
      if record.isIntroduced, domain != .control {
        let number = UInt32(guests.count + 1)
        guests[domain] = number
        stream.append(.connection) { body in
          body.append(number)
          body.append(UInt32(0))
          body.append(domain.rawValue)
          body.append(record.target?.rawValue ?? StoreStream.noTarget)
          body.append(UInt32(0))
          body.append(UInt64(0))
        }
      }
    }
    for (domain, record) in domains.sorted(by: { $0.key < $1.key }) where domain != .control {
      stream.append(.domain) { body in
        body.append(domain.rawValue)
        body.append(UInt16(StoreQuotas.names.count))
        body.append(record.features.rawValue)
        Self.append(record.quotas, to: &body)
      }
    }
    for (_, watch) in watches.records.sorted(by: { $0.key < $1.key }) {
      guard let connection = connections[watch.connection], !connection.isPrivileged,
        let number = guests[connection.domain]
      else { continue }
      append(watch, of: number, to: &stream)
    }
    var stack = [StorePath.introduceDomain, .releaseDomain, .root]
    while let path = stack.popLast() {
      guard let node = tree[path] else { preconditionFailure("\(path) is listed but missing") }
      append(node, at: path, to: &stream)
      stack.append(contentsOf: node.children.inOrder.reversed().map { path.child($0) })
    }
    stream.append(.end) { _ in }
    return stream.bytes
  }

  private static func append(_ quotas: StoreQuotas, to body: inout StreamBody) {
    for name in StoreQuotas.names { body.append(UInt32(clamping: quotas[named: name] ?? 0)) }
    for name in StoreQuotas.names { body.append(name) }
  }

  private func append(_ watch: WatchRecord, of connection: UInt32, to stream: inout StreamWriter) {
    let path = String(decoding: watch.path.string.utf8.dropFirst(watch.prefixByteCount), as: UTF8.self)
    stream.append(watch.depth == nil ? .watch : .extendedWatch) { body in
      body.append(connection)
      body.append(UInt16(path.utf8.count + 1))
      body.append(UInt16(watch.token.utf8.count + 1))
      if let depth = watch.depth {
        body.append(UInt16(clamping: min(depth, 0xFFFE)))
        body.append(UInt16(0))
      }
      body.append(path)
      body.append(watch.token)
    }
  }

  private func append(_ node: StoreNode, at path: StorePath, to stream: inout StreamWriter) {
    stream.append(.node) { body in
      body.append(UInt64(0))
      body.append(UInt16(path.byteCount + 1))
      body.append(UInt16(node.value.count))
      body.append(UInt16(0))
      body.append(UInt16(node.permissions.entries.count))
      for (index, entry) in node.permissions.entries.enumerated() {
        body.append(entry.access.letter.asciiValue ?? 0)
        body.append(index == 0 || isAlive(entry, in: node) ? UInt8(0) : 1)
        body.append(entry.domain.rawValue)
      }
      body.append(path.string)
      body.append(raw: node.value)
    }
  }
}
