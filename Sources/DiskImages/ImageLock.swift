// SPDX-License-Identifier: MIT

import BlockIO
import CLinux
import Glibc

/// The locks by which programs keep off each other's images, bytewise as QEMU takes them (QEMU `block/file-posix.c`).
///
/// ```
/// byte 100 + n   read-locked by whoever does n to the image
/// byte 200 + n   read-locked by whoever does not bear that others do n
///            n   0 reads consistently   1 writes   3 changes the size
/// ```
///
/// A reader does 0 and does not bear 1 and 3. A writer does 0, 1 and 3 and does not bear any of them, so that it excludes
/// readers too. Each takes its locks first and looks second: of two that come at once one fails, or both, never none.
/// The locks belong to the open file description and go with it at the latest.
enum ImageLock {
  private static let does: Int64 = 100
  private static let doesNotBear: Int64 = 200
  private static let readsConsistently: Int64 = 0
  private static let writes: Int64 = 1
  private static let changesSize: Int64 = 3

  static func acquire(
    _ descriptor: CInt, access: ImageOptions.Access, path: String
  ) throws(BlockError) {
    let intends: [Int64]
    let excludes: [Int64]
    switch access {
    case .readOnly:
      intends = [readsConsistently]
      excludes = [writes, changesSize]
    case .readWrite:
      intends = [readsConsistently, writes, changesSize]
      excludes = [readsConsistently, writes, changesSize]
    }
    for byte in intends.map({ does + $0 }) + excludes.map({ doesNotBear + $0 }) {
      guard pv_ofd_lock_range(descriptor, CInt(F_RDLCK), byte, 1) == 0 else {
        let code = pv_errno()
        if code == EAGAIN || code == EACCES { throw held(descriptor, path: path) }
        throw .system(call: "fcntl(F_OFD_SETLK)", path: path, code: code)
      }
    }
    for byte in intends.map({ doesNotBear + $0 }) + excludes.map({ does + $0 }) {
      switch pv_ofd_lock_conflict(descriptor, CInt(F_WRLCK), byte, 1) {
      case 0: continue
      case 1: throw held(descriptor, path: path)
      default: throw .system(call: "fcntl(F_OFD_GETLK)", path: path, code: pv_errno())
      }
    }
  }

  /// Gives all locks back.
  ///
  /// Closing alone does it only when nobody has a copy of the descriptor, and a child process has
  /// one from its birth until it runs its program.
  static func release(_ descriptor: CInt) {
    _ = pv_ofd_lock_range(descriptor, CInt(F_UNLCK), 0, 0)
  }

  private static func held(_ descriptor: CInt, path: String) -> BlockError {
    .locked(path: path, holder: LockHolder.describe(descriptor))
  }
}

/// Finds who holds locks on a file.
///
/// The kernel does not tell the owner of an open file description's lock, but each
/// process's `/proc/PID/fdinfo` shows the locks of its descriptors.
enum LockHolder {
  /// The holder as "process 4711 (pvdisk)", or nil when it is not ours to see.
  static func describe(_ descriptor: CInt) -> String? {
    var wanted = stat()
    guard unsafe fstat(descriptor, &wanted) == 0 else { return nil }
    for process in ProcText.names(in: "/proc") where process.allSatisfy(\.isNumber) {
      for name in ProcText.names(in: "/proc/\(process)/fd") {
        if Int32(process) == getpid() && Int32(name) == descriptor { continue }
        var status = stat()
        guard unsafe stat("/proc/\(process)/fd/\(name)", &status) == 0 else { continue }
        guard status.st_dev == wanted.st_dev && status.st_ino == wanted.st_ino else { continue }
        guard let locks = ProcText.read("/proc/\(process)/fdinfo/\(name)"), locks.contains("lock:") else { continue }
        let command = ProcText.read("/proc/\(process)/comm")?.prefix { $0 != "\n" } ?? "?"
        return "process \(process) (\(command))"
      }
    }
    return nil
  }
}
