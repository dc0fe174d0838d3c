// SPDX-License-Identifier: MIT

import Glibc

/// A place to mount on, looked at before anything is done to it.
struct MountPoint: Equatable {
  /// The place without symbolic links.
  let path: String
  /// Whether it becomes the directory around the disk, or the disk.
  let shape: FuseNamespace.Shape

  /// Accepts an empty directory or a regular file that nothing is mounted on.
  init(at path: String) throws(FuseError) {
    var status = stat()
    // SAFETY: the kernel fills the local structure.
    guard unsafe stat(path, &status) == 0 else { throw Self.failure(path, errno) }
    switch status.st_mode & S_IFMT {
    case S_IFDIR: shape = .directory
    case S_IFREG: shape = .file
    default: throw .mountPointUnsuitable(path: path)
    }
    guard let resolved = unsafe realpath(path, nil) else { throw Self.failure(path, errno) }
    // SAFETY: realpath answered a terminated string that is ours to free.
    self.path = unsafe String(cString: resolved)
    unsafe free(resolved)
    if mountedDevice != nil { throw .mountPointInUse(path: path) }
    if geteuid() != 0 {
      guard unsafe access(self.path, W_OK) == 0 else { throw Self.failure(path, errno) }
    }
    if shape == .directory { try Self.requireEmpty(self.path) }
  }

  private static func failure(_ path: String, _ code: CInt) -> FuseError {
    switch code {
    case ENOENT: .mountPointMissing(path: path)
    case ENOTCONN: .mountPointDead(path: path)
    default: .mountPointForbidden(path: path, reason: FuseError.sentence(for: code))
    }
  }

  private static func requireEmpty(_ path: String) throws(FuseError) {
    guard let directory = unsafe opendir(path) else { throw failure(path, errno) }
    defer { unsafe _ = closedir(directory) }
    var entries = 0
    while unsafe readdir(directory) != nil { entries += 1 }
    // "." and ".." are always there.
    guard entries <= 2 else { throw .mountPointNotEmpty(path: path) }
  }

  /// The device number of what is mounted here last, as the kernel's list of mounts has it; nil when nothing is.
  ///
  /// Does not ask the file system, which may be our own.
  var mountedDevice: String? { Self.device(mountedOn: path, in: FileText.contents(at: "/proc/thread-self/mountinfo")) }

  /// The third column of the last line whose fifth names the path, with spaces as octal numbers (proc(5)).
  static func device(mountedOn path: String, in mountInfo: String) -> String? {
    let wanted = path.replacing(["\\"], with: "\\134").replacing([" "], with: "\\040")
      .replacing(["\t"], with: "\\011").replacing(["\n"], with: "\\012")
    return mountInfo.split(separator: "\n")
      .map { $0.split(separator: " ", maxSplits: 5) }
      .last { $0.count > 4 && $0[4] == wanted }
      .map { String($0[2]) }
  }
}
