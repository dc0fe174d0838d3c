// SPDX-License-Identifier: MIT

import BlockBack
import BlockFront
import BlockIO
import GuestMemory
import XenHypervisor
import XenWire

extension World {
  /// What must hold after every step.
  func checkStep() throws {
    if let complaint = disk.complaints.first {
      throw Violation(sentence: "the disk was asked for nonsense: \(complaint)")
    }
    if front?.isBroken == true { throw Violation(sentence: "the frontend does not trust an honest backend") }
    if back?.isBroken == true { throw Violation(sentence: "the backend does not trust an honest frontend") }
    if let inside = front?.inFlight, inside != inFlight {
      throw Violation(sentence: "the frontend has \(inside) I/Os in hand, its user \(inFlight)")
    }
    guard let ring else { return }
    let asked = ring.load(UInt32.self, at: geometry.requestProducerOffset)
    let answered = ring.load(UInt32.self, at: geometry.responseProducerOffset)
    if asked &- answered > geometry.depth { throw Violation(sentence: "\(asked) asked, \(answered) answered") }
    if let taken = back?.inFlight, taken > Int(asked &- answered) {
      throw Violation(sentence: "the backend works on \(taken) requests, \(asked &- answered) are unanswered")
    }
  }

  /// Every mapping is the ring's, the cache's or a request's: what was mapped and not unmapped.
  func checkMappings() throws {
    guard back != nil, ring != nil else { return }
    let ledger = hypervisor.ledger
    let pages = geometry.pageCount
    let balance =
      backCounters[QueueCounter.grants_mapped.rawValue] &- backCounters[QueueCounter.grants_unmapped.rawValue]
      &- mappedBefore
    if ledger.mappings != pages + Int(balance) {
      throw Violation(
        sentence: "\(ledger.mappings) mappings, but \(balance) were made and not undone, and \(pages) ring pages")
    }
    if ledger.pinnedGrants > ledger.mappings { throw Violation(sentence: "more pins than mappings: \(ledger)") }
    let kept = backCounters[QueueCounter.grants_persistent.rawValue]
    if kept > UInt64(plan.backendKnobs.maxPersistentGrants) {
      throw Violation(sentence: "\(kept) pages kept, the limit is \(plan.backendKnobs.maxPersistentGrants)")
    }
  }

  /// With nothing going wrong, everything in flight ends: no wake-up was lost.
  func drain() throws {
    for _ in 0..<20_000 where inFlight > 0 {
      deliverAll()
      try runFront()
      runBack()
      if disk.finished.isEmpty { disk.finishOne() }
      try checkStep()
    }
    if inFlight > 0 { throw Violation(sentence: "\(inFlight) I/Os never end: a wake-up was lost") }
  }

  /// With nothing in flight every page that is kept grows old, and goes: none is held for a request that has long ended.
  func checkExpiry() throws {
    guard back != nil else { return }
    control.now += 200_000_000_000
    back?.housekeep()
    let kept = backCounters[QueueCounter.grants_persistent.rawValue]
    if kept > 0 { throw Violation(sentence: "\(kept) kept pages are in use, and nothing is in flight") }
    try checkMappings()
  }

  /// After a power cut each sector holds one of its versions.
  func verifySurvivors() throws {
    for sector in 0..<oracle.sectorCount {
      if let expected = oracle.survived(disk.current[sector], in: sector) {
        throw Violation(
          sentence: "after the power cut sector \(sector) holds \(disk.current[sector]), not one of \(expected)")
      }
    }
    oracle.settleAll()
  }

  /// At the end each sector holds what was written last.
  func verifyAll() throws {
    for sector in 0..<oracle.sectorCount {
      if let expected = oracle.read(disk.current[sector], from: sector) {
        throw Violation(sentence: "sector \(sector) holds \(disk.current[sector]), not one of \(expected)")
      }
    }
  }
}
