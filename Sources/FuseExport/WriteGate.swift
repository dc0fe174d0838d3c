// SPDX-License-Identifier: MIT

public import CLinux
public import GuestMemory
public import Synchronization

/// A reactor's seat at the gate that keeps writes of whole sectors away from a read-modify-write.
///
/// Writes of whole sectors run at the same time on every queue. A write that begins or ends inside a sector reads that
/// sector, changes a part of it and writes it back; whatever another write did to the sector in between would be lost.
/// So such a write runs alone. Memory shared by the reactors, one cache line for each word:
///
///     line 0        the gate: 0 open, 1 closed
///     line 1 + r    writes that reactor r has admitted and not yet completed
///
/// **Entering** (each write, cheap): the first write in flight publishes its count, passes a full barrier and looks at
/// the gate; a further one only looks, since the published count already keeps an exclusive writer out. **Closing**
/// (rare): takes the gate by compare-exchange, passes a full barrier and waits until every other count is zero. Of two
/// who do this at once at least one sees the other (Dekker), because both store first and load after the barrier.
///
/// **No deadlock.** Who waits at the gate, to enter or to close, has drained its own writes first, so its count is zero
/// and nobody waits for it. Who holds the gate waits only for writes in flight on other queues, which depend on their
/// devices alone, and for its own device. So the holder always gets on, opens the gate, and wakes the rest.
@usableFromInline
struct WriteGate {
  @usableFromInline let memory: SharedRegion
  @usableFromInline let seat: Int
  @usableFromInline let seatCount: Int
  /// Writes admitted through this seat and not completed.
  @usableFromInline var inFlight: UInt32 = 0

  @inlinable static var lineByteCount: Int { 128 }

  /// The bytes that `seatCount` reactors share; zeroed memory is an open gate.
  static func byteCount(seatCount: Int) -> Int { (1 + seatCount) * lineByteCount }

  init(memory: SharedRegion, seat: Int, seatCount: Int) {
    self.memory = memory
    self.seat = seat
    self.seatCount = seatCount
  }

  @inlinable var gate: SharedWord<UInt32> { memory.word32(at: 0) }
  @inlinable
  func count(of seat: Int) -> SharedWord<UInt32> { memory.word32(at: (1 + seat) * Self.lineByteCount) }

  /// Counts one more write, unless the gate is closed.
  @inlinable
  mutating func enter() -> Bool {
    if inFlight == 0 {
      count(of: seat).storeRelaxed(1)
      pv_full_barrier()
      guard gate.loadAcquiring() == 0 else {
        publishIdle()
        return false
      }
      inFlight = 1
      return true
    }
    guard gate.loadRelaxed() == 0 else { return false }
    inFlight &+= 1
    return true
  }

  /// Counts one write less.
  @inlinable
  mutating func leave() {
    precondition(inFlight > 0, "a write left the gate that never entered")
    inFlight &-= 1
    if inFlight == 0 { publishIdle() }
  }

  /// Shows a count of zero, and wakes an exclusive writer that waits for it.
  @inlinable
  func publishIdle() {
    count(of: seat).storeReleasing(0)
    pv_full_barrier()
    if gate.loadAcquiring() != 0 { wake(at: (1 + seat) * Self.lineByteCount) }
  }

  /// Waits until nobody holds the gate; only with no write of one's own in flight.
  @usableFromInline
  func waitUntilOpen() {
    precondition(inFlight == 0, "a reactor with writes in flight must not wait at the gate")
    while gate.loadAcquiring() == 1 { sleep(at: 0, while: 1) }
  }

  /// Takes the gate and waits until no other seat has a write in flight.
  @usableFromInline
  func close() {
    precondition(inFlight == 0, "a reactor with writes in flight must not close the gate")
    while !gate.compareExchange(expected: 0, desired: 1).exchanged { sleep(at: 0, while: 1) }
    pv_full_barrier()
    for other in 0..<seatCount where other != seat {
      while true {
        let seen = count(of: other).loadAcquiring()
        if seen == 0 { break }
        sleep(at: (1 + other) * Self.lineByteCount, while: seen)
      }
    }
  }

  /// Opens the gate that `close` took.
  @usableFromInline
  func open() {
    gate.storeReleasing(0)
    wake(at: 0)
  }

  @usableFromInline
  func wake(at offset: Int) {
    unsafe memory.withUnsafeBytes { bytes in
      // SAFETY: the offset is that of a word of this memory; the kernel only uses the address as a key.
      _ = unsafe pv_futex_wake(bytes.baseAddress.map { unsafe $0 + offset }, CInt.max)
    }
  }

  func sleep(at offset: Int, while value: UInt32) {
    unsafe memory.withUnsafeBytes { bytes in
      // SAFETY: callers checked the offset by loading the word there; the kernel reads four bytes.
      _ = unsafe pv_futex_wait(bytes.baseAddress.map { unsafe $0 + offset }, value, nil)
    }
  }
}
