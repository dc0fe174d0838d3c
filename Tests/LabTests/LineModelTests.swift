// SPDX-License-Identifier: MIT

import Figures
import Testing
import XenWire

@testable import Lab

@Suite("The model of two caches")
struct LineModelTests {
  @Test("a line crosses when the other end stores to it or loads what was stored, and at no other time")
  func crossings() {
    var model = LineModel(byteCount: 256, lineSize: 64)
    let word = RingTraffic.Run(offset: 0, byteCount: 4)
    model.store(word, byFront: true)
    #expect(model.transfers == 0)
    model.store(word, byFront: true)
    model.load(word, byFront: true)
    #expect(model.transfers == 0)
    model.load(word, byFront: false)
    #expect(model.transfers == 1)
    model.load(word, byFront: false)
    model.load(word, byFront: true)
    #expect(model.transfers == 1)
    model.store(word, byFront: false)
    #expect(model.transfers == 2)
    model.store(RingTraffic.Run(offset: 60, byteCount: 8), byFront: true)
    #expect(model.transfers == 3)
  }

  static func traffic(_ batch: Int, touchesSlots: Bool = true, _ change: (inout RingPlan) -> Void) -> RingTraffic {
    var plan = RingPlan()
    change(&plan)
    return RingTraffic(RingPicture(plan), batch: batch, touchesSlots: touchesSlots)
  }

  @Test("a request of 112 bytes moves its lines there, and its response one line back, and index lines on top")
  func classic() {
    let words = LineModelTests.traffic(1, touchesSlots: false) { _ in }.countedTransfers()
    let all = LineModelTests.traffic(1) { _ in }.countedTransfers()
    // 2.5 lines go to the front for its stores, on average, and to the back for its loads; the line of the response goes to
    // the back for its store and to the front for its load.
    #expect(all - words == 7)
  }

  @Test("index words alone move as often as they bear news: four lines on one line, eight on four")
  func wordsApart() {
    #expect(LineModelTests.traffic(1, touchesSlots: false) { _ in }.countedTransfers() == 4)
    #expect(LineModelTests.traffic(1, touchesSlots: false) { $0.isSplit = true }.countedTransfers() == 8)
    #expect(LineModelTests.traffic(32, touchesSlots: false) { _ in }.countedTransfers() == 4.0 / 32)
  }

  @Test("full rings of 32-byte slots move fewer lines a request than rings of 112-byte slots")
  func slim() {
    let classic = LineModelTests.traffic(.max) { _ in }.countedTransfers()
    let slim = LineModelTests.traffic(.max) { $0.variant = .slim32 }.countedTransfers()
    let split = LineModelTests.traffic(.max) { ($0.variant, $0.isSplit) = (.slim32, true) }.countedTransfers()
    #expect(slim < classic / 2)
    #expect(split < slim)
  }

  @Test("two threads get through the traffic of every layout")
  func threads() throws {
    for variant in RingVariant.allCases {
      for isSplit in [false, true] {
        let traffic = LineModelTests.traffic(4) { ($0.variant, $0.isSplit) = (variant, isSplit) }
        #expect(try RingTrafficRun(traffic).run(duration: 100_000) > 0)
      }
    }
  }
}
