// SPDX-License-Identifier: MIT

import CLinux
import Glibc
import Synchronization

/// A Unix socket between a running disk and the commands that ask about it: one line of request, one line of answer.
///
/// Sockets live in one folder of the user's: `/run/pvdisk` for root, `$XDG_RUNTIME_DIR/pvdisk` or `/tmp/pvdisk-<uid>` for
/// others. Each is named after its process.
enum ControlSocket {
  /// The user's folder.
  static var folder: String {
    if getuid() == 0 { return "/run/pvdisk" }
    if let runtime = unsafe getenv("XDG_RUNTIME_DIR"), unsafe runtime.pointee != 0 {
      return unsafe String(cString: runtime) + "/pvdisk"
    }
    return "/tmp/pvdisk-\(getuid())"
  }

  /// The sockets that are there, living or not.
  static var all: [String] {
    guard let directory = unsafe opendir(folder) else { return [] }
    defer { unsafe closedir(directory) }
    var paths: [String] = []
    while let entry = unsafe readdir(directory) {
      let name = unsafe withUnsafePointer(to: entry.pointee.d_name) {
        unsafe $0.withMemoryRebound(to: CChar.self, capacity: 256) { unsafe String(cString: $0) }
      }
      if name.hasSuffix(".sock") { paths.append("\(folder)/\(name)") }
    }
    return paths.sorted()
  }

  /// An address; nil when the path is too long for one.
  static func address(_ path: String) -> sockaddr_un? {
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    let room = MemoryLayout.size(ofValue: address.sun_path)
    guard path.utf8.count < room else { return nil }
    unsafe withUnsafeMutableBytes(of: &address.sun_path) { unsafe $0.copyBytes(from: path.utf8) }
    return address
  }

  static func withAddress<R>(_ path: String, _ body: (UnsafePointer<sockaddr>, socklen_t) -> R) -> R? {
    guard var address = address(path) else { return nil }
    return unsafe withUnsafePointer(to: &address) {
      unsafe $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        unsafe body($0, socklen_t(MemoryLayout<sockaddr_un>.size))
      }
    }
  }

  /// Reads up to a line's end, or the end.
  static func readLine(_ descriptor: CInt) -> String? {
    var bytes: [UInt8] = []
    var byte: UInt8 = 0
    while unsafe read(descriptor, &byte, 1) == 1 {
      if byte == 0x0A { return String(decoding: bytes, as: UTF8.self) }
      bytes.append(byte)
      if bytes.count > 1 << 20 { return nil }
    }
    return bytes.isEmpty ? nil : String(decoding: bytes, as: UTF8.self)
  }

  /// Who has hung up is no reason to end by SIGPIPE.
  static func writeLine(_ text: String, to descriptor: CInt) {
    var bytes = Array((text + "\n").utf8)[...]
    while !bytes.isEmpty {
      let count = unsafe bytes.withUnsafeBytes {
        unsafe send(descriptor, $0.baseAddress, $0.count, CInt(MSG_NOSIGNAL))
      }
      guard count > 0 else { return }
      bytes = bytes.dropFirst(count)
    }
  }

  /// Asks a running disk, and waits until it hangs up; nil when nobody is there.
  /// - Parameters:
  ///   - patience: how many seconds an answer may take; 0 is for ever.
  ///   - onSilence: runs when it took longer.
  static func ask(
    _ path: String, _ request: String, patience: Int = 0, onSilence: () -> Void = {}
  ) -> String? {
    let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
    guard descriptor >= 0 else { return nil }
    defer { close(descriptor) }
    var limit = timeval(tv_sec: patience, tv_usec: 0)
    for option in [SO_RCVTIMEO, SO_SNDTIMEO] {
      // SAFETY: the option's value is the local structure, whose length is passed along.
      _ = unsafe setsockopt(descriptor, SOL_SOCKET, option, &limit, socklen_t(MemoryLayout<timeval>.size))
    }
    guard unsafe withAddress(path, { unsafe connect(descriptor, $0, $1) }) == 0 else {
      if pv_errno() == ECONNREFUSED { _ = unsafe unlink(path) }
      if pv_errno() == EAGAIN { onSilence() }
      return nil
    }
    writeLine(request, to: descriptor)
    pv_set_errno(0)
    let answer = readLine(descriptor)
    if answer?.isEmpty ?? true, pv_errno() == EAGAIN {
      onSilence()
      return nil
    }
    var rest: UInt8 = 0
    while unsafe read(descriptor, &rest, 1) > 0 {}
    return answer
  }
}

/// The running disk's end: answers each request on a thread of its own.
final class ControlServer: Sendable {
  private let descriptor: CInt
  private let path: String
  /// Requests that were read and not answered yet.
  private let pending = Mutex(0)

  /// Listens.
  init(_ answer: @escaping @Sendable (String) -> ControlReply) throws {
    let folder = ControlSocket.folder
    _ = unsafe mkdir(folder, 0o700)
    path = "\(folder)/\(getpid()).sock"
    _ = unsafe unlink(path)
    descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
    guard descriptor >= 0,
      unsafe ControlSocket.withAddress(path, { [descriptor] in unsafe bind(descriptor, $0, $1) }) == 0,
      unsafe chmod(path, 0o600) == 0, listen(descriptor, 16) == 0
    else { throw Refusal("cannot make the control socket \(path): \(Refusal.reason)") }
    let listener = descriptor
    Background.start { [self] in serve(listener, answer) }
  }

  private func serve(_ listener: CInt, _ answer: @escaping @Sendable (String) -> ControlReply) {
    while true {
      let client = accept(listener, nil, nil)
      guard client >= 0 else {
        if pv_errno() == EINTR || pv_errno() == ECONNABORTED { continue }
        return
      }
      _ = pv_fcntl_int(client, F_SETFD, FD_CLOEXEC)
      Background.start { [self] in
        guard let request = ControlSocket.readLine(client) else { return _ = close(client) }
        pending.withLock { $0 += 1 }
        let reply = answer(request)
        ControlSocket.writeLine(json(reply.answer, pretty: false), to: client)
        pending.withLock { $0 -= 1 }
        // Who asked for the end is told of it by the hang-up that the end of this process brings.
        if reply.hangsUp { close(client) }
      }
    }
  }

  /// Waits until everybody who asked has an answer: who asked for the end is to hear how it went.
  func finishAnswers() {
    while pending.withLock({ $0 > 0 }) { usleep(1000) }
  }

  /// Takes the socket away.
  func remove() { _ = unsafe unlink(path) }
}

/// A detached thread for control work.
enum Background {
  private final class Body {
    let run: @Sendable () -> Void
    init(_ run: @escaping @Sendable () -> Void) { self.run = run }
  }

  static func start(_ run: @escaping @Sendable () -> Void) {
    let body = unsafe Unmanaged.passRetained(Body(run))
    var thread = pthread_t()
    // SAFETY: the thread takes over the one reference that `passRetained` made.
    let code = unsafe pthread_create(
      &thread, nil,
      { context in
        guard let context = unsafe context else { return nil }
        unsafe Unmanaged<Body>.fromOpaque(context).takeRetainedValue().run()
        return nil
      }, body.toOpaque())
    precondition(code == 0, "the system has no thread left")
    pthread_detach(thread)
  }
}
