// SPDX-License-Identifier: MIT

import CLinux
import XenHypervisor
import XenWire

/// Holds a queue's events back while nothing comes with them, so that a frontend that does nothing but signal keeps its backend's
/// thread asleep, and hurts itself alone (XSA-332; ``LateEOI``).
///
/// An event is spurious when nobody has taken a request since the event before it: requests that were found by looking, before
/// their event came, count.
struct EventGate {
  private var late: LateEOI
  private let channels: EventChannels
  /// Whether nothing is held back: for a planted bug alone.
  private let isOpen: Bool
  private var takenBefore: UInt32 = 0

  init(port: EventPort, channels: EventChannels, isOpen: Bool) {
    late = LateEOI(port: port)
    self.channels = channels
    self.isOpen = isOpen
  }

  /// Takes the events that are there; the port's next one waits until ``settle(requestsTaken:)``.
  mutating func take(from cpu: VirtualCPU) {
    guard !isOpen else {
      cpu.takePendingPorts { _ in }
      return
    }
    var hasArrived = false
    cpu.takePendingPorts { port in hasArrived = hasArrived || port == late.port }
    if hasArrived { late.arrived(on: channels) }
  }

  /// The work that the last event announced is done, if there was any.
  mutating func settle(requestsTaken: UInt32) {
    guard late.isHeld else { return }
    let now = pv_monotonic_nanoseconds()
    if late.dueTime == nil {
      late.finished(wasSpurious: requestsTaken == takenBefore, now: now, on: channels)
      takenBefore = requestsTaken
    } else {
      late.expire(now: now, on: channels)
    }
  }

  /// How long the thread may sleep at most: until the port is due again; -1 for as long as it likes.
  var milliseconds: CInt {
    guard let due = late.dueTime else { return -1 }
    let now = pv_monotonic_nanoseconds()
    return due <= now ? 0 : CInt((due - now + 999_999) / 1_000_000)
  }
}
