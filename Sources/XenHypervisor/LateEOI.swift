// SPDX-License-Identifier: MIT

public import XenWire

/// Holds a port's events back until the work that the last one announced is done, and longer when there was none.
///
/// A peer that kicks without queuing work is slowed down by itself: each such event counts, and above the threshold each
/// further one doubles the time until the port is unmasked, up to a second (Linux events_base.c, `xen_irq_lateeoi`).
///
/// ```
///   event -> arrived: mask      work       finished -> useful: unmask at once, forget the count
///                                                    -> spurious: unmask now or later: ... 0 0 1 2 4 8 ... 250 ticks
/// ```
///
/// **Units.** Times are nanoseconds of whatever clock the owner reads; a tick is a part of a second as the knobs say.
///
/// **Assumptions.** One owner, the thread that takes the port's events.
public struct LateEOI: Sendable {
  /// What Linux lets an administrator set, and the length of its tick.
  public struct Knobs: Equatable, Sendable {
    /// Ticks in a second (Linux `HZ`).
    public var ticksPerSecond: UInt64 = 250
    /// Spurious events in a row that cost nothing (`spurious_threshold`).
    public var spuriousThreshold: UInt64 = 1
    /// How long a delivery loop may run, in ticks (`event_loop_timeout`).
    public var loopTimeoutTicks: UInt64 = 2
    /// How long a port waits that was finished in a loop that ran too long, in ticks (`event_eoi_delay`).
    public var delayTicks: UInt64 = 10

    /// Linux's defaults with a tick of 4 ms.
    public init() {}
  }

  /// The port that is held back.
  public let port: EventPort
  /// The knobs.
  public let knobs: Knobs
  /// Spurious events since the last useful one, as far as they matter.
  public private(set) var spuriousCount: UInt64 = 0
  /// When the port may be unmasked; nothing when nobody waits for a time.
  public private(set) var dueTime: UInt64?
  /// Whether an event arrived and its port is still masked.
  public private(set) var isHeld = false

  /// Starts with an open, unmasked port.
  public init(port: EventPort, knobs: Knobs = Knobs()) {
    self.port = port
    self.knobs = knobs
  }

  /// Notes an event and holds further ones back.
  public mutating func arrived(on channels: EventChannels) {
    isHeld = true
    channels.mask(port)
  }

  /// Says that the work is done; unmasks the port, or sets ``dueTime``.
  /// - Parameters:
  ///   - wasSpurious: nothing had been queued.
  ///   - isLoopLate: the delivery loop that brought the event ran too long, as ``DeliveryLoop`` tells.
  ///   - now: the clock.
  public mutating func finished(wasSpurious: Bool, isLoopLate: Bool = false, now: UInt64, on channels: EventChannels) {
    guard isHeld, dueTime == nil else { return }
    let ticks = max(penalty(wasSpurious: wasSpurious), isLoopLate ? knobs.delayTicks : 0)
    if ticks == 0 {
      release(on: channels)
    } else {
      dueTime = now + ticks * (1_000_000_000 / knobs.ticksPerSecond)
    }
  }

  /// Unmasks the port if its time has come; answers whether it did.
  @discardableResult
  public mutating func expire(now: UInt64, on channels: EventChannels) -> Bool {
    guard let dueTime, dueTime <= now else { return false }
    release(on: channels)
    return true
  }

  private mutating func release(on channels: EventChannels) {
    isHeld = false
    dueTime = nil
    // A port that was closed meanwhile has nothing to unmask.
    do throws(EventChannelError) { try channels.unmask(port) } catch {}
  }

  /// Counts the event and answers what it costs, in ticks.
  private mutating func penalty(wasSpurious: Bool) -> UInt64 {
    guard wasSpurious else {
      spuriousCount = 0
      return 0
    }
    if UInt64(1) << spuriousCount < knobs.ticksPerSecond * 4 { spuriousCount += 1 }
    guard spuriousCount > knobs.spuriousThreshold else { return 0 }
    return min(1 << (spuriousCount - 1 - knobs.spuriousThreshold), knobs.ticksPerSecond)
  }
}

/// Tells when a loop that delivers events has run too long, with a look at the clock every 256 events only.
public struct DeliveryLoop: Sendable {
  /// Events between two looks at the clock.
  public static let eventsPerLook = 256

  private let end: UInt64
  private var count = 0
  /// Whether the loop ran too long; stays so.
  public private(set) var isLate = false

  /// Starts a loop at a time, in nanoseconds.
  public init(now: UInt64, knobs: LateEOI.Knobs = LateEOI.Knobs()) {
    end = now + knobs.loopTimeoutTicks * (1_000_000_000 / knobs.ticksPerSecond)
  }

  /// Notes one event; reads the clock when it is time to.
  public mutating func delivered(clock: () -> UInt64) {
    count += 1
    if !isLate, count % Self.eventsPerLook == 0, clock() > end { isLate = true }
  }
}
