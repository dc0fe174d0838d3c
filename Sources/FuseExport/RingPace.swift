// SPDX-License-Identifier: MIT

import CLinux

/// Where a ring's reactor runs, and whether it looks before it sleeps.
///
/// Requests come to the reactor of the CPU that asks. One at a time they are best served right there: the asker sleeps
/// meanwhile, and waking a thread of another CPU costs more than the request. With several in flight the asker does not sleep,
/// and serving on another CPU doubles what the two can do; then a short look instead of a sleep spares the wake-ups.
///
///     at home, sleeping  --- several requests at once, again and again --->  anywhere, looking
///                        <-- looks in vain, again and again --------------
struct RingPace {
  /// Looks of this length find the next request of an asker that is at work on another CPU.
  static let lookNanoseconds: UInt64 = 15_000
  static let patience = 32
  /// What a look in vain weighs against one that paid.
  static let vainWeight = 4
  /// Looks that must have paid for a time away to have been worth it; after one that was not, the next comes later.
  static let worthwhile = 256

  /// The CPU that the kernel's queue belongs to; nil where the thread stays where it is put.
  let homeCPU: Int?
  /// Small requests taken since the last sleep or look; large ones are shared with a neighbour instead.
  var taken = 0
  private(set) var isAway = false
  private var evidence = 0
  private var demand = RingPace.patience
  private var paid = 0

  init(homeCPU: Int?) { self.homeCPU = pv_cpu_count_of_process() > 1 ? homeCPU : nil }

  /// Takes note of what has come since the last time, moves the thread if that tells it to, and says whether to look
  /// before sleeping.
  mutating func shouldLook() -> Bool {
    defer { taken = 0 }
    guard let homeCPU else { return false }
    if isAway {
      guard evidence > 0 else {
        isAway = false
        demand = paid < Self.worthwhile ? min(demand * 4, 1 << 14) : Self.patience
        _ = pv_pin_thread(CInt(homeCPU))
        return false
      }
      return true
    }
    evidence = taken > 1 ? evidence + 1 : max(0, evidence - 1)
    if evidence >= demand {
      paid = 0
      isAway = pv_unpin_thread() == 0
      evidence = isAway ? Self.patience : 0
    }
    return false
  }

  /// Looks for a while; whether there was something.
  mutating func look(until hasNews: () -> Bool) -> Bool {
    let end = pv_monotonic_nanoseconds() &+ Self.lookNanoseconds
    repeat {
      for _ in 0..<8 {
        if hasNews() {
          evidence = min(Self.patience, evidence + 1)
          paid &+= 1
          return true
        }
        pv_cpu_relax()
      }
    } while pv_monotonic_nanoseconds() < end
    evidence -= Self.vainWeight
    return false
  }
}
