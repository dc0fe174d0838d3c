// SPDX-License-Identifier: MIT

import CFuse3
import CLinux
import Glibc
import GuestMemory
import Synchronization

/// A mount made by libfuse: it reads the options, opens /dev/fuse, mounts and unmounts, as root or through fusermount3.
///
/// Requests are none of its business.
@safe final class FuseSession: @unchecked Sendable {
  // SAFETY: the session is used by one thread at a time: under `open`'s lock, or before anybody else knows of it.
  private let session: OpaquePointer
  private let state = Mutex(State())
  let mountPoint: MountPoint
  /// The connection to the kernel, non-blocking and our own: libfuse closes its copy when it unmounts.
  ///
  /// Good until `disconnect`.
  let descriptor: CInt

  /// The mount's device number in the kernel's list of mounts.
  private let device: String?

  private struct State {
    var isMounted = true
    var isConnected = true
  }

  /// Mounts.
  init(options: FuseOptions, isReadOnly: Bool) throws(FuseError) {
    mountPoint = try MountPoint(at: options.mountPoint)
    try Self.requireFuse()
    var list = [
      "fsname=\(Self.escaped(options.fileSystemName))", "subtype=\(Self.escaped(options.subtype))",
      "default_permissions",
    ]
    if isReadOnly { list.append("ro") }
    if options.allowsOtherUsers { list.append("allow_other") }
    list += options.mountOptions.filter { !$0.isEmpty }
    unsafe session = try Self.makeSession(optionList: list)
    let path = mountPoint.path
    let made = unsafe session
    let (status, text) = FuseMessages.capture { unsafe fuse_session_mount(made, path) }
    guard status == 0 else {
      unsafe fuse_session_destroy(made)
      throw Self.mountFailure(path, text)
    }
    device = mountPoint.mountedDevice
    descriptor = fcntl(unsafe fuse_session_fd(made), F_DUPFD_CLOEXEC, 3)
    guard descriptor >= 0 else {
      let code = errno
      unsafe fuse_session_unmount(made)
      unsafe fuse_session_destroy(made)
      throw .system(call: "fcntl", code: code)
    }
    let flags = pv_fcntl_int(descriptor, F_GETFL, 0)
    _ = pv_fcntl_int(descriptor, F_SETFL, flags | O_NONBLOCK)
  }

  deinit {
    disconnect()
    unsafe fuse_session_destroy(session)
  }

  /// Ends the mount however it stands: undoes it at once, or, if somebody uses it, as soon as they stop.
  func close() {
    state.withLock { state in
      guard state.isMounted else { return }
      state.isMounted = false
      _ = FuseMessages.capture { unsafe fuse_session_unmount(session) }
      // libfuse takes a connection that was aborted for one that was unmounted.
      if device != nil && mountPoint.mountedDevice == device { unmount(lazily: true) }
    }
  }

  private func unmount(lazily: Bool) {
    if geteuid() == 0 {
      unsafe _ = umount2(mountPoint.path, CInt(UMOUNT_NOFOLLOW) | (lazily ? CInt(MNT_DETACH) : 0))
    } else {
      Self.run("fusermount3", ["-u", "-q"] + (lazily ? ["-z"] : []) + ["--", mountPoint.path])
    }
  }

  /// Ends the mount and the connection: the kernel fails whatever somebody still asks for.
  ///
  /// Closing the descriptors would not do. A process that is being started just now, by any thread, has copies of ours until
  /// its exec(2); if it has a file of this mount open, too, exec closes that, which asks for a FLUSH that nobody answers,
  /// while the copy keeps the kernel waiting for the answer.
  func disconnect() {
    close()
    state.withLock { state in
      guard state.isConnected else { return }
      state.isConnected = false
      if isServed, let minor = device?.split(separator: ":").last.flatMap({ UInt32($0) }) {
        _ = pv_fuse_abort(descriptor, minor)
      }
      Glibc.close(descriptor)
    }
  }

