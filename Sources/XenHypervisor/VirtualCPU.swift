// SPDX-License-Identifier: MIT

import CLinux
import Glibc
public import GuestMemory
public import Synchronization
public import XenWire

/// One virtual CPU of a domain: where its events arrive, and how its thread sleeps without missing one.
///
/// ```
///   sender                                  the CPU's thread
///   set pending bit                         prepareToSleep: say "sleeping"
///   set selector bit                                        full barrier
///   set upcall_pending, was it clear?                       look at upcall_pending: set -> do not sleep
///   full barrier                            sleep on wakeDescriptor
///   "sleeping"? -> kick                     didWake
/// ```
/// One of the two sees the other's store, so no wake-up is lost; a thread that is awake is never kicked.
///
/// **Assumptions.** All but the counters belong to one thread at a time.
@safe public final class VirtualCPU: @unchecked Sendable {
  // SAFETY: the slot's memory lives as long as `channels`; the cursor is used by the owning thread only.
  /// The CPU's number in its domain.
  public let index: Int
  let channels: EventChannels
  @usableFromInline let slot: UnsafeMutablePointer<EventSlot>
  @usableFromInline let wake: UnsafeMutablePointer<WakeState>
  @usableFromInline let cursor: UnsafeMutablePointer<DeliveryCursor>
  @usableFromInline let upcallPending: SharedWord<UInt8>
  @usableFromInline let selector: SharedWord<UInt64>

  init(index: Int, channels: EventChannels) {
    self.index = index
    self.channels = channels
    unsafe slot = channels.slot
    unsafe wake = slot.pointee.wakes + index
    unsafe cursor = slot.pointee.cursors + index
    let memory = unsafe slot.pointee.sharedInfo
    let info = SharedInfo.virtualCPUOffset(index)
    upcallPending = memory.word8(at: info + SharedInfo.upcallPendingOffset)
    selector = memory.word64(at: info + SharedInfo.pendingSelectorOffset)
  }

  /// Rounds of delivery stop after so many events, so that a flood cannot keep the thread.
  @usableFromInline static let eventsPerCall = 256

  /// Whether something waits; one relaxed load.
  @inlinable public var hasPendingUpcall: Bool { upcallPending.loadRelaxed() != 0 }

  /// Runs `body` for each pending port that is not masked, and answers how often it ran.
  ///
  /// A port's pending bit is cleared before `body` runs, so an event that arrives meanwhile is delivered again. The scan goes
  /// on behind the port of the last call, so every port has its turn.
  @inlinable @discardableResult
  public func takePendingPorts(_ body: (EventPort) -> Void) -> Int {
    var count = 0
    while hasPendingUpcall, count < Self.eventsPerCall {
      _ = upcallPending.exchange(0)
      let taken =
        unsafe slot.pointee.usesFIFO.load(ordering: .acquiring)
        ? takeFIFO(atMost: Self.eventsPerCall - count, body) : takeTwoLevel(body)
      if taken == 0 { break }
      count += taken
    }
    return count
  }

  @inlinable
  func takeTwoLevel(_ body: (EventPort) -> Void) -> Int {
    var words = selector.exchange(0)
    guard words != 0 else { return 0 }
    var count = 0
    let startWord = unsafe cursor.pointee.resumeWord
    let startBit = unsafe cursor.pointee.resumeBit
    let comesRoundAgain = startBit > 0 && words & (1 << UInt64(startWord)) != 0
    if comesRoundAgain { count += takeWord(startWord, bits: ~0 << UInt64(startBit), body) }
    if comesRoundAgain { words &= ~(1 << UInt64(startWord)) }
    var word = startWord
    for _ in 0..<64 where words != 0 {
      if words & (1 << UInt64(word)) != 0 {
        count += takeWord(word, bits: ~0, body)
        words &= ~(1 << UInt64(word))
      }
      word = (word + 1) & 63
    }
    if comesRoundAgain { count += takeWord(startWord, bits: ~(~0 << UInt64(startBit)), body) }
    return count
  }

