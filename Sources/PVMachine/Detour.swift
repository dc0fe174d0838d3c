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
/// A visit costs a lock and a wake-up at each end, and its data is copied: it is slower than a ring of one's own and
/// carries the same.
@usableFromInline
final class Detour: Sendable {
  private struct State {
    var waiting: [Visit] = []
    var guests = 0
    /// Whether somebody relied on the door when it was shut; nil while it is open.
    var hadGuests: Bool?
    /// What those get who knock at a shut door: nil sends them another way.
    var answer: CInt?
  }

  private let state = Mutex(State())
  private let wake: @Sendable () -> Void

  init(wake: @escaping @Sendable () -> Void) { self.wake = wake }

  /// A queue will send its I/O this way.
  func join() { state.withLock { $0.guests += 1 } }
  /// A queue sends nothing more.
  func leave() { state.withLock { $0.guests -= 1 } }
  /// Whether nobody comes and nobody waits.
  var isQuiet: Bool { state.withLock { ($0.guests == 0 || $0.hadGuests != nil) && $0.waiting.isEmpty } }

  /// Leaves an I/O.
  func enter(_ visit: Visit) {
    let (isShut, answer) = state.withLock { state in
      if state.hadGuests == nil { state.waiting.append(visit) }
      return (state.hadGuests != nil, state.answer)
    }
    if isShut { visit.end(answer) } else { wake() }
  }

  /// Takes up to `count` I/Os.
  func take(_ count: Int) -> [Visit] {
    state.withLock { state in
      let taken = Array(state.waiting.prefix(count))
      state.waiting.removeFirst(taken.count)
      return taken
    }
  }

  /// Sends everything back, and whatever comes later: the queue behind the door carries nothing more.
  /// - Parameter answer: an `errno` for all of them; nil when they still have to be done another way.
  /// - Returns: whether somebody relied on it when it was shut first.
  @discardableResult
  func shut(_ answer: CInt? = nil) -> Bool {
    let (waiting, hadGuests) = state.withLock { state in
      defer { state.waiting = [] }
      let hadGuests = state.hadGuests ?? (state.guests > 0)
      if state.hadGuests == nil { state.answer = answer }
      state.hadGuests = hadGuests
      return (state.waiting, hadGuests)
    }
    for visit in waiting { visit.end(answer) }
    return hadGuests
  }
}

/// The I/Os of others that a queue has in its own ring; only its thread touches it.
@usableFromInline
final class Visitors {
  /// Where they come from.
  let door: Detour
  private var inHand: [Visit?] = []

  /// Tags of visits are from here on; no user of a queue may use them.
  @usableFromInline static var firstTag: UInt64 { 0xF0_0D << 48 }

  /// Opens a door, and keeps what came through an earlier one.
  init(door: Detour, previous: Visitors?) {
    self.door = door
    inHand = previous?.inHand ?? []
  }

  /// Room for more.
  func room(of most: Int) -> Int { most - inHand.count { $0 != nil } }
  /// Whether nothing is in hand.
  var isIdle: Bool { inHand.allSatisfy { $0 == nil } }
  /// Whether nothing is in hand and nobody comes.
  var isQuiet: Bool { door.isQuiet && isIdle }

  /// Keeps a visit; answers the tag to submit it by.
  func keep(_ visit: Visit) -> UInt64 {
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
    visit.end(completion.errorCode)
    return true
  }

  /// Sends back what is in hand and what waits: the queue is no more.
  func returnAll() {
    door.shut()
    for visit in inHand { visit?.end(nil) }
    inHand = []
  }
}

extension StackQueue where Image: ~Copyable {
  /// Sends I/O away if this queue has no ring, and takes in that of others if it carries for them.
  @usableFromInline
  mutating func exchangeVisits() {
    if let detour {
      while let (number, request, tuples) = front.takeElsewhere() { depart(number, request, tuples, through: detour) }
    }
    if let visitors { admit(visitors) }
  }

  private mutating func depart(_ number: Int, _ request: IORequest, _ tuples: MemoryExtent?, through detour: Detour) {
    let mailbox = mailbox
    do throws(SystemError) {
      let visit = try Visit(request, tuples: tuples) { visit, code in
        mailbox.post { $0.endVisit(number, visit, code, through: detour) }
      }
      journeys[number] = visit
      detour.enter(visit)
    } catch { front.endElsewhere(number, errorCode: error.code) }
  }

  /// One of this queue's I/Os came back; one that nobody carried goes another way, or waits for a connection.
  private mutating func endVisit(_ number: Int, _ visit: Visit, _ code: CInt?, through door: Detour) {
    journeys[number] = nil
    if let code {
      if let request = front.request(elsewhere: number) {
        visit.bringHome(request.request, tuples: request.tuples, code)
      }
      return front.endElsewhere(number, errorCode: code)
    }
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
    for visit in visitors.door.take(room) where !visit.isWithdrawn {
      var request = visit.request
      request.tag = visitors.keep(visit)
      if case .full = front.submitVisit(request, tuples: visit.tuples) { visitors.putBack(request.tag) }
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

  /// The most milliseconds that a queue which ends waits for what it has begun for others.
  private static var patience: Int { 200 }

  /// The end of a queue that carries for others: what its backend has begun is finished and answered, so that its owner
  /// does not do it once more; the rest goes back.
  static func farewell(
    _ visitors: Visitors, _ front: inout FrontQueue<EmulatedPlatform>,
    _ back: inout BackQueue<EmulatedPlatform, Image>?
  ) {
    var left = patience
    while !visitors.isIdle {
      back?.advance()
      front.collect()
      while let completion = front.nextCompletion() { _ = visitors.settle(completion) }
      guard let descriptor = back?.waitDescriptor, left > 0, (back?.inFlight ?? 0) > 0 else { break }
      if back?.prepareToWait() == .maySleep {
        var waiting = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
        _ = unsafe poll(&waiting, 1, 1)
      }
      left -= 1
    }
    visitors.returnAll()
  }
}
