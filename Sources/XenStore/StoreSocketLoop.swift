// SPDX-License-Identifier: MIT

import CLinux
import Glibc
import GuestMemory
import Synchronization
import XenWire

/// What wakes a socket server's thread: sessions that have output, and the order to stop.
final class StoreSocketBell: Sendable {
  private struct Pending {
    var clients: [UInt64] = []
    var isStopped = false
    /// The thread will look again by itself before it sleeps.
    var isAwake = true
  }

  let descriptor: CInt
  private let pending = Mutex(Pending())

  init() throws(SystemError) {
    descriptor = eventfd(0, CInt(EFD_CLOEXEC | EFD_NONBLOCK))
    guard descriptor >= 0 else { throw SystemError("eventfd") }
  }

  deinit { close(descriptor) }

  /// Says that a client's session has something to collect.
  func ring(for client: UInt64) {
    let isAsleep = pending.withLock { pending in
      pending.clients.append(client)
      defer { pending.isAwake = true }
      return !pending.isAwake
    }
    if isAsleep { signal() }
  }

  func stop() {
    pending.withLock { pending in
      pending.isStopped = true
      pending.isAwake = true
    }
    signal()
  }

  /// Takes the clients that rang; when there are none, the next ring will write to the descriptor.
  func take() -> (clients: [UInt64], isStopped: Bool) {
    pending.withLock { pending in
      defer {
        pending.isAwake = !pending.clients.isEmpty
        pending.clients = []
      }
      return (pending.clients, pending.isStopped)
    }
  }

  /// Notes that the thread has woken up and will call ``take()``.
  func noteAwake() { pending.withLock { $0.isAwake = true } }

  /// Takes the signal off the descriptor.
  func clear() {
    var count: UInt64 = 0
    // SAFETY: the address is of a local value of eight bytes.
    _ = unsafe read(descriptor, &count, 8)
  }

  private func signal() {
    var one: UInt64 = 1
    // SAFETY: the address is of a local value of eight bytes.
    _ = unsafe write(descriptor, &one, 8)
  }
}

/// The thread of a socket server: owns the clients and moves their bytes.
final class StoreSocketLoop: @unchecked Sendable {
  // SAFETY: made on one thread, then handed to the server's own thread, which alone uses it from there on.
  private final class Client {
    let descriptor: CInt
    let session: StoreSession
    var interest: UInt32

    init(descriptor: CInt, session: StoreSession, interest: UInt32) {
      self.descriptor = descriptor
      self.session = session
      self.interest = interest
    }
  }

  private static let listenerToken: UInt64 = 0
  private static let bellToken: UInt64 = 1
  /// Where bytes land that are read.
  private var scratch = [UInt8](repeating: 0, count: 16_384)

  private let server: StoreServer
  private let listener: CInt
  private let bell: StoreSocketBell
  private let trace: StoreTrace?
  private let role: @Sendable (PeerCredentials) -> StorePeerRole
  private let poll: CInt
  private var clients: [UInt64: Client] = [:]
  private var lastToken: UInt64 = 1
  private var isListening = true
  /// The clients that wait for time to pass, and when they were last looked at.
  private var timed: Set<UInt64> = []
  private var lastTick: UInt64 = 0

  init(
    server: StoreServer, listener: CInt, bell: StoreSocketBell, trace: StoreTrace?,
    role: @escaping @Sendable (PeerCredentials) -> StorePeerRole
  ) throws(SystemError) {
    self.server = server
    self.listener = listener
    self.bell = bell
    self.trace = trace
    self.role = role
    poll = epoll_create1(CInt(EPOLL_CLOEXEC))
    guard poll >= 0 else { throw SystemError("epoll_create1") }
    control(EPOLL_CTL_ADD, listener, EPOLLIN.rawValue, Self.listenerToken)
    control(EPOLL_CTL_ADD, bell.descriptor, EPOLLIN.rawValue, Self.bellToken)
  }

  deinit { close(poll) }

  /// Serves until told to stop.
  func run() {
    var events = [pv_ready](repeating: pv_ready(), count: 64)
    while true {
      let (woken, isStopped) = bell.take()
      if isStopped { break }
      for token in woken { attend(token) { client in client.session.collect() } }
      passTime()
      guard woken.isEmpty else { continue }
      let patience = timed.isEmpty ? -1 : CInt(StoreSession.tick / 1_000_000)
      // SAFETY: the address and the count are those of the array.
      let count = unsafe events.withUnsafeMutableBufferPointer { buffer in
        unsafe pv_epoll_wait(poll, buffer.baseAddress, CInt(buffer.count), patience)
      }
      bell.noteAwake()
      for event in events.prefix(Int(max(count, 0))) { handle(event) }
    }
    for token in Array(clients.keys) { drop(token) }
    close(listener)
  }