  /// Delivers the pending, unmasked ports of one word, lowest first, of those that `bits` names.
  @inlinable
  func takeWord(_ word: Int, bits: UInt64, _ body: (EventPort) -> Void) -> Int {
    let info = unsafe slot.pointee.sharedInfo
    let pending = info.word64(at: SharedInfo.pendingOffset + word * 8)
    let masked = info.word64(at: SharedInfo.maskOffset + word * 8)
    var ready = pending.loadAcquiring() & ~masked.loadAcquiring() & bits
    var count = 0
    while ready != 0 {
      let bit = ready.trailingZeroBitCount
      ready &= ready &- 1
      // The words are the domain's, not the CPU's: a port that is bound elsewhere is for that CPU to take.
      let owner = unsafe slot.pointee.record(UInt32(word * 64 + bit)).virtualCPU
      if owner != index {
        unsafe slot.pointee.select(word: word, of: owner)
        continue
      }
      pending.fetchAnd(~(1 << UInt64(bit)))
      unsafe cursor.pointee.resumeWord = bit == 63 ? (word + 1) & 63 : word
      unsafe cursor.pointee.resumeBit = bit == 63 ? 0 : bit + 1
      body(EventPort(rawValue: UInt32(word * 64 + bit)))
      count += 1
    }
    return count
  }

  // MARK: Sleeping

  /// Lets a CPU run that the domain was created with and that is down (`VCPUOP_up`); one that is up stays so.
  /// - Throws: ``SystemError`` when the system has no descriptor left.
  public func bringUp() throws(SystemError) { try unsafe slot.pointee.bringUp(index) }

  /// The eventfd that becomes readable when a sleeping CPU is kicked; owned by the hypervisor; -1 for a CPU that is down.
  @inlinable public var wakeDescriptor: CInt { unsafe wake.pointee.descriptor }

  /// Says that the thread is about to sleep; false when something arrived already, and then it must not.
  @inlinable
  public func prepareToSleep() -> Bool {
    unsafe wake.pointee.sleep.store(WakeState.sleeping, ordering: .sequentiallyConsistent)
    if upcallPending.loadSequential() == 0 { return true }
    didWake()
    return false
  }

  /// Says that the thread is awake again, and takes back the token of a kick; call it however the sleep ended.
  @inlinable
  public func didWake() {
    let wasKicked = unsafe wake.pointee.end()
    unsafe cursor.pointee.settle(wasKicked: wasKicked, descriptor: wakeDescriptor)
  }

  /// Sleeps until something is pending or the time is over; false when it was the time.
  /// - Parameter milliseconds: how long at most; -1 is for ever.
  @discardableResult
  public func sleep(atMostMilliseconds milliseconds: CInt = -1) -> Bool {
    let end = pv_monotonic_nanoseconds() + UInt64(max(milliseconds, 0)) * 1_000_000
    while prepareToSleep() {
      let now = pv_monotonic_nanoseconds()
      let left = milliseconds < 0 ? -1 : CInt((end - min(now, end) + 999_999) / 1_000_000)
      var wait = pollfd(fd: wakeDescriptor, events: Int16(POLLIN), revents: 0)
      _ = unsafe poll(&wait, 1, left)
      didWake()
      // The token of an earlier kick may come late and end a sleep for which nothing is pending.
      if hasPendingUpcall || left == 0 { break }
    }
    return hasPendingUpcall
  }

  /// Kicks that a sender had to send because the thread slept.
  public var kicksSent: UInt64 { unsafe wake.pointee.kicksSent.load(ordering: .relaxed) }
  /// Kicks that were not needed because the thread was awake.
  public var kicksSaved: UInt64 { unsafe wake.pointee.kicksSaved.load(ordering: .relaxed) }
}
