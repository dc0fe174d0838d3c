// SPDX-License-Identifier: MIT

import Glibc
public import GuestMemory
import Synchronization

/// The one-file file system around the disk: names, attributes, directories.
///
/// Everything but the disk's contents.
///
/// In a directory mount node 1 is the directory and node 2 the disk; in a file mount node 1 is the disk. Shared by the
/// reactors and locked inside: none of this is in the path of a read or a write.
@usableFromInline
final class FuseNamespace: Sendable {
  /// What to send back.
  @usableFromInline
  enum Answer: Equatable, Sendable {
    /// A positive `errno` or 0, and the bytes that were put into the answer area.
    case small(error: CInt, byteCount: Int)
    /// Bytes that were put into the buffer.
    case payload(byteCount: Int)
    /// Nothing: the kernel expects no answer.
    case none

    static func failure(_ error: CInt) -> Answer { .small(error: error, byteCount: 0) }
    static var success: Answer { .small(error: 0, byteCount: 0) }
  }

  /// What the mount point is.
  enum Shape: Equatable, Sendable {
    /// A directory that holds the disk.
    case directory
    /// The disk itself.
    case file
  }

  /// A request, and the places for its answer.
  @usableFromInline
  struct Exchange {
    /// The request's header.
    @usableFromInline let header: SharedRegion
    /// The operation's own structure.
    @usableFromInline let arguments: SharedRegion
    /// The request's buffer, whose first `payloadByteCount` bytes came with it.
    @usableFromInline let payload: SharedRegion
    @usableFromInline let payloadByteCount: Int
    /// Where a small answer is built.
    @usableFromInline let area: SharedRegion
    /// The disk, as it is now.
    @usableFromInline let disk: DiskExtent

    @usableFromInline
    init(
      header: SharedRegion, arguments: SharedRegion, payload: SharedRegion, payloadByteCount: Int, area: SharedRegion,
      disk: DiskExtent
    ) {
      self.header = header
      self.arguments = arguments
      self.payload = payload
      self.payloadByteCount = payloadByteCount
      self.area = area
      self.disk = disk
    }

    var node: UInt64 { header.load(UInt64.self, at: FuseHeader.node) }
    var process: UInt32 { header.load(UInt32.self, at: FuseHeader.process) }
  }

  struct State: Sendable {
    var directory: FuseAttributes
    var disk: FuseAttributes
    var seenGeneration: UInt64 = 0
    var writeOpens = RecentOpens()
  }

  static let rootNode: UInt64 = 1
  /// Seconds for which the kernel may believe names and attributes without asking.
  static let validitySeconds: UInt64 = 1

  let shape: Shape
  let fileName: [UInt8]
  let isReadOnly: Bool
  let negotiation: FuseNegotiation
  let state: Mutex<State>

  init(shape: Shape, fileName: String, isReadOnly: Bool, user: UInt32, group: UInt32, negotiation: FuseNegotiation) {
    self.shape = shape
    self.fileName = Array(fileName.utf8)
    self.isReadOnly = isReadOnly
    self.negotiation = negotiation
    let diskMode: UInt32 = isReadOnly ? 0o400 : 0o600
    let directoryMode: UInt32 = isReadOnly ? 0o500 : 0o700
    state = Mutex(
      State(
        directory: FuseAttributes(mode: S_IFDIR | directoryMode, user: user, group: group),
        disk: FuseAttributes(mode: S_IFREG | diskMode, user: user, group: group)))
  }

  /// The disk's node.
  @usableFromInline
  var diskNode: UInt64 { shape == .file ? Self.rootNode : 2 }

  /// Answers whatever is not about the disk's contents.
  @usableFromInline
  func answer(_ opcode: UInt32, _ exchange: Exchange) -> Answer {
    switch opcode {
    case FuseOpcode.lookup: return lookup(exchange)
    case FuseOpcode.getattr: return getattr(exchange)
    case FuseOpcode.setattr: return setattr(exchange)
    case FuseOpcode.open: return open(exchange)
    case FuseOpcode.opendir: return opendir(exchange)
    case FuseOpcode.readdir: return list(exchange, plus: false)
    case FuseOpcode.readdirplus: return list(exchange, plus: true)
    case FuseOpcode.statfs: return statfs(exchange)
    case FuseOpcode.release, FuseOpcode.releasedir, FuseOpcode.destroy: return .success
    case FuseOpcode.forget, FuseOpcode.batchForget, FuseOpcode.interrupt: return .none
    case FuseOpcode.initialise:
      guard case .agreed = negotiation.negotiate(offer: exchange.arguments, into: exchange.area) else {
        return .failure(EPROTO)
      }
      return .small(error: 0, byteCount: FuseSize.initOut)
    case FuseOpcode.symlink, FuseOpcode.mknod, FuseOpcode.mkdir, FuseOpcode.unlink, FuseOpcode.rmdir,
      FuseOpcode.rename, FuseOpcode.rename2, FuseOpcode.link, FuseOpcode.create, FuseOpcode.tmpfile:
      // A disk's directory holds the disk and nothing else.
      return .failure(isReadOnly ? EROFS : EPERM)
    default: return .failure(ENOSYS)
    }
  }

  /// The attributes of a node, after noticing writes: they change the modification time, at the latest when somebody
  /// looks.
  func attributes(of node: UInt64, disk: DiskExtent) -> FuseAttributes? {
    state.withLock { state in
      if state.seenGeneration != disk.generation {
        state.seenGeneration = disk.generation
        state.disk.modificationTime = .now()
        state.disk.changeTime = state.disk.modificationTime
      }
      if node == diskNode { return state.disk }
      return node == Self.rootNode ? state.directory : nil
    }
  }

  /// The part of the disk's description that belongs to a node: none for the directory.
  func extent(of node: UInt64, _ exchange: Exchange) -> DiskExtent? { node == diskNode ? exchange.disk : nil }
}

/// Threads that lately opened the disk for writing, the newest of each.
///
/// `open(O_TRUNC)` reaches us as OPEN, and then a SETATTR of size 0 from the same thread that names no open file. On a
/// disk that must do nothing, while `truncate(2)` must be refused; only the order tells them apart.
struct RecentOpens: Equatable, Sendable {
  private var processes: [UInt32] = []
  private static let limit = 64

  mutating func note(_ process: UInt32) {
    processes.removeAll { $0 == process }
    if processes.count == Self.limit { processes.removeFirst() }
    processes.append(process)
  }

  /// Whether the thread is in the list; it leaves it.
  mutating func take(_ process: UInt32) -> Bool {
    guard let place = processes.lastIndex(of: process) else { return false }
    processes.remove(at: place)
    return true
  }
}
