// SPDX-License-Identifier: MIT

import Glibc
import GuestMemory
import Synchronization

extension FuseNamespace {
  func lookup(_ exchange: Exchange) -> Answer {
    guard exchange.node == Self.rootNode else { return .failure(ENOENT) }
    guard shape == .directory else { return .failure(ENOTDIR) }
    let nameCount = fileName.count
    guard exchange.payloadByteCount == nameCount + 1, exchange.payload.load(UInt8.self, at: nameCount) == 0,
      fileName.indices.allSatisfy({ exchange.payload.load(UInt8.self, at: $0) == fileName[$0] })
    else { return .failure(ENOENT) }
    encodeEntry(into: exchange.area, exchange)
    return .small(error: 0, byteCount: FuseSize.entryOut)
  }

  /// Writes struct fuse_entry_out of the disk.
  private func encodeEntry(into area: SharedRegion, _ exchange: Exchange) {
    area.fill(0, at: 0, byteCount: FuseSize.entryOut)
    area.store(diskNode, at: 0)
    area.store(Self.validitySeconds, at: 16)
    area.store(Self.validitySeconds, at: 24)
    attributes(of: diskNode, disk: exchange.disk)?
      .encode(node: diskNode, disk: exchange.disk, into: area.slice(at: 40, byteCount: FuseSize.attributes))
  }

  func getattr(_ exchange: Exchange) -> Answer {
    let node = exchange.node
    guard let attributes = attributes(of: node, disk: exchange.disk) else { return .failure(ENOENT) }
    return attributesAnswer(attributes, node, exchange)
  }

  private func attributesAnswer(_ attributes: FuseAttributes, _ node: UInt64, _ exchange: Exchange) -> Answer {
    exchange.area.fill(0, at: 0, byteCount: FuseSize.attributesOut)
    exchange.area.store(Self.validitySeconds, at: 0)
    attributes.encode(
      node: node, disk: extent(of: node, exchange),
      into: exchange.area.slice(at: 16, byteCount: FuseSize.attributes))
    return .small(error: 0, byteCount: FuseSize.attributesOut)
  }

  func setattr(_ exchange: Exchange) -> Answer {
    let node = exchange.node
    let request = exchange.arguments
    let valid = request.load(UInt32.self, at: 0)
    if valid & FuseSetattrBits.size != 0 {
      guard node == diskNode else { return .failure(EISDIR) }
      guard mayTruncate(to: request.load(UInt64.self, at: 16), valid: valid, exchange) else {
        return .failure(EPERM)
      }
    }
    guard attributes(of: node, disk: exchange.disk) != nil else { return .failure(ENOENT) }
    let changed = state.withLock { state in
      if node == diskNode {
        state.disk.apply(request)
        return state.disk
      }
      state.directory.apply(request)
      return state.directory
    }
    return attributesAnswer(changed, node, exchange)
  }

  /// A disk keeps its size: asking for the size that it has is granted, and so is `O_TRUNC`, which a block device
  /// ignores.
  private func mayTruncate(to size: UInt64, valid: UInt32, _ exchange: Exchange) -> Bool {
    if size == exchange.disk.byteCount { return true }
    guard size == 0, valid & FuseSetattrBits.fileHandle == 0 else { return false }
    return state.withLock { $0.writeOpens.take(exchange.process) }
  }

  func open(_ exchange: Exchange) -> Answer {
    guard exchange.node == diskNode else { return .failure(exchange.node == Self.rootNode ? EISDIR : ENOENT) }
    let writes = exchange.arguments.load(UInt32.self, at: 0) & UInt32(O_ACCMODE) != UInt32(O_RDONLY)
    if writes && isReadOnly { return .failure(EROFS) }
    if writes { state.withLock { $0.writeOpens.note(exchange.process) } }
    exchange.area.fill(0, at: 0, byteCount: FuseSize.openOut)
    exchange.area.store(FuseOpenFlags.directIO | FuseOpenFlags.parallelDirectWrites, at: 8)
    return .small(error: 0, byteCount: FuseSize.openOut)
  }

  func opendir(_ exchange: Exchange) -> Answer {
    guard exchange.node == Self.rootNode, shape == .directory else { return .failure(ENOTDIR) }
    exchange.area.fill(0, at: 0, byteCount: FuseSize.openOut)
    return .small(error: 0, byteCount: FuseSize.openOut)
  }

  /// READDIR and READDIRPLUS: ".", ".." and the disk, from the entry that the request's offset names.
  func list(_ exchange: Exchange, plus: Bool) -> Answer {
    guard exchange.node == Self.rootNode, shape == .directory else { return .failure(ENOTDIR) }
    let first = exchange.arguments.load(UInt64.self, at: 8)
    let room = min(Int(exchange.arguments.load(UInt32.self, at: 16)), exchange.payload.byteCount)
    let entries: [(name: [UInt8], node: UInt64, kind: UInt32)] = [
      (Array(".".utf8), Self.rootNode, S_IFDIR), (Array("..".utf8), Self.rootNode, S_IFDIR),
      (fileName, diskNode, S_IFREG),
    ]
    var used = 0
    for (index, entry) in entries.enumerated() where UInt64(index) >= first {
      let prefix = plus ? FuseSize.entryOut : 0
      let count = (prefix + FuseSize.directoryEntry + entry.name.count + 7) & ~7
      guard used + count <= room else { break }
      let area = exchange.payload.slice(at: used, byteCount: count)
      area.fill(0)
      // An entry without a node, as "." and ".." have it, does not count as a look-up.
      if plus && entry.node == diskNode { encodeEntry(into: area, exchange) }
      area.store(entry.node, at: prefix)
      area.store(UInt64(index + 1), at: prefix + 8)
      area.store(UInt32(entry.name.count), at: prefix + 16)
      area.store(entry.kind >> 12, at: prefix + 20)
      // SAFETY: the slice was made long enough for the name.
      unsafe area.copyIn(entry.name.span.bytes, at: prefix + FuseSize.directoryEntry)
      used += count
    }
    return .payload(byteCount: used)
  }

  func statfs(_ exchange: Exchange) -> Answer {
    let area = exchange.area
    let block = UInt64(PageGeometry.pageSize)
    area.fill(0, at: 0, byteCount: FuseSize.statfsOut)
    area.store((exchange.disk.byteCount + block - 1) / block, at: 0)
    area.store(UInt64(shape == .file ? 1 : 2), at: 24)
    area.store(UInt32(block), at: 40)
    area.store(UInt32(255), at: 44)
    area.store(UInt32(block), at: 48)
    return .small(error: 0, byteCount: FuseSize.statfsOut)
  }
}
