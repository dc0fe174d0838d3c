// SPDX-License-Identifier: MIT

import GuestMemory
import Synchronization
public import XenWire

/// Taking events from the FIFO queues (Linux events_fifo.c, `evtchn_fifo_handle_events`).
extension VirtualCPU {
  /// Runs `body` for queued ports, the most urgent queue first, and answers how often it ran.
  @usableFromInline
  func takeFIFO(atMost limit: Int, _ body: (EventPort) -> Void) -> Int {
    guard let fifo = unsafe slot.pointee.fifo, let control = unsafe fifo.pointee.control(of: index) else { return 0 }
    let readyWord = control.word32(at: FIFOLayout.readyOffset)
    // Other bits are nonsense that only the guest itself can have written.
    let queues: UInt32 = 0xFFFF
    var ready = unsafe (cursor.pointee.readyQueues | readyWord.exchange(0)) & queues
    var count = 0
    var steps = 0
    // A masked or forgotten port is a step without an event.
    while ready != 0, count < limit, steps < limit * 4 {
      let priority = ready.trailingZeroBitCount
      steps += 1
      var port = unsafe cursor.pointee.localHeads[priority]
      if port == 0 { port = control.word32(at: FIFOLayout.headOffset + priority * 4).loadAcquiring() }
      guard let word = unsafe fifo.pointee.word(port) else {
        ready &= ~(1 << UInt32(priority))
        unsafe cursor.pointee.localHeads[priority] = 0
        continue
      }
      let seen = Self.unlink(word)
      let next = seen & FIFOLayout.linkMask
      if next == 0 { ready &= ~(1 << UInt32(priority)) }
      unsafe cursor.pointee.localHeads[priority] = next
      if seen & FIFOLayout.pending != 0, seen & FIFOLayout.masked == 0 {
        word.fetchAnd(~FIFOLayout.pending)
        body(EventPort(rawValue: port))
        count += 1
      }
      ready |= readyWord.exchange(0) & queues
    }
    unsafe cursor.pointee.readyQueues = ready
    // What is left for the next call must not be slept over.
    if ready != 0 { _ = upcallPending.exchange(1) }
    return count
  }

  /// Takes a port out of its queue; answers the word as it was, with the next port in its link.
  private static func unlink(_ word: SharedWord<UInt32>) -> UInt32 {
    var seen = word.loadAcquiring()
    while true {
      let result = word.compareExchange(
        expected: seen, desired: seen & ~(FIFOLayout.linked | FIFOLayout.linkMask))
      if result.exchanged { return seen }
      seen = result.original
    }
  }
}
