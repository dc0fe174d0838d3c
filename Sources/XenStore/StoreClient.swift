// SPDX-License-Identifier: MIT

public import GuestMemory
public import XenWire

/// Why a client of a remote store could not do what it was asked to.
public enum StoreClientError: Error, Equatable, Sendable, CustomStringConvertible {
  /// The store refused.
  case refused(StoreError)
  /// The store closed the connection, or gave the client up.
  case disconnected
  /// The store answered something that is no answer.
  case protocolViolation
  /// A system call failed.
  case system(SystemError)

  /// A sentence for people.
  public var description: String {
    switch self {
    case .refused(let error): "the store answered \(error)"
    case .disconnected: "the store closed the connection"
    case .protocolViolation: "the store answered something that is no answer"
    case .system(let error): "\(error)"
    }
  }
}

/// What carries a client's bytes to a store and back.
public protocol StoreTransport {
  /// Sends all bytes, waiting for room if need be.
  mutating func send(_ bytes: [UInt8]) throws(StoreClientError)
  /// Waits for bytes and takes some, at least one; nil when `milliseconds` have passed without any.
  mutating func receive(milliseconds: Int32?) throws(StoreClientError) -> [UInt8]?
  /// Ends the connection.
  mutating func close()
}

/// A client of a store elsewhere: in another process behind a Unix socket, or behind a ring page.
///
/// Calls wait for their replies; events that come in between are kept for ``nextEvent(milliseconds:)``. Paths are text
/// or ``StorePath``, relative ones start at the home of the domain that the connection speaks for.
///
/// **Assumptions.** One thread at a time.
public final class StoreClient {
  private var transport: any StoreTransport
  private var input = ByteQueue()
  private var events: [WatchEvent] = []
  private var lastRequest: UInt32 = 0

  /// Talks over a transport.
  public init(over transport: any StoreTransport) { self.transport = transport }

  /// Connects to a store's Unix socket.
  public convenience init(socket path: String) throws(StoreClientError) {
    self.init(over: try StoreSocketTransport(path: path))
  }

  deinit { transport.close() }

  // MARK: Requests

  /// Sends one request, waits for its reply and answers the reply's payload.
  /// - Throws: `.refused` when the store answers an error.
  public func request(
    _ type: StoreMessageType, _ payload: [UInt8], in transaction: TransactionID? = nil
  ) throws(StoreClientError) -> [UInt8] {
    guard payload.count <= StoreMessageHeader.maximumPayload else { throw .refused(.tooBig) }
    lastRequest &+= 1
    let header = StoreMessageHeader(
      type: type, requestID: lastRequest, transactionID: transaction?.rawValue ?? 0,
      payloadByteCount: UInt32(payload.count))
    var bytes: [UInt8] = []
    bytes.reserveCapacity(StoreMessageHeader.byteCount + payload.count)
    header.append(to: &bytes)
    bytes.append(contentsOf: payload)
    try transport.send(bytes)
    while true {
      guard let (reply, payload) = try receive(milliseconds: nil) else { continue }
      if reply.type == .watchEvent {
        try keepEvent(payload)
        continue
      }
      guard reply.requestID == header.requestID else { throw .protocolViolation }
      if reply.type == .error {
        guard payload.last == 0 else { throw .protocolViolation }
        throw .refused(StoreError(wireName: String(decoding: payload.dropLast(), as: UTF8.self)))
      }
      guard reply.type == type else { throw .protocolViolation }
      return payload
    }
  }

  /// Waits for one message; nil when none came in time.
  private func receive(milliseconds: Int32?) throws(StoreClientError) -> (StoreMessageHeader, [UInt8])? {
    while true {
      if let header = StoreMessageHeader(input.bytes) {
        guard header.payloadByteCount <= UInt32(StoreMessageHeader.maximumPayload) else { throw .protocolViolation }
        let length = StoreMessageHeader.byteCount + Int(header.payloadByteCount)
        if input.count >= length {
          let payload = Array(input.bytes.prefix(length).dropFirst(StoreMessageHeader.byteCount))
          input.removeFirst(length)
          return (header, payload)
        }
      }
      guard let bytes = try transport.receive(milliseconds: milliseconds) else { return nil }
      input.append(bytes)
    }
  }

  private func keepEvent(_ payload: [UInt8]) throws(StoreClientError) {
    let strings = StoreArguments(bytes: payload[...]).strings(3)
    guard strings.count == 2 else { throw .protocolViolation }
    events.append(WatchEvent(path: strings[0], token: strings[1]))
  }

  /// Takes the oldest event, waiting for one if none is there.
  /// - Parameter milliseconds: How long to wait; nil for as long as it takes.
  public func nextEvent(milliseconds: Int32? = nil) throws(StoreClientError) -> WatchEvent? {
    while events.isEmpty {
      guard let (header, payload) = try receive(milliseconds: milliseconds) else { return nil }
      guard header.type == .watchEvent else { throw .protocolViolation }
      try keepEvent(payload)
    }
    return events.removeFirst()
  }

  func strings(_ texts: [String]) -> [UInt8] { texts.flatMap { Array($0.utf8) + [0] } }
}
