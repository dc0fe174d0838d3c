// SPDX-License-Identifier: MIT

import GuestMemory
import Synchronization

/// Delivery by the FIFO interface (Xen event_fifo.c, `evtchn_fifo_set_pending`).
extension EventSlot {
  /// Makes a port pending and queues it, unless it is queued or masked.
  @usableFromInline
  func postFIFO(_ port: UInt32) {
    guard let fifo = unsafe fifo else { return }
    if let word = unsafe fifo.pointee.word(port) {
      raise(port, word)
    } else {
      unsafe fifo.pointee.rememberWordless(port)
      // The page may have come meanwhile; whoever takes the note raises the event.
      if let word = unsafe fifo.pointee.word(port), unsafe fifo.pointee.takeWordless(port) { raise(port, word) }
    }
  }

  /// Raises what was signalled before the words of these ports existed.
  func raiseWordless(_ ports: Range<UInt32>) {
    guard let fifo = unsafe fifo else { return }
    for port in ports {
      if let word = unsafe fifo.pointee.word(port), unsafe fifo.pointee.takeWordless(port) { raise(port, word) }
    }
  }

  private func raise(_ port: UInt32, _ word: SharedWord<UInt32>) {
    let before = word.fetchOr(FIFOLayout.pending)
    // Who unmasks a pending port queues it; who finds a queued port takes it after this.
    if before & (FIFOLayout.masked | FIFOLayout.linked) == 0 { enqueue(port, word) }
  }

  /// Puts a port at the end of its queue, and tells the CPU when the queue was empty.
  private func enqueue(_ port: UInt32, _ word: SharedWord<UInt32>) {
    guard let fifo = unsafe fifo else { return }
    let (old, record) = lockQueues(of: port)
    let queue = FIFOEvents.queue(virtualCPU: record.virtualCPU, priority: record.priority)
    // A guest may not unmask a port before its CPU has a control block: such an event waits for the next signal.
    guard let control = unsafe fifo.pointee.control(of: record.virtualCPU),
      word.loadAcquiring() & FIFOLayout.masked == 0, word.fetchOr(FIFOLayout.linked) & FIFOLayout.linked == 0
    else { return unsafe fifo.pointee.unlock(old, queue) }
    // If the port was the last of its old queue, that queue is empty now, and nothing may be linked behind it.
    if unsafe fifo.pointee.tail(of: old) == port { unsafe fifo.pointee.setTail(0, of: old) }
    unsafe fifo.pointee.setLastQueue(queue, of: port)
    let tail = unsafe fifo.pointee.tail(of: queue)
    var isBehind = false
    if tail != 0, let tailWord = unsafe fifo.pointee.word(tail) { isBehind = Self.link(tailWord, to: port) }
    if !isBehind { control.word32(at: FIFOLayout.headOffset + record.priority * 4).storeReleasing(port) }
    unsafe fifo.pointee.setTail(port, of: queue)
    unsafe fifo.pointee.unlock(old, queue)
    let bit: UInt32 = 1 << UInt32(record.priority)
    if !isBehind, control.word32(at: FIFOLayout.readyOffset).fetchOr(bit) & bit == 0 {
      markUpcallPending(record.virtualCPU)
    }
  }

  /// Locks the queue where the port belongs and the one where it was last, both as they are once locked.
  private func lockQueues(of port: UInt32) -> (old: Int, record: PortRecord) {
    guard let fifo = unsafe fifo else { preconditionFailure("queues without FIFO events") }
    while true {
      let record = self.record(port)
      let queue = FIFOEvents.queue(virtualCPU: record.virtualCPU, priority: record.priority)
      let old = unsafe fifo.pointee.lastQueue(of: port)
      unsafe fifo.pointee.lock(old, queue)
      // Another sender may have moved the port, its owner may have bound it elsewhere: each retry is somebody's progress.
      let now = self.record(port)
      if unsafe fifo.pointee.lastQueue(of: port) == old, now.virtualCPU == record.virtualCPU,
        now.priority == record.priority
      {
        return (old, record)
      }
      unsafe fifo.pointee.unlock(old, queue)
    }
  }

  /// Sets a queued word's link, if it is still queued; bounded, whatever the guest does with the word.
  private static func link(_ word: SharedWord<UInt32>, to port: UInt32) -> Bool {
    // A guest may mask, unmask, take the event and unlink, each once: with BUSY set it may not unmask.
    for attempt in 0..<5 {
      let seen = word.loadAcquiring()
      if seen & FIFOLayout.linked == 0 {
        if attempt > 0 { word.fetchAnd(~FIFOLayout.busy) }
        return false
      }
      let wanted = (seen & ~(FIFOLayout.busy | FIFOLayout.linkMask)) | port
      if word.compareExchange(expected: seen, desired: wanted).exchanged { return true }
      word.fetchOr(FIFOLayout.busy)
    }
    word.fetchAnd(~FIFOLayout.busy)
    return true
  }

  // MARK: Masks

  /// Clears a port's mask and queues it if it is pending.
  func unmaskFIFO(_ port: UInt32) {
    guard let fifo = unsafe fifo, let word = unsafe fifo.pointee.word(port) else { return }
    if Self.clearMaskUnlessPending(word) { return }
    if word.fetchAnd(~FIFOLayout.masked) & FIFOLayout.pending != 0 { postFIFO(port) }
  }

  /// The guest's part of unmasking: enough when nothing is pending and the hypervisor is not changing the word.
  private static func clearMaskUnlessPending(_ word: SharedWord<UInt32>) -> Bool {
    var seen = word.loadAcquiring()
    // A word that stays busy was made so by the guest itself; the hypervisor's part of unmasking does not mind.
    for _ in 0..<1000 {
      if seen & FIFOLayout.masked == 0 { return true }
      if seen & FIFOLayout.pending != 0 { return false }
      let expected = seen & ~FIFOLayout.busy
      let result = word.compareExchange(expected: expected, desired: expected & ~FIFOLayout.masked)
      if result.exchanged { return true }
      seen = result.original
    }
    return false
  }

  func maskFIFO(_ port: UInt32) { fifoWord(port)?.fetchOr(FIFOLayout.masked) }

  /// Forgets that a port is pending; if it is queued, its owner will find nothing and go on.
  func clearPendingFIFO(_ port: UInt32) {
    guard let fifo = unsafe fifo else { return }
    _ = unsafe fifo.pointee.takeWordless(port)
    fifoWord(port)?.fetchAnd(~FIFOLayout.pending)
  }

  /// Whether a port is still in a queue: its number is not free then.
  func isQueued(_ port: UInt32) -> Bool {
    guard let word = fifoWord(port) else { return false }
    return word.loadAcquiring() & FIFOLayout.linked != 0
  }

  func fifoWord(_ port: UInt32) -> SharedWord<UInt32>? {
    guard let fifo = unsafe fifo else { return nil }
    return unsafe fifo.pointee.word(port)
  }
}