  /// Lets the clients that wait for it see that time has passed.
  private func passTime() {
    guard !timed.isEmpty else { return }
    let now = pv_monotonic_nanoseconds()
    guard now &- lastTick >= StoreSession.tick else { return }
    lastTick = now
    for token in timed { attend(token) { client in client.session.collect() } }
  }

  private func handle(_ event: pv_ready) {
    switch event.token {
    case Self.listenerToken: accept()
    case Self.bellToken: bell.clear()
    default:
      let bits = event.events
      attend(event.token) { client in
        if bits & EPOLLIN.rawValue != 0, client.session.wantsInput {
          // SAFETY: the memory is the array's, which nobody else uses meanwhile.
          let count = unsafe scratch.withUnsafeMutableBytes {
            unsafe client.session.receive(from: client.descriptor, by: $0)
          }
          if count == 0 || (count < 0 && errno != EAGAIN && errno != EINTR) { client.session.fail(.communication) }
        } else if bits & (EPOLLERR.rawValue | EPOLLHUP.rawValue) != 0 {
          client.session.fail(.communication)
        }
      }
    }
  }

  /// Lets a client move on, sends what can be sent, and drops it when it is through.
  private func attend(_ token: UInt64, _ step: (Client) -> Void) {
    guard let client = clients[token] else { return }
    step(client)
    flush(client)
    guard client.session.failure == .none else { return drop(token) }
    client.session.expireEvents()
    if client.session.isWaitingForTime { timed.insert(token) } else if !timed.isEmpty { timed.remove(token) }
    var interest: UInt32 = 0
    if client.session.wantsInput { interest |= EPOLLIN.rawValue }
    if client.session.outputByteCount > 0 { interest |= EPOLLOUT.rawValue }
    guard interest != client.interest else { return }
    client.interest = interest
    control(EPOLL_CTL_MOD, client.descriptor, interest, token)
  }

  /// Sends until the socket is full or nothing is left; room that comes free is used for what had to wait.
  private func flush(_ client: Client) {
    let session = client.session
    while session.failure == .none {
      if session.outputByteCount == 0 {
        guard session.mustCollect else { return }
        session.collect()
        guard session.outputByteCount > 0 else { return }
      }
      let count = session.sendOutput(to: client.descriptor)
      if count < 0 {
        if errno == EINTR { continue }
        if errno != EAGAIN { session.fail(.communication) }
        return
      }
    }
  }

  private func accept() {
    while true {
      let descriptor = UnixSocket.accept(listener)
      guard descriptor >= 0 else {
        if errno == EMFILE || errno == ENFILE || errno == ENOMEM {
          isListening = false
          control(EPOLL_CTL_MOD, listener, 0, Self.listenerToken)
        }
        return
      }
      let (domain, isPrivileged): (DomainID, Bool)
      switch role(UnixSocket.peer(descriptor)) {
      case .control: (domain, isPrivileged) = (.control, true)
      case .guest(let guest): (domain, isPrivileged) = (guest, false)
      case .refused:
        close(descriptor)
        continue
      }
      lastToken += 1
      let token = lastToken, bell = bell
      let session = StoreSession(server: server, domain: domain, privileged: isPrivileged, trace: trace) {
        bell.ring(for: token)
      }
      clients[token] = Client(descriptor: descriptor, session: session, interest: EPOLLIN.rawValue)
      control(EPOLL_CTL_ADD, descriptor, EPOLLIN.rawValue, token)
    }
  }

  private func drop(_ token: UInt64) {
    guard let client = clients.removeValue(forKey: token) else { return }
    timed.remove(token)
    client.session.close()
    close(client.descriptor)
    if !isListening {
      isListening = true
      control(EPOLL_CTL_MOD, listener, EPOLLIN.rawValue, Self.listenerToken)
    }
  }

  private func control(_ operation: CInt, _ descriptor: CInt, _ interest: UInt32, _ token: UInt64) {
    _ = pv_epoll_control(poll, operation, descriptor, interest, token)
  }
}
