// SPDX-License-Identifier: MIT

public import CLinux

/// How long a thread looks before it sleeps: longer while looking pays, not at all while it does not.
///
/// Waking a sleeping thread of another core costs tens of microseconds on a virtual machine, a look costs nothing; but a
/// thread that looks in vain takes the core from the one that it waits for.
public struct AdaptiveSpin: Sendable {
  @usableFromInline let most: UInt64
  @usableFromInline let least: UInt64
  @usableFromInline var budget: UInt64

  /// Starts at a quarter of the most.
  /// - Parameter most: nanoseconds; 0 never looks.
  public init(most: UInt64) {
    self.most = most
    least = most / 64
    budget = most / 4
  }

  /// Looks until `isReady` or the budget is used up, and learns from the outcome.
  @inlinable
  public mutating func wait(until isReady: () -> Bool) -> Bool {
    guard most > 0 else { return isReady() }
    let start = pv_monotonic_nanoseconds()
    repeat {
      for _ in 0..<16 {
        if isReady() {
          budget = min(most, budget &* 2)
          return true
        }
        pv_cpu_relax()
      }
    } while pv_monotonic_nanoseconds() &- start < budget
    budget = max(least, budget / 2)
    return false
  }
}
