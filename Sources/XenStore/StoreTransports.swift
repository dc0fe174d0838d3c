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
  /// How many milliseconds a store may be silent that owes an answer; nil for as long as it takes.
  private let patience: Int32?

  /// Connects to a store.
  /// - Parameter patience: How many milliseconds the store may let a client wait for an answer, or for room for a request,
  ///   before the call throws `ETIMEDOUT`; nil for as long as it takes.
  public init(path: String, patience: Int32? = nil) throws(StoreClientError) {
    self.patience = patience
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
      case EAGAIN:
        guard wait(POLLOUT, milliseconds: patience ?? -1) else { throw .system(SystemError("send", code: ETIMEDOUT)) }
      case EPIPE, ECONNRESET: throw .disconnected
      default: throw .system(SystemError("send"))
      }
    }
  }

  /// Waits for bytes.
  public mutating func receive(milliseconds: Int32?) throws(StoreClientError) -> [UInt8]? {
    if let milliseconds {
      if !wait(POLLIN, milliseconds: milliseconds) { return nil }
    } else if let patience, !wait(POLLIN, milliseconds: patience) {
      throw .system(SystemError("read", code: ETIMEDOUT))
    }
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
    let start = pv_monotonic_nanoseconds()
    while true {
      let passed = Int32(clamping: (pv_monotonic_nanoseconds() - start) / 1_000_000)
      var entry = pollfd(fd: descriptor, events: Int16(events), revents: 0)
      // SAFETY: the address is of one local entry.
      let count = unsafe poll(&entry, 1, milliseconds < 0 ? -1 : max(milliseconds - passed, 0))
      // A signal is no answer: the rest of the time is waited for.
      if count >= 0 || errno != EINTR { return count > 0 }
    }
  }

  /// Closes the socket.
  public mutating func close() { _ = Glibc.close(descriptor) }
}

/// Carries a client's bytes through the device by which a real Xen's kernel shares its own connection, in a guest for instance:
/// `/dev/xen/xenbus`.
public struct StoreDeviceTransport: StoreTransport {
  /// The device, for whoever wants to wait for events together with other things.
  public let descriptor: Int32
  private var input = ByteQueue()

  /// Opens the device.
  public init(path: String) throws(StoreClientError) {
    descriptor = unsafe pv_open(path, O_RDWR | O_CLOEXEC, 0)
    guard descriptor >= 0 else { throw .system(SystemError("open")) }
  }

  /// Sends all bytes; the kernel takes a message when it is whole.
  public mutating func send(_ bytes: [UInt8]) throws(StoreClientError) {
    var sent = 0
    while sent < bytes.count {
      // SAFETY: the address and the count are those of the array's own bytes.
      let count = unsafe bytes.withUnsafeBytes { buffer in
        unsafe write(descriptor, buffer.baseAddress.map { unsafe $0 + sent }, buffer.count - sent)
      }
      guard count > 0 || errno == EINTR else { throw .system(SystemError("write")) }
      sent += max(count, 0)
    }
  }

  /// Waits for bytes.
  public mutating func receive(milliseconds: Int32?) throws(StoreClientError) -> [UInt8]? {
    if let milliseconds {
      var entry = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
      // SAFETY: the address is of one local entry.
      guard unsafe poll(&entry, 1, milliseconds) > 0 else { return nil }
    }
    while true {
      let count = input.fill(from: descriptor, limit: 16_384)
      if count == 0 { throw .disconnected }
      if count > 0 {
        defer { input.removeFirst(count) }
        return Array(input.bytes)
      }
      guard errno == EINTR else { throw .system(SystemError("read")) }
    }
  }

  /// Closes the device.
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
