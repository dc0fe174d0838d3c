// SPDX-License-Identifier: MIT

import BlockBack
import BlockIO
import GuestMemory
import PVPeers
import PVTestSupport
import SharedRing
import Testing
import XenHypervisor
import XenWire

/// Runs a check that answers whether a rule was broken: never without the bug, always with it.
func provesItself(_ fault: RingFault, _ breaksRule: (RingFaults) throws -> Bool) throws {
  #expect(try !breaksRule(RingFaults()), "the rule holds")
  guard RingFaults.canBePlanted else { return }
  #expect(try breaksRule(RingFaults(fault)), "the planted bug is noticed")
}

@Suite("Xen's advisories on block backends")
struct RingAdvisoryTests {
  typealias Frontend = ScriptedFrontend<ABI64>

  func frontend(_ faults: RingFaults, _ change: (inout Frontend.Setup) -> Void = { _ in }) throws -> Frontend {
    var setup = Frontend.Setup()
    setup.faults = faults
    change(&setup)
    return try Frontend(setup)
  }

  @Test("XSA-155, 166, 197: a slot that changes after it was judged changes nothing")
  func slotReadOnce() throws {
    try provesItself(.slotReadAgain) { faults in
      let frontend = try frontend(faults)
      let page = try frontend.grantPage()
      let slot = frontend.ring.slot(0)
      // Byte 29 is the last sector of the first segment; when pages are mapped the request has been judged.
      frontend.machine.control.interfere { moment in if moment == .mapping { slot.store(UInt8(7), at: 29) } }
      frontend.direct(.write, sector: 64, [page.segment(0, 0)])
      let statuses = frontend.run().map(\.status)
      return frontend.disk.disk.requestCounts.violations > 0 || statuses != [.okay]
    }
  }

  @Test("XSA-216: a response shows nothing of the backend's memory: its padding is zero")
  func padding() throws {
    try provesItself(.paddingUncleared) { faults in
      let frontend = try frontend(faults)
      let page = try frontend.grantPage()
      for index: UInt32 in 0..<32 {
        frontend.direct(index % 3 == 0 ? .read : index % 3 == 1 ? .write : .flushDiskCache, [page.segment()])
        frontend.ring.write(frontend.ring.bytes(index).enumerated().map { $0 == 9 ? 0xEE : $1 }, to: index)
      }
      #expect(frontend.run().count == 32)
      return (0..<32 as Range<UInt32>).contains { index in
        let bytes = frontend.ring.bytes(index)
        return bytes[9] != 0 || bytes[12..<16] != [0, 0, 0, 0]
      }
    }
  }

  @Test("XSA-229: only what is adjacent is joined: a page between two others is neither read nor written")
  func merging() throws {
    try provesItself(.strangersMerged) { faults in
      let frontend = try frontend(faults) { $0.mapping = .alias }
      let pages = try frontend.grantPages(3)
      for (index, page) in pages.enumerated() { page.fill(UInt8(0x10 + index)) }
      frontend.direct(.write, sector: 0, [pages[0].segment(), pages[2].segment()])
      #expect(frontend.run().map(\.status) == [.okay])
      return frontend.disk.disk.contents.load(UInt8.self, at: 4096) != 0x12
    }
  }

  @Test("XSA-365: the first page that cannot be mapped condemns the request, whatever comes after it")
  func firstErrorWins() throws {
    try provesItself(.lastMappingDecides) { faults in
      let frontend = try frontend(faults) { $0.mapping = .alias }
      let pages = try frontend.grantPages(2)
      for page in pages { page.fill(0x77) }
      let bad = Segment(reference: GrantReference(rawValue: 400), firstSector: 0, lastSector: 7)
      frontend.direct(.read, sector: 0, [pages[0].segment(), pages[1].segment()])
      #expect(frontend.run().map(\.status) == [.okay])
      for page in pages { page.fill(0x77) }
      frontend.direct(.write, sector: 8, [bad, pages[1].segment()])
      let statuses = frontend.run().map(\.status)
      return statuses != [.error] || frontend.disk.log.count != 1
    }
  }

