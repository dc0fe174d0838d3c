// SPDX-License-Identifier: MIT

/// What a frontend queue counts.
public enum FrontCounter: Int, CaseIterable, Sendable {
  /// I/Os that the user submitted.
  case ios = 0
  /// Ring requests that they became.
  case requests
  /// Ring requests that named their segments in descriptor pages.
  case indirect_requests
  /// Notifications sent to the backend.
  case notifications
  /// Times that requests were published and the backend needed no notification.
  case notifications_saved
  /// Segments that were copied because their data lay outside the queue's pages, or the backend is not trusted.
  case bounced_segments
  /// Times that no slot was free.
  case ring_full
  /// Pages granted for one request.
  case grants_made
  /// Responses that broke the rules; the first one disables the queue.
  case bad_responses
  /// Reads whose data is not what its protection information says.
  case protection_errors
  /// Pages that the backend still mapped when the queue closed.
  case stuck_pages
  /// I/Os of queues without a ring that this one carried.
  case visits
  /// Connections that were over while the queue lived.
  case reconnects
  /// Notifications that were held back because more requests were about to come.
  case notifications_deferred

  /// The name as it is reported.
  public var name: String { "\(self)" }
}
