// SPDX-License-Identifier: MIT

/// A free-running ring index (ring.h `RING_IDX`): 32 bits, never masked when stored, wrapping is normal.
public struct RingIndex: RawRepresentable, Hashable, Sendable, BitwiseCopyable {
  /// The index as it stands in the ring.
  public var rawValue: UInt32
  /// Wraps an index.
  @inlinable public init(rawValue: UInt32) { self.rawValue = rawValue }

  /// How far `later` is ahead, modulo 2^32.
  @inlinable public func distance(to later: RingIndex) -> UInt32 { later.rawValue &- rawValue }
  /// The index `count` further on, modulo 2^32.
  @inlinable public func advanced(by count: UInt32) -> RingIndex { RingIndex(rawValue: rawValue &+ count) }

  /// Whether moving a producer from `old` to `new` passed the consumer's event, which is then in (old, new]
  /// (ring.h `RING_PUSH_*_AND_CHECK_NOTIFY`).
  @inlinable
  public static func mustNotify(from old: RingIndex, to new: RingIndex, event: RingIndex) -> Bool {
    event.distance(to: new) < old.distance(to: new)
  }
}

/// What a producer has to do after publishing.
public enum NotificationNeed: Sendable {
  /// The consumer asked to be woken at a point that was passed.
  case notify
  /// The consumer is awake, or wants to be woken later.
  case none
}

/// A peer that broke a rule of the ring.
public enum RingViolation: Error, Equatable, Sendable {
  /// The request producer is more than a ring ahead (ring.h `RING_REQUEST_PROD_OVERFLOW`).
  case requestProducerOverflow
  /// The response producer is ahead of what was asked (ring.h `RING_RESPONSE_PROD_OVERFLOW`).
  case responseProducerOverflow
  /// Split rings: more was asked than there are places for responses that were read.
  case responseSpaceExceeded
}
