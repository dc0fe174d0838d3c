// SPDX-License-Identifier: MIT

import CLinux
import Glibc
import GuestMemory

/// The system calls around Unix stream sockets.
enum UnixSocket {
  /// Makes a non-blocking listening socket at a path where nothing is.
  static func listen(path: String, mode: UInt32) throws(SystemError) -> CInt {
    // An empty name or one with a NUL would bind a socket somewhere else.
    guard !path.isEmpty, !path.utf8.contains(0) else { throw SystemError("bind", code: EINVAL) }
    let descriptor = socket(AF_UNIX, CInt(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue | SOCK_NONBLOCK.rawValue), 0)
    guard descriptor >= 0 else { throw SystemError("socket") }
    // The mode is set before the file appears, so that at no moment more users can connect than should; again
    // afterwards, because the process's mask has taken bits away.
    fchmod(descriptor, mode)
    guard unsafe withAddress(path, { unsafe bind(descriptor, $0, $1) }) == 0 else {
      let error = SystemError("bind")
      close(descriptor)
      throw error
    }
    guard unsafe chmod(path, mode) == 0, Glibc.listen(descriptor, 128) == 0 else {
      let error = SystemError("listen")
      close(descriptor)
      unsafe unlink(path)
      throw error
    }
    return descriptor
  }

  /// Connects to the server at a path; the socket blocks.
  static func connect(path: String) throws(SystemError) -> CInt {
    guard path.utf8.count <= StoreSocketServer.maximumPathByteCount else {
      throw SystemError("connect", code: ENAMETOOLONG)
    }
    let descriptor = socket(AF_UNIX, CInt(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
    guard descriptor >= 0 else { throw SystemError("socket") }
    guard unsafe withAddress(path, { unsafe Glibc.connect(descriptor, $0, $1) }) == 0 else {
      let error = SystemError("connect")
      close(descriptor)
      throw error
    }
    return descriptor
  }

  /// Whether somebody listens at a path.
  static func isServed(path: String) -> Bool {
    let type = CInt(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue | SOCK_NONBLOCK.rawValue)
    let descriptor = socket(AF_UNIX, type, 0)
    guard descriptor >= 0 else { return false }
    defer { close(descriptor) }
    // A listener with a full queue is one, too.
    return unsafe withAddress(path, { unsafe Glibc.connect(descriptor, $0, $1) }) == 0 || errno == EAGAIN
  }

  /// Accepts a client, whose socket will not block; -1 with `errno` when there is none.
  static func accept(_ listener: CInt) -> CInt {
    let descriptor = Glibc.accept(listener, nil, nil)
    guard descriptor >= 0 else { return descriptor }
    _ = pv_fcntl_int(descriptor, F_SETFD, FD_CLOEXEC)
    _ = pv_fcntl_int(descriptor, F_SETFL, O_NONBLOCK)
    return descriptor
  }

  /// Who connected.
  static func peer(_ descriptor: CInt) -> PeerCredentials {
    var credentials = pv_peer_credentials(pid: 0, uid: UInt32.max, gid: UInt32.max)
    // SAFETY: the address is of a local value.
    _ = unsafe pv_get_peer_credentials(descriptor, &credentials)
    return PeerCredentials(process: credentials.pid, user: credentials.uid, group: credentials.gid)
  }

  private static func withAddress(_ path: String, _ body: (UnsafePointer<sockaddr>, socklen_t) -> CInt) -> CInt {
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    // SAFETY: callers have checked the length, so the path and its NUL fit; the address outlives the call.
    unsafe withUnsafeMutableBytes(of: &address.sun_path) { buffer in
      for (index, byte) in path.utf8.prefix(buffer.count - 1).enumerated() { unsafe buffer[index] = byte }
    }
    return unsafe withUnsafePointer(to: &address) { pointer in
      unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        unsafe body($0, socklen_t(MemoryLayout<sockaddr_un>.size))
      }
    }
  }
}
