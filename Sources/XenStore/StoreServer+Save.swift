// SPDX-License-Identifier: MIT

import CLinux
import Glibc
import GuestMemory
import Synchronization

extension StoreServer {
  /// The whole state as bytes: nodes, domains, quotas and guests' watches.
  ///
  /// The format is Xen's own (`docs/designs/xenstore-migration.md` there). Socket clients and open transactions are not
  /// part of it.
  public func saved() -> [UInt8] { perform { state in state.saved() } }

  /// Writes the state to a file; another file of that name is replaced only when all is written.
  public func save(to path: String) throws(StoreStreamError) {
    let bytes = saved()
    let draft = path + ".new"
    let descriptor = unsafe pv_open(draft, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
    guard descriptor >= 0 else { throw .system(SystemError("open")) }
    defer { _ = close(descriptor) }
    var rest = bytes[...]
    while !rest.isEmpty {
      // SAFETY: the address and the count are those of the slice's own bytes.
      let count = unsafe rest.withUnsafeBytes { unsafe write(descriptor, $0.baseAddress, $0.count) }
      guard count > 0 else { throw .system(SystemError("write")) }
      rest = rest.dropFirst(count)
    }
    guard fsync(descriptor) == 0 else { throw .system(SystemError("fsync")) }
    guard unsafe rename(draft, path) == 0 else { throw .system(SystemError("rename")) }
  }

  /// Makes a store from a saved state.
  ///
  /// A guest that connects again finds the watches that it had.
  public convenience init(
    restoring bytes: [UInt8], clock: (@Sendable () -> UInt64)? = nil
  ) throws(StoreStreamError) {
    self.init(state: try StoreState(restoring: bytes, clock: clock ?? { pv_monotonic_nanoseconds() }))
  }

  /// Makes a store from a file that ``save(to:)`` has written.
  public convenience init(restoringFrom path: String) throws(StoreStreamError) {
    let descriptor = unsafe pv_open(path, O_RDONLY | O_CLOEXEC, 0)
    guard descriptor >= 0 else { throw .system(SystemError("open")) }
    defer { _ = close(descriptor) }
    var content = ByteQueue()
    while true {
      let count = content.fill(from: descriptor, limit: 1 << 16)
      if count == 0 { break }
      guard count > 0 else { throw .system(SystemError("read")) }
    }
    try self.init(restoring: Array(content.bytes))
  }
}
