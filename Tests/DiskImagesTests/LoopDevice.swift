// SPDX-License-Identifier: MIT

import CLinux
import Glibc
import GuestMemory

/// A block device over a file, until this object goes.
final class LoopDevice {
  let path: String

  static let isAvailable: Bool = {
    guard geteuid() == 0 else { return false }
    guard unsafe access("/dev/loop-control", R_OK | W_OK) == 0 else { return false }
    return unsafe access("/usr/sbin/losetup", X_OK) == 0
  }()

  /// Attaches a file to a free loop device; another process may be quicker, so it tries again.
  init(file: String, sectorSize: Int = 512) throws(SystemError) {
    let control = unsafe open("/dev/loop-control", O_RDWR | O_CLOEXEC)
    guard control >= 0 else { throw SystemError("open") }
    defer { close(control) }
    for _ in 0..<20 {
      // LOOP_CTL_GET_FREE of linux/loop.h
      let number = pv_ioctl_u64(control, 0x4C82, nil)
      guard number >= 0 else { throw SystemError("ioctl") }
      let candidate = "/dev/loop\(number)"
      let arguments = ["/usr/sbin/losetup", "-b", "\(sectorSize)", candidate, file]
      if try ChildProcess.run(arguments) == 0 {
        path = candidate
        return
      }
    }
    throw SystemError("losetup", code: EBUSY)
  }

  deinit { _ = try? ChildProcess.run(["/usr/sbin/losetup", "-d", path]) }
}
