// SPDX-License-Identifier: MIT

/// A domain's allowance of writes while others have transactions open (XSA-206).
///
/// Without it a guest that writes in a loop could make every transaction of the toolstack fail. Credit comes in at 200
/// writes a second, shared by all unprivileged domains, and piles up to ten writes a domain; what is over goes into a
/// common reserve of up to a thousand, which new and busy domains draw on. A domain below zero is not listened to until
/// it has recovered. The unit is a thousandth of a write.
struct WriteCredit: Sendable {
  static let write: Int64 = 1000
  static let ratePerSecond: Int64 = 200 * write
  static let burst: Int64 = 10 * write
  static let reserveLimit: Int64 = 1000 * write
  static let initialReserve: Int64 = 50 * write

  private(set) var amount: Int64 = 0
  private var updated: UInt64?

  /// Whether the domain has overdrawn.
  var isSpent: Bool { amount < 0 }

  /// Brings the credit up to date; surplus goes to the reserve, and a lack is made good from it.
  mutating func update(at time: UInt64, domains: Int, reserve: inout Int64) {
    guard let before = updated else {
      updated = time
      amount = min(Self.burst, max(reserve, 0))
      reserve -= amount
      return
    }
    let milliseconds = Int64(min((time &- before) / 1_000_000, 1_000_000))
    guard milliseconds > 0 else { return }
    updated = before &+ UInt64(milliseconds) * 1_000_000
    amount += milliseconds * Self.ratePerSecond / (1000 * Int64(max(domains, 1)))
    if amount < 0 {
      let loan = min(-amount, max(reserve, 0))
      amount += loan
      reserve -= loan
    }
    if amount > Self.burst {
      reserve = min(reserve + amount - Self.burst, max(reserve, Self.reserveLimit))
      amount = Self.burst
    }
  }

  mutating func spend() { amount -= Self.write }
}
