// SPDX-License-Identifier: MIT

public import BlockIO
public import GuestMemory
public import Synchronization

extension FuseReactor where Transport: ~Copyable {
  /// Answers every request that the device has finished, and gives it those that it had no room for.
  @inlinable
  mutating func finishCompletions() {
    while let completion = queue.nextCompletion() {
      if completion.tag == Self.ownTag {
        ownResult = completion.errorCode
      } else {
        finish(Int(completion.tag), completion.errorCode)
      }
    }
    while let slot = deferred.first, offer(slot) { deferred.removeFirst() }
  }

  @inlinable
  mutating func finish(_ slot: Int, _ error: CInt) {
    switch table[slot].stage {
    case .reading:
      guard error == 0 else { return fail(slot, error) }
      let byteCount = table[slot].byteCount
      counters.add(UInt64(byteCount), to: .bytesRead)
      transport.answerPayload(slot, from: table[slot].skip, byteCount: byteCount)
    case .writing:
      leaveGate()
      guard error == 0 else { return fail(slot, error) }
      answerWrite(slot, table[slot].byteCount)
    case .flushing:
      guard error == 0 else { return fail(slot, error) }
      transport.answer(slot, error: 0, byteCount: 0)
    case .discarding, .zeroing, .zeroFilling:
      finishRange(slot, error)
    case .idle:
      preconditionFailure("the device completed a request that was not under way")
    }
  }

  /// Counts a write as done.
  @inlinable
  mutating func leaveGate() {
    gate.leave()
    noteWrite()
  }

  /// Shows the other reactors that the disk has changed.
  @inlinable
  func noteWrite() {
    let count = writeCounts.word64(at: gate.seat &* 8)
    count.storeReleasing(count.loadRelaxed() &+ 1)
  }
}