  /// Whether the kernel still serves the mount; not after `disconnect`.
  private var isServed: Bool {
    var entry = pollfd(fd: descriptor, events: 0, revents: 0)
    // SAFETY: one local entry.
    return unsafe poll(&entry, 1, 0) >= 0 && entry.revents & Int16(POLLERR) == 0
  }

  /// Unmounts if nobody uses the mount; answers whether that was so.
  func unmountIfIdle() -> Bool {
    guard isServed else { return true }
    unmount(lazily: false)
    return !isServed
  }

  /// Sends FUSE_NOTIFY_INVAL_INODE (struct fuse_notify_inval_inode_out) for a node's attributes, not for its pages.
  func forgetAttributes(of node: UInt64) {
    let message: [UInt64] = [40 | 2 << 32, 0, node, UInt64(bitPattern: -1), 0]
    state.withLock { state in
      guard state.isConnected else { return }
      // SAFETY: 40 bytes: an out header with code 2 in place of an error, the node, offset -1, length 0.
      _ = unsafe pv_fuse_answer(descriptor, message, 40, nil, 0)
    }
  }

  /// A further descriptor of the same connection, with a request list of its own; where /dev/fuse cannot be opened
  /// (fusermount3 did it for us), a copy of the first one.
  func makeChannelDescriptor(isFirst: Bool) throws(FuseError) -> CInt {
    if !isFirst, let clone = makeClone(flags: O_NONBLOCK) { return clone }
    let copy = fcntl(descriptor, F_DUPFD_CLOEXEC, 3)
    guard copy >= 0 else { throw .system(call: "fcntl", code: errno) }
    return copy
  }

  /// A further descriptor of the same connection (`FUSE_DEV_IOC_CLONE`); nothing where /dev/fuse cannot be opened.
  func makeClone(flags: CInt) -> CInt? {
    let clone = unsafe open("/dev/fuse", O_RDWR | O_CLOEXEC | flags)
    guard clone >= 0 else { return nil }
    var origin = UInt32(descriptor)
    // SAFETY: the ioctl reads the local number.
    if unsafe pv_ioctl_u32(clone, pv_fuse_dev_ioc_clone, &origin) == 0 { return clone }
    Glibc.close(clone)
    return nil
  }

  /// Takes the kernel's INIT, which every mount begins with, and answers it; the flags that are in force.
  func answerInitialisation(_ negotiation: FuseNegotiation) throws(FuseError) -> UInt64 {
    do throws(SystemError) {
      // One page for head and answer, and what the kernel wants to see behind it before it hands out a request.
      let memory = try MappedMemory(anonymousByteCount: 36 * PageGeometry.pageSize)
      let frame = memory.region.slice(at: 0, byteCount: ChannelFrame.byteCount)
      let rest = memory.region.slice(at: PageGeometry.pageSize, byteCount: 35 * PageGeometry.pageSize)
      try receive(frame, rest)
      let arguments = frame.slice(at: ChannelFrame.arguments, byteCount: FuseSize.argumentCapacity)
      let area = frame.slice(at: ChannelFrame.smallAnswer, byteCount: ChannelFrame.smallAnswerCapacity)
      guard frame.load(UInt32.self, at: FuseHeader.opcode) == FuseOpcode.initialise,
        case .agreed(let flags) = negotiation.negotiate(offer: arguments, into: area)
      else {
        throw SystemError("FUSE_INIT", code: EPROTO)
      }
      frame.store(UInt32(FuseSize.outHeader + FuseSize.initOut), at: ChannelFrame.answer)
      frame.store(UInt32(0), at: ChannelFrame.answer + 4)
      frame.store(frame.load(UInt64.self, at: FuseHeader.unique), at: ChannelFrame.answer + 8)
      let status = unsafe frame.withUnsafeBytes { bytes in
        // SAFETY: the head and the answer lie within the frame.
        unsafe pv_fuse_answer(
          descriptor, bytes.baseAddress.map { unsafe $0 + ChannelFrame.answer }, FuseSize.outHeader + FuseSize.initOut,
          nil, 0)
      }
      guard status == 0 else { throw SystemError("writev", code: -status) }
      return flags
    } catch { throw .system(call: "\(error.call)", code: error.code) }
  }

