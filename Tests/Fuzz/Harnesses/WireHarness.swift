// SPDX-License-Identifier: MIT

import PVPeers
import XenWire

@testable import XenStore

/// Bytes of a guest and of a privileged client, against the store's wire protocol.
final class WireHarness: Harness {
  static let focus =
    "8XenStore 7XenWire -6pvdisk -9PVMachine -RemoteStore -StoreSocket -StoreRing -StoreTrace -StoreConnection "
    + "-StoreClient -UnixSocket -StreamReader -StreamWriter"
  private static let domain = DomainID(rawValue: 5)
  private let server: StoreServer
  private let toolstack: StoreConnection
  private var guest: StoreSession
  private var control: StoreSession
  /// The store before any input: a value that shares what it has with every later one.
  private let before: StoreState

  init() throws {
    server = StoreServer(quotas: .xenstored, clock: { 1_000_000_000 })
    toolstack = server.connect(as: .control)
    try server.introduce(Self.domain)
    let home = StorePath.home(of: Self.domain)
    try toolstack.makeDirectory(home)
    try toolstack.setPermissions(home, StorePermissions(owner: Self.domain))
    try toolstack.write(home / "name", "guest")
    guest = StoreSession(server: server, domain: Self.domain) {}
    control = StoreSession(server: server, domain: .control) {}
    // What a short input would have to begin with, to get anywhere: a watch, a transaction, a node of the other's.
    try toolstack.makeDirectory(StorePath.root / "data")
    for session in [guest, control] {
      session.receive(Self.message(.watch, "data\0token\0"))
      session.receive(Self.message(.transactionStart, "\0"))
      session.collect()
      session.removeOutput(session.outputByteCount)
    }
    before = server.perform { $0 }
  }

  private static func message(_ type: StoreMessageType, _ payload: String) -> [UInt8] {
    var bytes: [UInt8] = []
    StoreMessageHeader(
      type: type, requestID: 1, transactionID: 0, payloadByteCount: UInt32(payload.utf8.count)
    ).append(to: &bytes)
    return bytes + Array(payload.utf8)
  }

  func run(_ input: inout FuzzInput, isThorough: Bool) throws -> UInt64 {
    var outcome = Outcome()
    var messages = 0
    var used = (guest: false, control: false)
    while !input.isAtEnd, messages < 2 {
      messages += 1
      let choice = input.byte()
      if choice & 1 == 0 { used.guest = true } else { used.control = true }
      let session = choice & 1 == 0 ? guest : control
      if choice & 2 != 0 {
        session.receive(input.take(Int(input.byte())))
      } else {
        let count = Int(input.byte() & 63)
        var bytes: [UInt8] = []
        bytes.reserveCapacity(StoreMessageHeader.byteCount + count)
        StoreMessageHeader(
          type: StoreMessageType(rawValue: UInt32(input.byte() % 32)), requestID: 1,
          transactionID: UInt32(input.byte() & 3), payloadByteCount: UInt32(count)
        ).append(to: &bytes)
        input.append(count, to: &bytes)
        session.receive(bytes)
      }
      session.collect()
      if choice & 4 == 0 { take(session, &outcome) }
    }
    if used.guest { take(guest, &outcome) }
    if used.control { take(control, &outcome) }
    if isThorough {
      demand(server.check().isEmpty, "the store's books balance: \(server.check())")
      guest.close()
      control.close()
      demand(server.check().isEmpty, "the books balance afterwards: \(server.check())")
      reopen()
    } else {
      // What a session has in the store is put back with the store.
      if !guest.isAtRest { guest.restart() }
      if !control.isAtRest { control.restart() }
      server.perform { $0 = before }
    }
    return outcome.value
  }

  /// Sessions in the place of closed ones, under the numbers that those had.
  private func reopen() {
    server.perform { state in
      state = before
      state.lastConnection = 1
    }
    guest = StoreSession(server: server, domain: Self.domain) {}
    control = StoreSession(server: server, domain: .control) {}
    server.perform { $0 = before }
  }

  /// What waits to be sent is messages, one behind the other.
  private func take(_ session: StoreSession, _ outcome: inout Outcome) {
    var bytes = session.outputBytes
    outcome.note(bytes.count)
    while let header = StoreMessageHeader(bytes) {
      demand(header.payloadByteCount <= StoreMessageHeader.maximumPayload, "no message is too long")
      outcome.note(UInt64(header.type.rawValue) << 32 | UInt64(header.payloadByteCount))
      let payload = bytes.dropFirst(StoreMessageHeader.byteCount).prefix(Int(header.payloadByteCount))
      demand(payload.count == header.payloadByteCount, "a message is as long as it says")
      for byte in payload.prefix(16) { outcome.note(byte) }
      bytes = bytes.dropFirst(StoreMessageHeader.byteCount + payload.count)
    }
    demand(bytes.isEmpty, "nothing stands between messages")
    session.removeOutput(session.outputByteCount)
  }
}
