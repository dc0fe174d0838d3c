// SPDX-License-Identifier: MIT

import GuestMemory
import Synchronization
public import XenWire

/// Serves a guest's ring page (grant reference 1 of its table).
///
/// Whoever holds the event channel calls ``serve()`` whenever the guest signals, and once at the start; the server calls
/// `notify` when the guest must look. A guest that breaks the protocol is told why in the page's error field, loses its
/// watches and transactions, and is not heard any more until it asks for a reconnection, is introduced again, or is
/// gone: its domain stays known meanwhile (XSA-325).
public final class StoreRingServer: Sendable {
  /// The guest.
  public let domain: DomainID

  private let page: StoreRingPage
  private let notify: @Sendable () -> Void
  private let session = Mutex<StoreSession?>(nil)
  /// The calls of ``serve()`` that have not been attended to: who raises it from 0 does the work of all, so nobody ever
  /// waits for the lock, not even a thread that comes back here through a handler.
  private let calls = Atomic(0)
  private let isClosing = Atomic(false)

  /// Starts to serve a page.
  /// - Parameters:
  ///   - privileged: Whether the guest may do everything.
  ///   - notify: Signals the guest's event channel; called on any thread.
  public init(
    server: StoreServer, page: StoreRingPage, domain: DomainID, privileged: Bool = false, trace: StoreTrace? = nil,
    notify: @escaping @Sendable () -> Void
  ) {
    self.domain = domain
    self.page = page
    self.notify = notify
    page.features = server.features(of: domain)
    page.error = .none
    session.withLock { session in
      session = StoreSession(server: server, domain: domain, privileged: privileged, trace: trace) { [weak self] in
        self?.serve()
      }
    }
  }

  /// Ends the service; the guest's watches and transactions are gone.
  public func close() {
    isClosing.store(true, ordering: .releasing)
    serve()
  }

  /// Whether something waits for time to pass: a request whose guest has spent its write credit, or an event that nobody
  /// takes.
  ///
  /// Nobody signals when the time has come: call ``serve()`` every ``StoreSession/tick`` while it is true.
  public var wantsTime: Bool { timed.load(ordering: .relaxed) }
  private let timed = Atomic(false)

  /// Moves requests, replies and events as far as they go.
  ///
  /// Any thread may call this at any time. While one is at work the others only leave word.
  public func serve() {
    guard calls.add(1, ordering: .acquiringAndReleasing).oldValue == 0 else { return }
    var attended = 1
    repeat {
      let mustNotify = session.withLock { session in
        guard let live = session else { return false }
        if isClosing.load(ordering: .acquiring) {
          live.close()
          session = nil
          return false
        }
        return attend(live)
      }
      if mustNotify { notify() }
      let left = calls.subtract(attended, ordering: .acquiringAndReleasing).newValue
      attended = left
    } while attended > 0
  }

  /// Does what can be done now; true when the guest must be signalled.
  private func attend(_ session: StoreSession) -> Bool {
    var hasMoved = false
    if page.connection == StoreRingState.reconnect {
      session.restart()
      page.clear()
      page.error = .none
      page.connection = StoreRingState.connected
      hasMoved = true
    }
    guard session.failure == .none else { return hasMoved }
    session.collect()
    do throws(StoreRingError) {
      while try move(session) { hasMoved = true }
    } catch {
      session.fail(error)
    }
    if session.failure != .none {
      page.error = session.failure
      return true
    }
    session.expireEvents()
    timed.store(session.isWaitingForTime, ordering: .relaxed)
    return hasMoved
  }

  /// Moves one batch each way; false when nothing could be moved.
  private func move(_ session: StoreSession) throws(StoreRingError) -> Bool {
    var hasMoved = false
    if session.wantsInput {
      let bytes = try page.receive()
      if !bytes.isEmpty {
        session.receive(bytes)
        hasMoved = true
      }
    }
    if session.outputByteCount > 0 {
      let count = try page.send(session.outputBytes)
      if count > 0 {
        session.removeOutput(count)
        hasMoved = true
      }
    }
    if session.outputByteCount == 0, session.mustCollect { session.collect() }
    return hasMoved && session.failure == .none
  }
}
