// SPDX-License-Identifier: MIT

/// What one guest may have of a backend, so that the others are left with enough.
///
/// The number of its mapped pages is limited where pages are mapped.
public struct GuestLimits: Equatable, Sendable {
  /// Disks at once.
  public var disks = 32
  /// Queues of all its disks together; each is a thread, a port and a ring.
  public var queues = 64

  /// The defaults.
  public init() {}
}
