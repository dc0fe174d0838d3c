// SPDX-License-Identifier: MIT

import BlockBack
import BlockFront
public import BlockIO
import Glibc
import GuestMemory
import Synchronization
import XenHypervisor
import XenWire

/// The door of a queue that has a ring, for the I/O of queues that have none: a backend may come back with fewer queues
/// than the disk has users.
///
/// A visit costs a lock and a wake-up at each end, and its data is bounced: it is slower than a ring of one's own and
/// carries the same.
@usableFromInline
final class Detour: Sendable {
  /// One I/O of another queue.
  struct Visit: Sendable {
    let request: IORequest
    let answer: @Sendable (CInt) -> Void
  }

  private struct State {
    var waiting: [Visit] = []
    var guests = 0
    var isShut = false
  }

  private let state = Mutex(State())
  private let wake: @Sendable () -> Void

  init(wake: @escaping @Sendable () -> Void) { self.wake = wake }

  /// A queue will send its I/O this way.
  func join() { state.withLock { $0.guests += 1 } }
  /// A queue sends nothing more.
  func leave() {
    state.withLock { $0.guests -= 1 }
    wake()
  }
  /// Whether somebody may still come.
  var hasGuests: Bool { state.withLock { $0.guests > 0 || !$0.waiting.isEmpty } }

  /// Leaves an I/O.
  func enter(_ visit: Visit) {
    let isShut = state.withLock { state in
      if !state.isShut { state.waiting.append(visit) }
      return state.isShut
    }
    if isShut { visit.answer(EIO) } else { wake() }
  }

  /// Takes up to `count` I/Os.
  func take(_ count: Int) -> [Visit] {
    state.withLock { state in
      let taken = Array(state.waiting.prefix(count))
      state.waiting.removeFirst(taken.count)
      return taken
    }
  }

  /// Answers everything that waits, and whatever comes later, with `EIO`: the disk is gone.
  func failAll() {
    let waiting = state.withLock { state in
      defer { state.waiting = [] }
      state.isShut = true
      return state.waiting
    }
    for visit in waiting { visit.answer(EIO) }
  }
}

/// The I/Os of others that a queue has in its own ring; only its thread touches it.
@usableFromInline
final class Visitors {
  /// Where they come from.
  let door: Detour
  private var inHand: [Detour.Visit?] = []

  /// Tags of visits are from here on; no user of a queue may use them.
  @usableFromInline static var firstTag: UInt64 { 0xF0_0D << 48 }

  init(door: Detour, previous: Visitors?) {
    self.door = door
    inHand = previous?.inHand ?? []
    for visit in previous?.door.take(.max) ?? [] { door.enter(visit) }
  }

  /// Lets a visit wait outside again.
  func putBack(_ tag: UInt64) {
    let place = Int(tag - Self.firstTag)
    if let visit = inHand[place] { door.enter(visit) }
    inHand[place] = nil
  }

  /// Room for more.
  func room(of most: Int) -> Int { most - inHand.count { $0 != nil } }
  /// Whether nothing is in hand.
  var isEmpty: Bool { inHand.allSatisfy { $0 == nil } }

  /// Keeps a visit; answers the tag to submit it by.
  func keep(_ visit: Detour.Visit) -> UInt64 {
    let place = inHand.firstIndex { $0 == nil } ?? inHand.count
    if place == inHand.count { inHand.append(visit) } else { inHand[place] = visit }
    return Self.firstTag + UInt64(place)
  }

  /// Whether a completion is a visit's; if so its owner is told.
  func settle(_ completion: IOCompletion) -> Bool {
    guard completion.tag >= Self.firstTag, completion.tag - Self.firstTag < UInt64(inHand.count) else { return false }
    let place = Int(completion.tag - Self.firstTag)
    guard let visit = inHand[place] else { return false }
    inHand[place] = nil
    visit.answer(completion.errorCode)
    return true
  }
}

extension StackQueue where Image: ~Copyable {
  /// Sends I/O away if this queue has no ring, and takes in that of others if it carries for them.
  @usableFromInline
  mutating func exchangeVisits() {
    if let detour {
      let mailbox = mailbox
      while let (number, request) = front.takeElsewhere() {
        detour.enter(
          Detour.Visit(request: request) { code in
            mailbox.post { $0.front.endElsewhere(number, errorCode: code) }
          })
      }
    }
    if let visitors { Self.admit(visitors, &front) }
  }

  private static func admit(_ visitors: Visitors, _ front: inout FrontQueue<EmulatedPlatform, ABI>) {
    let room = visitors.room(of: FrontQueue<EmulatedPlatform, ABI>.visitorRoom)
    guard room > 0 else { return }
    for visit in visitors.door.take(room) {
      var request = visit.request
      request.tag = visitors.keep(visit)
      if case .full = front.submit(request) { visitors.putBack(request.tag) }
    }
  }

  /// The next completion that is this queue's user's.
  @usableFromInline
  mutating func nextOwnCompletion() -> IOCompletion? {
    while let completion = front.nextCompletion() {
      guard let visitors, visitors.settle(completion) else { return completion }
    }
    return nil
  }

  /// Goes on serving others after the queue's own user has gone, until they have gone too.
  static func finishVisits(
    _ visitors: Visitors, _ front: consuming FrontQueue<EmulatedPlatform, ABI>,
    _ back: consuming BackQueue<EmulatedPlatform, ABI, Image>?, _ backCPU: VirtualCPU,
    _ stopBack: (@Sendable () -> Void)?
  ) {
    var front = front
    var back = back
    while visitors.door.hasGuests || !visitors.isEmpty {
      admit(visitors, &front)
      front.issue()
      if backCPU.hasPendingUpcall, back != nil { backCPU.takePendingPorts { _ in } }
      back?.advance()
      front.collect()
      while let completion = front.nextCompletion() { _ = visitors.settle(completion) }
      if visitors.isEmpty { usleep(1000) }
    }
    stopBack?()
    _ = consume back
    _ = consume front
  }
}