  /// Waits for a request.
  private func receive(_ frame: SharedRegion, _ rest: SharedRegion) throws(SystemError) {
    while true {
      let count = unsafe frame.withUnsafeBytes { head in
        unsafe rest.withUnsafeBytes { rest in
          // SAFETY: the frame has room for the first 80 bytes, and the other length is passed along.
          unsafe pv_fuse_receive(descriptor, head.baseAddress, rest.baseAddress, rest.count)
        }
      }
      if count >= FuseHeader.byteCount { return }
      guard count == -Int(EAGAIN) else { throw SystemError("readv", code: CInt(-count)) }
      var entry = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
      // SAFETY: one local entry.
      _ = unsafe poll(&entry, 1, -1)
    }
  }

  private static func makeSession(optionList: [String]) throws(FuseError) -> OpaquePointer {
    let (made, text) = unsafe FuseMessages.capture { () -> OpaquePointer? in
      var arguments = unsafe fuse_args()
      defer { unsafe fuse_opt_free_args(&arguments) }
      for word in ["pvdisk"] + optionList.flatMap({ ["-o", $0] }) {
        guard unsafe fuse_opt_add_arg(&arguments, word) == 0 else { return nil }
      }
      return unsafe pv_fuse_session_new(&arguments)
    }
    if let made = unsafe made { return unsafe made }
    // libfuse says: fuse: unknown option(s): `-o name'
    let quoted = text.split(separator: "`").dropFirst().first?.split(separator: "'").first
    throw .unknownOption(quoted.map(String.init) ?? lastLine(text) ?? optionList.joined(separator: ","))
  }

  /// Commas and backslashes mean something to the option parser.
  static func escaped(_ value: String) -> String {
    value.replacing("\\", with: "\\\\").replacing(",", with: "\\,")
  }

  private static func requireFuse() throws(FuseError) {
    guard unsafe access("/dev/fuse", F_OK) == 0 else { throw .noFuseDevice }
    guard unsafe access("/dev/fuse", R_OK | W_OK) == 0 else { throw .fuseDeviceForbidden }
    guard geteuid() != 0 else { return }
    let path = unsafe getenv("PATH").map { unsafe String(cString: $0) } ?? "/usr/bin:/bin"
    let places = path.split(separator: ":").map { "\($0)/fusermount3" } + ["/usr/bin/fusermount3", "/bin/fusermount3"]
    guard places.contains(where: { unsafe access($0, X_OK) == 0 }) else { throw .mountProgramMissing }
  }

  private static func lastLine(_ text: String) -> String? {
    text.split(separator: "\n").last.map(String.init)
  }

  private static func mountFailure(_ path: String, _ text: String) -> FuseError {
    let reason = lastLine(text) ?? "the mount was refused"
    for prefix in ["fusermount3: ", "fuse: "] where reason.hasPrefix(prefix) {
      return .mountFailed(path: path, reason: String(reason.dropFirst(prefix.count)))
    }
    return .mountFailed(path: path, reason: reason)
  }

  /// Runs a program found through `PATH`, with its messages kept quiet, and waits for it.
  private static func run(_ program: String, _ arguments: [String]) {
    _ = FuseMessages.capture {
      var words = unsafe ([program] + arguments).map { unsafe strdup($0) } + [nil]
      defer { unsafe words.forEach { unsafe free($0) } }
      var child = pid_t()
      // SAFETY: a nil-terminated list of terminated strings that live until the child has started.
      guard unsafe posix_spawnp(&child, program, nil, nil, &words, environ) == 0 else { return }
      var status: CInt = 0
      while unsafe waitpid(child, &status, 0) < 0 && errno == EINTR {}
    }
  }
}
