// SPDX-License-Identifier: MIT

public import BlockIO
import Glibc

/// Why a disk cannot be shown as a file; each case says what the user needs to mend it.
public enum FuseError: Error, Equatable, Sendable {
  /// There is nothing at the mount point.
  case mountPointMissing(path: String)
  /// The mount point is neither a directory nor a regular file.
  case mountPointUnsuitable(path: String)
  /// The directory holds something that the mount would hide.
  case mountPointNotEmpty(path: String)
  /// Something is mounted there already.
  case mountPointInUse(path: String)
  /// The caller may not look at, or write to, the mount point.
  case mountPointForbidden(path: String, reason: String)
  /// A mount was left there by a process that has died.
  case mountPointDead(path: String)
  /// The kernel has no FUSE.
  case noFuseDevice
  /// The caller may not open /dev/fuse.
  case fuseDeviceForbidden
  /// An ordinary user needs the helper that mounts, and it is not installed.
  case mountProgramMissing
  /// No such `-o` option.
  case unknownOption(String)
  /// The name for the disk's file is empty, too long, or holds a slash.
  case invalidFileName(String)
  /// The mount failed; the reason is the system's or the mount program's.
  case mountFailed(path: String, reason: String)
  /// The kernel does not offer fuse-over-io_uring, and it was asked for.
  case ringUnavailable(reason: String)
  /// The device could not make a queue.
  case device(BlockError)
  /// A system call failed.
  case system(call: String, code: CInt)
}

extension FuseError: CustomStringConvertible {
  /// One sentence that names the thing and the way out.
  public var description: String {
    switch self {
    case .mountPointMissing(let path):
      "mount point \(path) does not exist: create an empty directory or file there"
    case .mountPointUnsuitable(let path):
      "mount point \(path) is neither a directory nor a regular file"
    case .mountPointNotEmpty(let path):
      "mount point \(path) is a directory that is not empty: choose an empty one"
    case .mountPointInUse(let path):
      "something is already mounted on \(path): unmount it or choose another place"
    case .mountPointForbidden(let path, let reason):
      "mount point \(path) is not yours to use (\(reason))"
    case .mountPointDead(let path):
      "a dead mount was left on \(path): remove it with fusermount3 -u \(path)"
    case .noFuseDevice:
      "there is no /dev/fuse: load the kernel's FUSE module (modprobe fuse)"
    case .fuseDeviceForbidden:
      "/dev/fuse cannot be opened by this user: ask for mode 0666 on it"
    case .mountProgramMissing:
      "fusermount3 was not found: install the package fuse3"
    case .unknownOption(let option):
      "unknown mount option \(option)"
    case .invalidFileName(let name):
      "\"\(name)\" cannot name the disk's file: use 1 to 255 bytes without a slash"
    case .mountFailed(let path, let reason):
      "cannot mount on \(path): \(reason)"
    case .ringUnavailable(let reason):
      "fuse-over-io_uring is not available: \(reason)"
    case .device(let error):
      "the disk cannot be used: \(error)"
    case .system(let call, let code):
      "\(call): \(Self.sentence(for: code))"
    }
  }

  /// The system's sentence for an `errno`.
  static func sentence(for code: CInt) -> String {
    // SAFETY: strerror answers a terminated string that stays valid until the next call on this thread.
    unsafe String(cString: strerror(code))
  }
}
