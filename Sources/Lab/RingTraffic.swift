// SPDX-License-Identifier: MIT

import Figures
import XenWire

/// What both ends of a ring store and load, byte for byte, as the layout says: one description that is both counted in a
/// model of two caches and run by two threads.
///
/// ```
/// front   store requests, store request producer, load request event
/// back    load request producer, load requests, store responses, store response producer, load response event
/// front   load response producer, load responses
/// ```
/// Each end arms its event when it has nothing left to do, as the ring's rules want it before a sleep.
struct RingTraffic: Sendable {
  /// One run of bytes.
  struct Run: Equatable, Sendable {
    var offset: Int
    var byteCount: Int
  }

  /// The ring.
  let picture: RingPicture
  /// Requests published at a time.
  let batch: Int
  /// Whether slots are touched, or the index words alone.
  let touchesSlots: Bool

  private let requests: RingArea
  private let responses: RingArea
  private let responseStart: Int
  private let words: [String: Int]

  init(_ picture: RingPicture, batch: Int, touchesSlots: Bool = true) {
    self.picture = picture
    self.batch = min(batch, picture.requestSlots)
    self.touchesSlots = touchesSlots
    requests = picture.requests
    let isSplit = picture.plan.isSplit
    responses = picture.responses
    responseStart = isSplit ? picture.requests.byteCount : 0
    var words: [String: Int] = [:]
    for (index, area) in picture.areas.prefix(isSplit ? 2 : 1).enumerated() {
      for word in area.words { words[word.name] = word.offset + (index == 0 ? 0 : picture.requests.byteCount) }
    }
    self.words = words
  }

  /// Bytes that both rings lie in.
  var byteCount: Int { responseStart + responses.byteCount }
  /// Bytes in a cache line.
  var lineSize: Int { picture.lineSize }

  /// Where an index word is.
  func word(_ name: String) -> Int? { words[name] }

  /// The bytes of a request: what the front stores and the back loads.
  func request(_ index: UInt64) -> Run {
    Run(
      offset: requests.offset(ofSlot: Int(index % UInt64(requests.slotCount))),
      byteCount: touchesSlots ? requests.requestSize : 0)
  }

  /// The bytes of a response: what the back stores and the front loads.
  func response(_ index: UInt64) -> Run {
    Run(
      offset: responseStart + responses.offset(ofSlot: Int(index % UInt64(responses.slotCount))),
      byteCount: touchesSlots ? responses.responseSize : 0)
  }
}

/// Two caches and the lines between them: counts how often a line has to cross over (MESI, one line buffer each).
struct LineModel {
  private enum Holder { case nobody, front, back, shared }

  private var holders: [Holder]
  private let lineSize: Int
  /// Loads and stores that had to wait for a line out of the other cache, or for the other cache to drop it.
  private(set) var transfers = 0

  init(byteCount: Int, lineSize: Int) {
    holders = Array(repeating: .nobody, count: (byteCount + lineSize - 1) / lineSize)
    self.lineSize = lineSize
  }

  mutating func store(_ run: RingTraffic.Run, byFront isFront: Bool) {
    for line in lines(run) {
      let own: Holder = isFront ? .front : .back
      if holders[line] != own {
        if holders[line] != .nobody { transfers += 1 }
        holders[line] = own
      }
    }
  }

  mutating func load(_ run: RingTraffic.Run, byFront isFront: Bool) {
    for line in lines(run) {
      let other: Holder = isFront ? .back : .front
      if holders[line] == other {
        transfers += 1
        holders[line] = .shared
      } else if holders[line] == .nobody {
        holders[line] = isFront ? .front : .back
      }
    }
  }

  private func lines(_ run: RingTraffic.Run) -> Range<Int> {
    guard run.byteCount > 0 else { return 0..<0 }
    return run.offset / lineSize..<(run.offset + run.byteCount - 1) / lineSize + 1
  }
}

extension RingTraffic {
  /// Line transfers for each request, counted in the model over many rounds of the ring.
  func countedTransfers(requests count: Int = 4096) -> Double {
    var model = LineModel(byteCount: byteCount, lineSize: lineSize)
    var next: UInt64 = 0
    let rounds = max(count / batch, 1)
    var atStart = 0
    for round in 0..<rounds * 2 {
      // The first half warms up: every line has been somewhere by then.
      if round == rounds { atStart = model.transfers }
      exchange(next, in: &model)
      next += UInt64(batch)
    }
    return Double(model.transfers - atStart) / Double(rounds * batch)
  }

  private func exchange(_ first: UInt64, in model: inout LineModel) {
    let indices = first..<first + UInt64(batch)
    for index in indices { model.store(request(index), byFront: true) }
    touch("request producer", in: &model, stores: true, front: true)
    touch("request event", in: &model, stores: false, front: true)
    touch("request producer", in: &model, stores: false, front: false)
    touch("response consumer", in: &model, stores: false, front: false)
    for index in indices {
      model.load(request(index), byFront: false)
      model.store(response(index), byFront: false)
    }
    touch("response producer", in: &model, stores: true, front: false)
    touch("response event", in: &model, stores: false, front: false)
    touch("request event", in: &model, stores: true, front: false)
    touch("request producer", in: &model, stores: false, front: false)
    touch("response producer", in: &model, stores: false, front: true)
    for index in indices { model.load(response(index), byFront: true) }
    touch("response consumer", in: &model, stores: true, front: true)
    touch("response event", in: &model, stores: true, front: true)
    touch("response producer", in: &model, stores: false, front: true)
  }

  private func touch(_ name: String, in model: inout LineModel, stores: Bool, front: Bool) {
    guard let offset = word(name) else { return }
    let run = Run(offset: offset, byteCount: RingArea.Word.byteCount)
    if stores { model.store(run, byFront: front) } else { model.load(run, byFront: front) }
  }
}