  @Test("XSA-371: a request that failed lets go of the pages that stay mapped, once")
  func keptPages() throws {
    try provesItself(.failureKeepsPages) { faults in
      let frontend = try frontend(faults) { $0.abilities.isPersistent = true }
      let page = try frontend.grantPage()
      let bad = Segment(reference: GrantReference(rawValue: 400), firstSector: 0, lastSector: 7)
      frontend.direct(.read, [page.segment(), bad])
      #expect(frontend.run().map(\.status) == [.error])
      frontend.machine.control.advanceClock(milliseconds: 61_000)
      frontend.back?.housekeep()
      return frontend.mappedPages != 0
    }
  }

  @Test("XSA-361, 362, 367: any subset of a request's pages may fail to map, and the process goes on")
  func everySubset() async throws {
    for isPersistent in [false, true] {
      let frontend = try frontend(RingFaults()) { $0.abilities.isPersistent = isPersistent }
      let pages = try frontend.grantPages(6)
      for subset in 0..<64 {
        var segments = pages.map { $0.segment() }
        for index in 0..<6 where subset & (1 << index) != 0 {
          segments[index].reference = GrantReference(rawValue: 400 + UInt32(index))
        }
        frontend.direct(subset % 2 == 0 ? .read : .write, segments)
        #expect(frontend.run().map(\.status) == [subset == 0 ? .okay : .error])
        if !isPersistent { #expect(frontend.mappedPages == 0) }
      }
      #expect(frontend.tearDown())
    }
    guard RingFaults.canBePlanted else { return }
    await #expect(processExitsWith: .failure) {
      var setup = Frontend.Setup()
      setup.faults = RingFaults(.failedMappingStops)
      let frontend = try Frontend(setup)
      frontend.direct(.read, [Segment(reference: GrantReference(rawValue: 400), firstSector: 0, lastSector: 7)])
      _ = frontend.run()
    }
  }

  @Test("XSA-350: whenever a connection ends, its pages, mappings and port go with it", arguments: 0..<8)
  func ending(moment: Int) throws {
    try provesItself(.portKept) { faults in
      let frontend = try frontend(faults) { $0.abilities.isPersistent = moment & 1 != 0 }
      let pages = try frontend.grantPages(4)
      frontend.disk.isOpen = moment & 2 != 0
      if moment & 4 != 0 {
        for page in pages { frontend.direct(.write, [page.segment()]) }
        frontend.ring.requestProducer = frontend.produced
        frontend.back?.advance()
      }
      let isClean = frontend.tearDown()
      let ports = frontend.machine.ledger.openPorts - frontend.ledgerBefore.openPorts
      return !isClean || ports != 1
    }
  }

  @Test("XSA-38, 86: an index that is out of reach of the other serves nothing", arguments: [33, 1000, 1 << 31, .max])
  func distance(jump: UInt32) throws {
    try provesItself(.producerUnchecked) { faults in
      let frontend = try frontend(faults)
      frontend.ring.requestProducer = jump
      frontend.back?.advance()
      return frontend.back?.isBroken != true || !frontend.takeResponses().isEmpty
    }
  }

  @Test("XSA-423, 424, 432, 448: a transfer of nothing is an error, and asks the disk for nothing")
  func emptyTransfer() throws {
    try provesItself(.emptyTransferStarts) { faults in
      let frontend = try frontend(faults)
      for operation in [BlockOperation.read, .write] { frontend.direct(operation, sector: 8, []) }
      let statuses = frontend.run().map(\.status)
      return statuses != [.error, .error] || !frontend.disk.log.isEmpty
    }
  }

  @Test("XSA-300: a frontend cannot make the backend keep more of its pages than the limit says")
  func mappedPages() throws {
    func mapped(limit: Int) throws -> Int {
      let frontend = try frontend(RingFaults()) {
        $0.abilities.isPersistent = true
        $0.knobs.maxPersistentGrants = limit
      }
      let pages = try frontend.grantPages(512)
      let table = try frontend.grantPage()
      for start in stride(from: 0, to: 512, by: 128) {
        frontend.describe(pages[start..<start + 128].map { $0.segment() }, in: [table])
        frontend.indirect(.read, sector: 0, count: 128, [table.reference])
        #expect(frontend.run().map(\.status) == [.okay])
      }
      return frontend.mappedPages
    }
    #expect(try mapped(limit: 100) <= 100)
    #expect(try mapped(limit: 100_000) > 100, "without the limit it could")
  }
}
