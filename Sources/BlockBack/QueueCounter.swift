// SPDX-License-Identifier: MIT

/// What a backend queue counts, under Linux blkback's names where it has one (sysfs `statistics/`).
public enum QueueCounter: Int, CaseIterable, Sendable {
  /// Read requests.
  case rd_req = 0
  /// Write requests.
  case wr_req
  /// Flush and barrier requests.
  case f_req
  /// Discard requests.
  case ds_req
  /// Sectors read.
  case rd_sect
  /// Sectors written.
  case wr_sect
  /// Times that a request had to wait for a free request object.
  case oo_req
  /// Requests that named their segments in descriptor pages.
  case indirect_req
  /// Segments of all requests.
  case segments
  /// Requests answered with an error.
  case err_req
  /// Requests answered with "unsupported".
  case unsupported_req
  /// Pages mapped.
  case grants_mapped
  /// Pages unmapped.
  case grants_unmapped
  /// Segments whose page was already mapped.
  case grants_reused
  /// Mappings that the persistent cache holds now.
  case grants_persistent
  /// Mappings that the persistent cache dropped to make room or for age.
  case grants_evicted
  /// Writes whose data is not what its protection information says.
  case protection_errors
  /// Responses sent.
  case responses
  /// Notifications sent to the frontend.
  case notifications
  /// Times that responses were published and nobody had asked for a notification.
  case notifications_saved
  /// Notifications that were held back because more responses were about to come.
  case notifications_deferred
  /// Times that the queue stopped for good because the frontend broke the ring's rules.
  case ring_broken
  /// Free pages that the ring keeps now for foreign ones to stand in (blkback's `free_pages_num`).
  case buffer_pages

  /// The name as it is reported.
  public var name: String { "\(self)" }
}
