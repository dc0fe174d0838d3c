// SPDX-License-Identifier: MIT

public import GuestMemory
public import Synchronization
public import XenWire

/// When an end asks to be notified, and when it notifies.
///
/// All policies use the classic event words and are nobody's business but the end's own: any policy works against any
/// other, and none can lose a wake-up, because an end never sleeps without having armed its event and sent what it owes.
public enum NotificationPolicy: String, Sendable, CaseIterable {
  /// The event is armed before the end looks around for a while, as Linux does.
  case holdOff = "holdoff"
  /// The end looks for a while first and arms its event only before it really sleeps: while it looks, the peer sends nothing.
  case poll
  /// As hold-off; and an end that has more to say holds its notification back: a backend for a few responses while it has
  /// more requests in hand, a frontend for a few requests while the backend has some of earlier batches.
  case adaptive
}

/// The producer word that an end waits to see move: what it looks at while it polls.
public struct PollPoint: Sendable {
  @usableFromInline let producer: SharedWord<UInt32>
  @usableFromInline let consumed: RingIndex

  @inlinable
  init(producer: SharedWord<UInt32>, consumed: RingIndex) {
    self.producer = producer
    self.consumed = consumed
  }

  /// Whether the peer has produced since; one relaxed load.
  @inlinable public var hasMoved: Bool { producer.loadRelaxed() != consumed.rawValue }
}

extension FrontRing {
  /// What to look at for the next response.
  @inlinable
  public var pollPoint: PollPoint { PollPoint(producer: layout.responseProducer, consumed: responseConsumer) }
}

extension BackRing {
  /// What to look at for the next request.
  @inlinable
  public var pollPoint: PollPoint { PollPoint(producer: layout.requestProducer, consumed: requestConsumer) }
}

/// Holds an end's notifications back while more messages are about to come (variant H3); said of a backend and its responses
/// here, and the same for a frontend and its requests.
///
/// A notification that the peer asked for is due at once unless requests are still in hand. Then it is due after `k`
/// responses or `t` nanoseconds, whichever is first: `k` is what usually completes within ``budget``, `t` twice the time
/// that `k` responses usually take, at most the budget. Fast completions are announced in batches, slow ones one by one.
///
/// **Assumptions.** The owner calls ``settle()`` before it sleeps or waits for anything, and sends what that says.
public struct KickCoalescer: Sendable {
  /// The longest that a notification is held back, in nanoseconds.
  public static let budget: UInt64 = 20_000
  /// The most responses that one notification announces.
  public static let mostResponses: UInt64 = 64

  /// Nanoseconds from response to response, as a moving average of eight.
  @usableFromInline var interval: UInt64 = KickCoalescer.budget
  @usableFromInline var lastTime: UInt64 = 0
  @usableFromInline var owedSince: UInt64 = 0
  @usableFromInline var owedResponses: UInt64 = 0
  /// Whether a notification was asked for and has not been sent.
  public private(set) var isOwed = false

  /// Starts without knowing a rate.
  public init() {}

  /// Responses after which a notification is due.
  @inlinable public var k: UInt64 { min(max(Self.budget / max(interval, 1), 1), Self.mostResponses) }
  /// Nanoseconds after which it is due.
  @inlinable public var t: UInt64 { min(2 &* k &* interval, Self.budget) }

  /// Responses were published.
  /// - Parameters:
  ///   - isAsked: whether the peer's event was passed.
  ///   - inHand: whether more will be said soon: a backend has taken requests that it has not answered, or some wait in the ring;
  ///     a frontend waits for answers to earlier requests.
  /// - Returns: whether to notify now.
  public mutating func published(_ count: UInt64, isAsked: Bool, inHand: Bool, now: UInt64) -> Bool {
    if lastTime != 0, now > lastTime, count > 0 {
      let sample = min((now - lastTime) / count, 1_000_000)
      interval = (interval &* 7 &+ sample) / 8
    }
    lastTime = now
    if isAsked, !isOwed {
      isOwed = true
      owedSince = now
      owedResponses = 0
    }
    guard isOwed else { return false }
    owedResponses &+= count
    if inHand, owedResponses < k, now &- owedSince < t { return false }
    isOwed = false
    return true
  }

  /// The owner is about to wait.
  /// - Returns: whether a notification is owed; it counts as sent from now on.
  public mutating func settle() -> Bool {
    defer { isOwed = false }
    return isOwed
  }
}
