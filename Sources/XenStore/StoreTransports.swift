// SPDX-License-Identifier: MIT

import CLinux
import Glibc
import GuestMemory
import XenWire

/// Carries a client's bytes over a Unix socket.
public struct StoreSocketTransport: StoreTransport {
  /// The socket, for whoever wants to wait for events together with other things.
  public let descriptor: Int32
  private var output = ByteQueue()
  private var input = ByteQueue()

  /// Connects to a store.
  public init(path: String) throws(StoreClientError) {
    do throws(SystemError) {
      descriptor = try UnixSocket.connect(path: path)
    } catch {
      throw .system(error)
    }
  }

  /// Sends all bytes.
  public mutating func send(_ bytes: [UInt8]) throws(StoreClientError) {
    output.append(bytes)
    while !output.isEmpty {
      if output.drain(to: descriptor) > 0 { continue }
      switch errno {
      case EINTR: continue
      case EAGAIN: _ = wait(POLLOUT, milliseconds: -1)
      case EPIPE, ECONNRESET: throw .disconnected
      default: throw .system(SystemError("send"))
      }
    }
  }

  /// Waits for bytes.
  public mutating func receive(milliseconds: Int32?) throws(StoreClientError) -> [UInt8]? {
    if let milliseconds, !wait(POLLIN, milliseconds: milliseconds) { return nil }
    while true {
      let count = input.fill(from: descriptor, limit: 16_384)
      if count == 0 { throw .disconnected }
      if count > 0 {
        defer { input.removeFirst(count) }
        return Array(input.bytes)
      }
      if errno == ECONNRESET { throw .disconnected }
      guard errno == EINTR else { throw .system(SystemError("read")) }
    }
  }

  private func wait(_ events: CInt, milliseconds: Int32) -> Bool {
    var entry = pollfd(fd: descriptor, events: Int16(events), revents: 0)
    // SAFETY: the address is of one local entry.
    return unsafe poll(&entry, 1, milliseconds) > 0
  }

  /// Closes the socket.
  public mutating func close() { _ = Glibc.close(descriptor) }
}

/// Carries a guest's bytes through a ring page.
///
/// The event channel is the caller's: `notify` signals the store, `wait` sleeps until the store signals or the given
/// milliseconds have passed (nil: for as long as it takes) and may return early.
public struct StoreRingTransport: StoreTransport {
  /// The page, from the guest's end.
  public let page: StoreRingPage
  private let notify: @Sendable () -> Void
  private let wait: @Sendable (Int32?) -> Void

  /// Talks through a page.
  public init(
    page: StoreRingPage, notify: @escaping @Sendable () -> Void, wait: @escaping @Sendable (Int32?) -> Void
  ) {
    self.page = page
    self.notify = notify
    self.wait = wait
  }

  private func checkAlive() throws(StoreClientError) {
    guard page.error == .none else { throw .disconnected }
  }

  /// Sends all bytes, as the store makes room for them.
  public mutating func send(_ bytes: [UInt8]) throws(StoreClientError) {
    var rest = bytes[...]
    while !rest.isEmpty {
      try checkAlive()
      let count: Int
      do throws(StoreRingError) {
        count = try page.send(rest)
      } catch {
        throw .protocolViolation
      }
      rest.removeFirst(count)
      if count > 0 { notify() } else { wait(nil) }
    }
  }

  /// Waits for bytes.
  public mutating func receive(milliseconds: Int32?) throws(StoreClientError) -> [UInt8]? {
    let start = pv_monotonic_nanoseconds()
    while true {
      try checkAlive()
      let bytes: [UInt8]
      do throws(StoreRingError) {
        bytes = try page.receive()
      } catch {
        throw .protocolViolation
      }
      if !bytes.isEmpty {
        notify()
        return bytes
      }
      guard let milliseconds else {
        wait(nil)
        continue
      }
      let passed = Int32(clamping: (pv_monotonic_nanoseconds() - start) / 1_000_000)
      if passed >= milliseconds { return nil }
      wait(milliseconds - passed)
    }
  }

  /// Asks the store to start anew: watches, transactions and everything half-sent are dropped at both ends.
  ///
  /// Returns when the store has done it. Events that were on their way are lost.
  public func reconnect() {
    page.connection = StoreRingState.reconnect
    notify()
    while page.connection != StoreRingState.connected { wait(nil) }
  }

  /// Does nothing: a page has no connection to end.
  public mutating func close() {}
}
