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

  /// How often a lock is asked for that no process has, and how long one waits in between, in microseconds.
  private static let tries = 100, pause: useconds_t = 20_000

  /// Takes the locks.
  ///
  /// What a killed process had open, its rings of io_uring hold for some ten milliseconds more, and for as long as I/O of theirs
  /// is under way: nobody can be seen to have the lock then, and whoever starts the disk again is made to wait, not to fail.
  static func acquire(
    _ descriptor: CInt, access: ImageOptions.Access, path: String
  ) throws(BlockError) {
    for _ in 0..<tries {
      if try take(descriptor, access: access, path: path) { return }
      if let holder = LockHolder.describe(descriptor) { throw .locked(path: path, holder: holder) }
      release(descriptor)
      usleep(pause)
    }
    throw .locked(path: path, holder: nil)
  }

  /// Takes the locks, or some of them: false when somebody else has one that excludes it.
  private static func take(
    _ descriptor: CInt, access: ImageOptions.Access, path: String
  ) throws(BlockError) -> Bool {
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
        if code == EAGAIN || code == EACCES { return false }
        throw .system(call: "fcntl(F_OFD_SETLK)", path: path, code: code)
      }
    }
    for byte in intends.map({ doesNotBear + $0 }) + excludes.map({ does + $0 }) {
      switch pv_ofd_lock_conflict(descriptor, CInt(F_WRLCK), byte, 1) {
      case 0: continue
      case 1: return false
      default: throw .system(call: "fcntl(F_OFD_GETLK)", path: path, code: pv_errno())
      }
    }
    return true
  }

  /// Gives all locks back.
  ///
  /// Closing alone does it only when nobody has a copy of the descriptor, and a child process has
  /// one from its birth until it runs its program.
  static func release(_ descriptor: CInt) {
    _ = pv_ofd_lock_range(descriptor, CInt(F_UNLCK), 0, 0)
  }
}

/// Finds who holds locks on a file.
///
/// The kernel does not tell the owner of an open file description's lock, but `/proc/PID/fdinfo` shows the locks of each
/// descriptor, and the file that each is on. The descriptors themselves are never looked at: a `stat(2)` through one that
/// leads into a FUSE mount waits for the server of that mount, which may be stuck, or be this process.
enum LockHolder {
  /// The holder as "process 4711 (pvdisk)", or nil when it is not ours to see, or no process; we must hold a lock ourselves.
  static func describe(_ descriptor: CInt) -> String? {
    let own = "/proc/\(getpid())/fdinfo/\(descriptor)"
    guard let wanted = lockedFiles(own).first else { return nil }
    for process in ProcText.names(in: "/proc") where process.allSatisfy(\.isNumber) {
      for name in ProcText.names(in: "/proc/\(process)/fdinfo") {
        let path = "/proc/\(process)/fdinfo/\(name)"
        guard path != own && lockedFiles(path).contains(wanted) else { continue }
        let command = ProcText.read("/proc/\(process)/comm")?.prefix { $0 != "\n" } ?? "?"
        return "process \(process) (\(command))"
      }
    }
    return nil
  }

  /// The files that a descriptor has locks on, as the kernel writes them: "fe:00:4711", device and inode.
  private static func lockedFiles(_ path: String) -> [Substring] {
    guard let text = ProcText.read(path) else { return [] }
    return text.split(separator: "\n").filter { $0.hasPrefix("lock:") }.compactMap { line in
      // lock: 1: OFDLCK ADVISORY READ -1 fe:00:4711 100 100
      line.split(whereSeparator: \.isWhitespace).first { word in
        word.split(separator: ":", omittingEmptySubsequences: false).count == 3
      }
    }
  }
}
