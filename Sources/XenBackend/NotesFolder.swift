// SPDX-License-Identifier: MIT

import BlockBack
import CLinux
import Glibc
public import GuestMemory

/// The folder, in memory, that holds what queues have taken and not answered (``TakenRequests``): the next process finds it
/// there.
///
/// ```
/// /run/pvdisk/pvdisk-5-51712-0       kind, domain, device, queue
/// ```
public struct NotesFolder: Sendable {
  /// The folder.
  public let path: String

  /// Makes the folder, for its owner alone, if it is not there.
  /// - Throws: ``SystemError`` when it cannot be written.
  public init(path: String) throws(SystemError) {
    self.path = path
    if unsafe mkdir(path, 0o700) != 0, pv_errno() != EEXIST { throw SystemError("mkdir") }
    guard unsafe access(path, R_OK | W_OK | X_OK) == 0 else { throw SystemError("access") }
  }

  /// Opens the notes of a queue, or makes them.
  func open(_ name: String, byteCount: Int) throws(SystemError) -> QueueNotes {
    try QueueNotes(path: "\(path)/\(name)", byteCount: byteCount)
  }

  /// Removes notes of queues that nobody serves, whose names begin with `prefix`.
  func sweep(prefix: String, keeping kept: Set<String>) {
    guard let folder = unsafe opendir(path) else { return }
    defer { unsafe _ = closedir(folder) }
    while let entry = unsafe readdir(folder) {
      // SAFETY: the name is a terminated string in an entry that lives until the next call.
      let name = unsafe withUnsafeBytes(of: &entry.pointee.d_name) { bytes in
        unsafe String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
      }
      guard name.hasPrefix(prefix), !kept.contains(name) else { continue }
      _ = unsafe unlink("\(path)/\(name)")
    }
  }
}

/// The notes of one queue, mapped.
final class QueueNotes: Sendable {
  private let path: String
  private let memory: MappedMemory

  init(path: String, byteCount: Int) throws(SystemError) {
    self.path = path
    memory = try MemoryFile(path: path, byteCount: byteCount).map()
  }

  var region: SharedRegion { memory.region }

  /// Everything was answered, or nobody waits for it any more.
  func discard() { _ = unsafe unlink(path) }
}
