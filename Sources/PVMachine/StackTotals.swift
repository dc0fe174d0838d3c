// SPDX-License-Identifier: MIT

import BlockBack
import BlockFront
import BlockIO
import XenHypervisor
import XenWire

/// What both ends of a disk have counted since it was attached: sums over its queues.
public struct StackTotals: Equatable, Sendable {
  /// I/Os that the user submitted.
  public var ios: UInt64 = 0
  /// Ring requests that they became.
  public var requests: UInt64 = 0
  /// Segments of all ring requests.
  public var segments: UInt64 = 0
  /// Notifications that the frontend sent.
  public var frontNotifications: UInt64 = 0
  /// Notifications that the backend sent.
  public var backNotifications: UInt64 = 0
  /// Times that a sleeping virtual CPU had to be woken for an event.
  public var kicksSent: UInt64 = 0
  /// Requests that the backend answered with anything but "okay".
  public var refusals: UInt64 = 0
  /// Pages that the backend mapped.
  public var grantsMapped: UInt64 = 0
  /// Segments whose page the backend had mapped already.
  public var grantsReused: UInt64 = 0

  /// What came in between two looks.
  public static func - (after: StackTotals, before: StackTotals) -> StackTotals {
    var difference = StackTotals()
    difference.ios = after.ios &- before.ios
    difference.requests = after.requests &- before.requests
    difference.segments = after.segments &- before.segments
    difference.frontNotifications = after.frontNotifications &- before.frontNotifications
    difference.backNotifications = after.backNotifications &- before.backNotifications
    difference.kicksSent = after.kicksSent &- before.kicksSent
    difference.refusals = after.refusals &- before.refusals
    difference.grantsMapped = after.grantsMapped &- before.grantsMapped
    difference.grantsReused = after.grantsReused &- before.grantsReused
    return difference
  }
}

extension AttachedDisk {
  /// What both ends have counted so far.
  public var totals: StackTotals {
    var totals = StackTotals()
    for (front, back) in counters {
      totals.ios += front[FrontCounter.ios.rawValue]
      totals.requests += front[FrontCounter.requests.rawValue]
      totals.segments += back[QueueCounter.segments.rawValue]
      totals.frontNotifications += front[FrontCounter.notifications.rawValue]
      totals.backNotifications += back[QueueCounter.notifications.rawValue]
      totals.refusals += back[QueueCounter.err_req.rawValue] + back[QueueCounter.unsupported_req.rawValue]
      totals.grantsMapped += back[QueueCounter.grants_mapped.rawValue]
      totals.grantsReused += back[QueueCounter.grants_reused.rawValue]
    }
    for cpu in cpus {
      totals.kicksSent += machine.guest.virtualCPUs[cpu].kicksSent + machine.control.virtualCPUs[cpu].kicksSent
    }
    return totals
  }
}
