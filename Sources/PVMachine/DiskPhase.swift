// SPDX-License-Identifier: MIT

/// Where the pair of ends stands, as the machine sees it.
public enum DiskPhase: String, Sendable {
  /// A handshake is under way; queues hold their I/O.
  case connecting
  case connected
  /// Queues let go of their connection.
  case disconnecting
  /// Queues hold their I/O until there is a backend again.
  case suspended
  /// There is no backend: I/O fails.
  case gone
  /// The toolstack takes the disk off.
  case detaching
}
