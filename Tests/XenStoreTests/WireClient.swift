// SPDX-License-Identifier: MIT

import Synchronization
import XenStore
import XenWire

/// A client of the wire protocol that holds its end of a session in its hand: no transport between.
final class WireClient {
  let session: StoreSession
  private var input: [UInt8] = []
  /// The events that came, as `path token`.
  var events: [String] = []
  private var lastRequest: UInt32 = 0

  init(_ server: StoreServer, as domain: UInt16 = 0) {
    session = StoreSession(server: server, domain: DomainID(rawValue: domain)) {}
  }

  /// A message's bytes.
  static func message(
    _ type: UInt32, _ payload: String, transaction: UInt32 = 0, request: UInt32 = 0, length: UInt32? = nil
  ) -> [UInt8] {
    let body = Array(payload.utf8)
    var bytes: [UInt8] = []
    StoreMessageHeader(
      type: StoreMessageType(rawValue: type), requestID: request, transactionID: transaction,
      payloadByteCount: length ?? UInt32(body.count)
    ).append(to: &bytes)
    return bytes + body
  }

  /// Sends a request and answers its reply: `TYPE payload` with `|` for NUL; nil when none came.
  func ask(_ type: StoreMessageType, _ payload: String, in transaction: UInt32 = 0) -> String? {
    ask(type.rawValue, payload, in: transaction)
  }

  func ask(_ type: UInt32, _ payload: String, in transaction: UInt32 = 0) -> String? {
    lastRequest += 1
    session.receive(Self.message(type, payload, transaction: transaction, request: lastRequest))
    return replies().last.map { "\($0.0) \($0.1)" }
  }

  /// Takes what the session has to send; events go to ``events``.
  @discardableResult
  func replies() -> [(StoreMessageType, String)] {
    session.collect()
    input += session.outputBytes
    session.removeOutput(session.outputByteCount)
    var found: [(StoreMessageType, String)] = []
    while let header = StoreMessageHeader(input), input.count >= 16 + Int(header.payloadByteCount) {
      let payload = input[16..<(16 + Int(header.payloadByteCount))]
      let text = String(decoding: payload.map { $0 == 0 ? UInt8(ascii: "|") : $0 }, as: UTF8.self)
      input.removeFirst(16 + Int(header.payloadByteCount))
      if header.type == .watchEvent {
        events.append(String(text.dropLast()).replacing("|", with: " "))
      } else {
        found.append((header.type, text))
      }
    }
    return found
  }

  /// Takes the events that came.
  func takeEvents() -> [String] {
    replies()
    defer { events = [] }
    return events
  }
}
