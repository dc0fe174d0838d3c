// SPDX-License-Identifier: MIT

/// Counts, for each request of an unprivileged client, what it has set off and nobody has taken yet: its reply and the
/// events that it caused, at whatever client they wait (XSA-326).
struct RequestLedger: Sendable {
  private var open: [UInt64: Int] = [:]
  private var last: UInt64 = 0
  /// The request being carried out; 0 for none.
  private(set) var current: UInt64 = 0

  /// Starts a request; it holds one unit for its reply.
  mutating func begin() -> UInt64 {
    last += 1
    open[last] = 1
    current = last
    return last
  }

  mutating func end() { current = 0 }

  mutating func hold(_ request: UInt64) {
    if request != 0 { open[request, default: 0] += 1 }
  }

  /// Gives one unit back; true when it was the request's last.
  mutating func release(_ request: UInt64) -> Bool {
    guard let units = open[request] else { return false }
    open[request] = units > 1 ? units - 1 : nil
    return units == 1
  }
}
