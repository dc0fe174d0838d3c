// SPDX-License-Identifier: MIT

import CLinux
import Glibc
import XenStore
import XenWire

/// Drives any number of connected sockets from one thread: a message on each, then a reply from each, and so on.
struct SocketDriver {
  let descriptors: [CInt]

  /// A message's bytes.
  static func message(_ type: StoreMessageType, _ payload: String, transaction: UInt32 = 0) -> [UInt8] {
    let body = Array(payload.utf8)
    var bytes: [UInt8] = []
    StoreMessageHeader(
      type: type, requestID: 1, transactionID: transaction, payloadByteCount: UInt32(body.count)
    ).append(to: &bytes)
    return bytes + body
  }

  /// Round trips a second, over all sockets.
  func roundTrips(_ message: [UInt8], seconds: Double) -> Double {
    let start = pv_monotonic_nanoseconds()
    let end = start + UInt64(seconds * 1e9)
    var count = 0
    while pv_monotonic_nanoseconds() < end {
      for descriptor in descriptors { send(message, to: descriptor) }
      for descriptor in descriptors { receive(from: descriptor) }
      count += descriptors.count
    }
    return Double(count) / (Double(pv_monotonic_nanoseconds() - start) / 1e9)
  }

  func send(_ message: [UInt8], to descriptor: CInt) {
    // SAFETY: the address and the count are those of the array.
    let count = unsafe message.withUnsafeBytes { unsafe Glibc.send(descriptor, $0.baseAddress, $0.count, 0) }
    precondition(count == message.count, "a small message goes at once")
  }

  /// Takes whole messages, at least one, and answers how many.
  @discardableResult
  func receive(from descriptor: CInt) -> Int {
    var bytes: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 16_384)
    while true {
      // SAFETY: the address and the count are those of the array.
      let count = unsafe buffer.withUnsafeMutableBytes { unsafe recv(descriptor, $0.baseAddress, $0.count, 0) }
      precondition(count > 0, "the server is there")
      bytes += buffer.prefix(count)
      var rest = bytes[...]
      var messages = 0
      while let header = StoreMessageHeader(rest), rest.count >= 16 + Int(header.payloadByteCount) {
        rest = rest.dropFirst(16 + Int(header.payloadByteCount))
        messages += 1
      }
      if rest.isEmpty, messages > 0 { return messages }
    }
  }

  /// Takes one reply's text.
  func reply(from descriptor: CInt) -> String {
    var buffer = [UInt8](repeating: 0, count: 16_384)
    // SAFETY: the address and the count are those of the array.
    let count = unsafe buffer.withUnsafeMutableBytes { unsafe recv(descriptor, $0.baseAddress, $0.count, 0) }
    return String(decoding: buffer[16..<(count - 1)], as: UTF8.self)
  }

  /// Sends a message on every socket, then takes what comes back from each.
  private func exchange(_ message: (Int) -> [UInt8]) {
    for (index, descriptor) in descriptors.enumerated() { send(message(index), to: descriptor) }
    for descriptor in descriptors { receive(from: descriptor) }
  }

  /// Calls `round` until the time is over, and answers how many rounds there were in a second, times the sockets.
  private func rate(_ seconds: Double, _ round: () -> Void) -> Double {
    let start = pv_monotonic_nanoseconds()
    let end = start + UInt64(seconds * 1e9)
    var count = 0
    while pv_monotonic_nanoseconds() < end {
      round()
      count += descriptors.count
    }
    return Double(count) / (Double(pv_monotonic_nanoseconds() - start) / 1e9)
  }

  /// Transactions a second: start, read, write, commit on each socket, each on a node of its own.
  ///
  /// - Parameter isReal: False sends the same four messages to somebody who only sends them back.
  func transactions(seconds: Double, isReal: Bool) -> Double {
    rate(seconds) {
      for descriptor in descriptors { send(Self.message(.transactionStart, "\0"), to: descriptor) }
      let numbers = descriptors.map { descriptor -> UInt32 in
        let text = reply(from: descriptor)
        return isReal ? UInt32(text) ?? 0 : 1
      }
      exchange { Self.message(.read, "/bench/t\($0)\0", transaction: numbers[$0]) }
      exchange { Self.message(.write, "/bench/t\($0)\0value", transaction: numbers[$0]) }
      exchange { Self.message(.transactionEnd, "T\0", transaction: numbers[$0]) }
    }
  }

  /// Has every socket watch one node, or stop it.
  func setWatches(_ isOn: Bool) {
    for descriptor in descriptors {
      send(Self.message(isOn ? .watch : .unwatch, "/bench/w\0t\0"), to: descriptor)
      var count = 0
      while count < (isOn ? 2 : 1) { count += receive(from: descriptor) }
    }
  }

  /// Events a second: the first socket writes, all watch.
  func events(seconds: Double) -> Double {
    let write = Self.message(.write, "/bench/w\0v")
    return rate(seconds) {
      send(write, to: descriptors[0])
      var own = 0
      while own < 2 { own += receive(from: descriptors[0]) }
      for descriptor in descriptors.dropFirst() { receive(from: descriptor) }
    }
  }

  /// The same messages from somebody who only sends them back: as many wake-ups and bytes as the events of one write.
  func eventEchoes(seconds: Double) -> Double {
    let write = Self.message(.write, "/bench/w\0v")
    let event = Self.message(.watchEvent, "/bench/w\0t\0")
    return rate(seconds) {
      send(write, to: descriptors[0])
      for descriptor in descriptors.dropFirst() { send(event, to: descriptor) }
      receive(from: descriptors[0])
      for descriptor in descriptors.dropFirst() { receive(from: descriptor) }
    }
  }
}
