// SPDX-License-Identifier: MIT

public import SharedRing
public import XenBus

/// What an administrator can set on a backend, under Linux blkback's names where it has one.
public struct BackendKnobs: Equatable, Sendable {
  /// `max_persistent_grants`: pages that one ring keeps mapped.
  public var maxPersistentGrants = 1056
  /// `persistent_grant_unused_seconds`: idle time after which a mapping is dropped; 0 keeps it for ever.
  public var persistentGrantUnusedSeconds = 60
  /// `max_buffer_pages`: free pages that one ring keeps for foreign ones to stand in.
  public var maxBufferPages = 1024
  /// `buffer_squeeze_duration_ms`: how long a ring keeps none after memory was short.
  public var bufferSqueezeMilliseconds = 10
  /// `feature_persistent`: whether persistent grants are offered.
  public var featurePersistent = true
  /// Segments of an indirect request, as advertised in `feature-max-indirect-segments`; 0 offers no indirect requests.
  public var maxIndirectSegments = 256
  /// `max_ring_page_order`: log2 of the most ring pages.
  public var maxRingPageOrder = 4
  /// `max_queues`: the most queues of one disk.
  public var maxQueues = 8
  /// Which mappings make room when the cache is full.
  public var purgePolicy = PurgePolicy.linux

  /// How requests are waited for and responses announced.
  public var notify = NotificationPolicy.holdOff
  /// Forms of the rings that are offered beside the classic one.
  public var rings = RingOffer()

  /// The defaults of Linux 6.1.
  public init() {}
}

/// How a full persistent-grant cache makes room.
public enum PurgePolicy: String, Sendable, CaseIterable {
  /// blkback's: every 100 ms drop what was unused for 60 s, then the lowest references until 5 % are free.
  case linux
  /// Drop the mapping that was used longest ago, at the moment that room is needed.
  case leastRecentlyUsed = "lru"
}
