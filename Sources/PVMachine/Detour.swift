// SPDX-License-Identifier: MIT

import BlockFront
public import BlockIO
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
    /// Takes 0 or an `errno`; nil when nobody carried the I/O, which its owner then still has to do.
    let answer: @Sendable (CInt?) -> Void
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
  func leave() { state.withLock { $0.guests -= 1 } }
  /// Whether nobody comes and nobody waits.
  var isQuiet: Bool { state.withLock { $0.guests == 0 && $0.waiting.isEmpty } }

  /// Leaves an I/O.
  func enter(_ visit: Visit) {
    let isShut = state.withLock { state in
      if !state.isShut { state.waiting.append(visit) }
      return state.isShut
    }
    if isShut { visit.answer(nil) } else { wake() }
  }

  /// Takes up to `count` I/Os.
  func take(_ count: Int) -> [Visit] {
    state.withLock { state in
      let taken = Array(state.waiting.prefix(count))
      state.waiting.removeFirst(taken.count)
      return taken
    }
  }

  /// Sends everything back, and whatever comes later: the queue behind the door is no more.
  /// - Returns: whether somebody relied on it.
  func shut() -> Bool {
    let (waiting, hadGuests) = state.withLock { state in
      defer { state.waiting = [] }
      state.isShut = true
      return (state.waiting, state.guests > 0)
    }
    for visit in waiting { visit.answer(nil) }
    return hadGuests
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

  /// Opens a door, and keeps what came through an earlier one.
  init(door: Detour, previous: Visitors?) {
    self.door = door
    inHand = previous?.inHand ?? []
    for visit in previous?.door.take(.max) ?? [] { door.enter(visit) }
  }

  /// Room for more.
  func room(of most: Int) -> Int { most - inHand.count { $0 != nil } }
  /// Whether nothing is in hand and nobody comes.
  var isQuiet: Bool { door.isQuiet && inHand.allSatisfy { $0 == nil } }

  /// Keeps a visit; answers the tag to submit it by.
  func keep(_ visit: Detour.Visit) -> UInt64 {
    let place = inHand.firstIndex { $0 == nil } ?? inHand.count
    if place == inHand.count { inHand.append(visit) } else { inHand[place] = visit }
    return Self.firstTag + UInt64(place)
  }

  /// Lets a visit wait outside again.
  func putBack(_ tag: UInt64) {
    let place = Int(tag - Self.firstTag)
    if let visit = inHand[place] { door.enter(visit) }
    inHand[place] = nil
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

  /// Sends back what is in hand: the queue is no more.
  func returnAll() {
    for visit in inHand { visit?.answer(nil) }
    inHand = []
  }
}

extension StackQueue where Image: ~Copyable {
  /// Sends I/O away if this queue has no ring, and takes in that of others if it carries for them.
  @usableFromInline
  mutating func exchangeVisits() {
    if let detour {
      let mailbox = mailbox
      while let (number, request) = front.takeElsewhere() {
        let visit = Detour.Visit(request: request) { code in
          mailbox.post { $0.endVisit(number, code, through: detour) }
        }
        detour.enter(visit)
      }
    }
    if let visitors { admit(visitors) }
  }

  /// One of this queue's I/Os came back; one that nobody carried goes another way, or waits for a connection.
  private mutating func endVisit(_ number: Int, _ code: CInt?, through door: Detour) {
    if let code { return front.endElsewhere(number, errorCode: code) }
    front.returnFromElsewhere(number)
    if detour === door { leaveDetour() }
  }

  /// Holds its I/O until there is a connection.
  mutating func leaveDetour() {
    detour?.leave()
    detour = nil
  }

  private mutating func admit(_ visitors: Visitors) {
    let room = visitors.room(of: FrontQueue<EmulatedPlatform>.visitorRoom)
    guard room > 0 else { return }
    for visit in visitors.door.take(room) {
      var request = visit.request
      request.tag = visitors.keep(visit)
      if case .full = front.submitVisit(request) { visitors.putBack(request.tag) }
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
}
