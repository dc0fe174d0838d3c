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

  /// Transactions a second: start, read, write, commit on each socket, each on a node of its own.
  func transactions(seconds: Double) -> Double {
    let start = pv_monotonic_nanoseconds()
    let end = start + UInt64(seconds * 1e9)
    var count = 0
    while pv_monotonic_nanoseconds() < end {
      for descriptor in descriptors { send(Self.message(.transactionStart, "\0"), to: descriptor) }
      let numbers = descriptors.map { UInt32(reply(from: $0)) ?? 0 }
      for step in 0..<3 {
        for (index, descriptor) in descriptors.enumerated() {
          let path = "/bench/t\(index)\0"
          let message =
            switch step {
            case 0: Self.message(.read, path, transaction: numbers[index])
            case 1: Self.message(.write, path + "value", transaction: numbers[index])
            default: Self.message(.transactionEnd, "T\0", transaction: numbers[index])
            }
          send(message, to: descriptor)
        }
        for descriptor in descriptors { receive(from: descriptor) }
      }
      count += descriptors.count
    }
    return Double(count) / (Double(pv_monotonic_nanoseconds() - start) / 1e9)
  }

  /// Events a second: the first socket writes, the others, and it too, watch.
  func events(seconds: Double) -> Double {
    for descriptor in descriptors {
      send(Self.message(.watch, "/bench/w\0t\0"), to: descriptor)
      while receive(from: descriptor) < 2 {}
    }
    let write = Self.message(.write, "/bench/w\0v")
    let start = pv_monotonic_nanoseconds()
    let end = start + UInt64(seconds * 1e9)
    var count = 0
    while pv_monotonic_nanoseconds() < end {
      send(write, to: descriptors[0])
      var own = 0
      while own < 2 { own += receive(from: descriptors[0]) }
      for descriptor in descriptors.dropFirst() { receive(from: descriptor) }
      count += descriptors.count
    }
    let rate = Double(count) / (Double(pv_monotonic_nanoseconds() - start) / 1e9)
    for descriptor in descriptors {
      send(Self.message(.unwatch, "/bench/w\0t\0"), to: descriptor)
      receive(from: descriptor)
    }
    return rate
  }
}
