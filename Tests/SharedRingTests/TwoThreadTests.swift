// SPDX-License-Identifier: MIT

import CLinux
import Glibc
import PVTestSupport
import SharedRing
import Synchronization
import Testing
import XenWire

@Suite("A ring between two threads")
struct TwoThreadTests {
  @Test("100 000 requests pass between two threads that sleep, and no wake-up is lost", arguments: ringStarts)
  func noLostWakeUp(start: UInt32) throws {
    let memory = try RingMemory()
    let index = RingIndex(rawValue: start)
    FrontRing.initialise(memory.region, ABI64.self, start: index)
    let total = start == 0xFFFF_FFFE ? 100_000 : 20_000
    let toBack = try Doorbell()
    let toFront = try Doorbell()
    let complaint = Complaint()
    let back = PeerThread { serve(memory, total: total, doorbell: toBack, peer: toFront, complaint: complaint) }
    var front = FrontRing(attachingTo: memory.region, ABI64.self, start: index)
    var asked = 0
    var answered = 0
    while answered < total {
      let batch = min(1 + asked % 7, total - asked, Int(front.freeSlots))
      for _ in 0..<batch {
        front.enqueueMarked(UInt64(asked))
        asked += 1
      }
      if front.publishRequests() == .notify { toBack.ring() }
      var waiting = try front.unconsumedResponses()
      while waiting > 0 {
        let response = front.takeResponse()
        if response.id != UInt64(answered) { Issue.record("answer \(response.id) in place of \(answered)") }
        answered += 1
        waiting -= 1
      }
      if asked == total || front.isFull || asked % 3 == 0, answered < asked, try !front.armAndRecheck() {
        guard toFront.wait() else {
          Issue.record("no wake-up for the frontend: \(asked) asked, \(answered) answered")
          break
        }
      }
    }
    back.join()
    #expect(complaint.text == nil)
    #expect(memory.responseProducer == start &+ UInt32(total))
  }

  /// The backend's end, on a thread of its own: answers every request in order.
  private func serve(
    _ memory: RingMemory, total: Int, doorbell: Doorbell, peer: Doorbell, complaint: Complaint
  ) {
    do {
      var ring = try BackRing(attachingTo: memory.region, ABI64.self)
      var slot = RequestSlot<ABI64>()
      var served = 0
      while served < total {
        var waiting = try ring.unconsumedRequests()
        while waiting > 0 {
          ring.copyRequest(into: &slot)
          if !slot.isMarked(UInt64(served)) { complaint.text = "request \(served) is torn" }
          ring.enqueue(BlockResponse(id: slot.id, operation: .write, status: .okay))
          served += 1
          waiting -= 1
        }
        if ring.publishResponses() == .notify { peer.ring() }
        if served < total, try !ring.armAndRecheck(), !doorbell.wait() {
          complaint.text = "no wake-up for the backend after \(served)"
          return
        }
      }
    } catch { complaint.text = "\(error)" }
  }
}

/// An event channel's stand-in: an eventfd that one side rings and the other waits on.
final class Doorbell: Sendable {
  private let descriptor: CInt

  init() throws {
    descriptor = eventfd(0, CInt(EFD_CLOEXEC))
    try #require(descriptor >= 0)
  }

  deinit { close(descriptor) }

  func ring() {
    var one: UInt64 = 1
    // SAFETY: eight local bytes.
    _ = unsafe write(descriptor, &one, 8)
  }

  /// Sleeps until the bell rings; false when it did not for twenty seconds: the wake-up was lost.
  func wait() -> Bool {
    var waiting = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
    guard unsafe poll(&waiting, 1, 20_000) == 1 else { return false }
    var count: UInt64 = 0
    // SAFETY: eight local bytes.
    return unsafe read(descriptor, &count, 8) == 8
  }
}

/// What a thread found wrong.
final class Complaint: Sendable {
  private let sentence = Mutex<String?>(nil)
  var text: String? {
    get { sentence.withLock { $0 } }
    set { sentence.withLock { $0 = newValue } }
  }
}
