// SPDX-License-Identifier: MIT

import BlockBack
import BlockIO
import GuestMemory
import PVPeers
import PVTestSupport
import Protection
import Testing
import XenWire

@Suite("A backend whose requests carry protection information")
struct ProtectedRequestTests {
  let scanner = ProtectionScanner(form: ProtectionForm())

  func makeFrontend() throws -> (ScriptedFrontend<ABI64>, data: GrantedPage, tuples: GrantedPage) {
    var setup = ScriptedFrontend<ABI64>.Setup()
    var plan = RingPlan()
    plan.protection = .sector
    setup.plan = plan
    let frontend = try ScriptedFrontend<ABI64>(setup)
    let pages = try frontend.grantPages(2)
    var generator = SeededGenerator(seed: 4)
    for offset in stride(from: 0, to: 4096, by: 8) { pages[0].region.store(generator.next(), at: offset) }
    return (frontend, pages[0], pages[1])
  }

  func memory(_ page: GrantedPage) -> ExtentArray {
    ExtentArray([MemoryExtent(address: page.region.address, byteCount: 4096)])
  }

  func vouch(_ data: GrantedPage, _ tuples: GrantedPage, sector: UInt64) {
    var cursor = TupleCursor(tuples.region)
    let extents = memory(data)
    scanner.generate(extents.list, sector: sector, into: &cursor)
    withExtendedLifetime(extents) {}
  }

  @Test("a write with true tuples reaches the disk, and a read brings tuples back")
  func roundTrip() throws {
    let (frontend, data, tuples) = try makeFrontend()
    vouch(data, tuples, sector: 40)
    frontend.direct(.write, sector: 40, [data.segment(), tuples.segment(0, 0)])
    #expect(frontend.run().map(\.status) == [.okay])
    #expect(frontend.disk.log.map(\.description) == ["write 40+8"])
    #expect(frontend.disk.log.first?.extentCount == 1, "the image is not given the tuples")
    tuples.fill(0xEE)
    data.fill(0)
    frontend.direct(.read, sector: 40, [data.segment(), tuples.segment(0, 0)])
    #expect(frontend.run().map(\.status) == [.okay])
    var cursor = TupleCursor(tuples.region)
    let extents = memory(data)
    #expect(scanner.verify(extents.list, sector: 40, against: &cursor) == nil)
    withExtendedLifetime(extents) {}
    #expect(ProtectionTuple(memory: tuples.region.load(UInt64.self, at: 7 * 8)).referenceTag == 47)
    #expect(tuples.region.load(UInt8.self, at: 64) == 0xEE, "no more tuples than sectors")
    #expect(frontend.findings.count == 0)
    #expect(frontend.tearDown())
  }

  @Test("a bit that flips in a granted page is an error that names its sector, and the disk is not touched")
  func flippedBit() throws {
    let (frontend, data, tuples) = try makeFrontend()
    vouch(data, tuples, sector: 40)
    data.region.store(data.region.load(UInt8.self, at: 5 * 512 + 77) ^ 4, at: 5 * 512 + 77)
    frontend.direct(.write, sector: 40, [data.segment(), tuples.segment(0, 0)])
    #expect(frontend.run().map(\.status) == [.error])
    #expect(frontend.findings.violations.map(\.sector) == [45])
    #expect(frontend[.protection_errors] == 1)
    #expect(frontend.disk.log.isEmpty)
  }

  @Test("data that was meant for other sectors is an error that names where it was going")
  func misdirected() throws {
    let (frontend, data, tuples) = try makeFrontend()
    vouch(data, tuples, sector: 40)
    frontend.direct(.write, sector: 48, [data.segment(), tuples.segment(0, 0)])
    #expect(frontend.run().map(\.status) == [.error])
    #expect(
      frontend.findings.violations == [
        ProtectionViolation(sector: 48, verdict: .wrongReference(stored: 40, expected: 48))
      ])
    #expect(frontend.disk.log.isEmpty)
  }

  @Test("requests whose segments cannot be data and tuples are refused")
  func shapes() throws {
    let (frontend, data, tuples) = try makeFrontend()
    vouch(data, tuples, sector: 40)
    frontend.direct(.write, id: 1, sector: 40, [tuples.segment(0, 0)])
    frontend.direct(.write, id: 2, sector: 40, [data.segment(0, 3), data.segment(4, 7)])
    frontend.direct(.read, id: 3, sector: 2046, [data.segment(0, 7), tuples.segment(0, 0)])
    frontend.direct(.write, id: 4, sector: 40, [data.segment()])
    #expect(frontend.run().map(\.status) == [.error, .error, .error, .error])
    #expect(frontend.disk.log.isEmpty)
    #expect(frontend.tearDown())
  }

  @Test("sectors of tuples follow from the sum of all sectors")
  func sums() {
    for data in UInt64(1)...3000 {
      #expect(RingProtection.dataSectors(of: data + RingProtection.tupleSectors(for: data)) == data)
    }
    #expect(RingProtection.dataSectors(of: 0) == nil && RingProtection.dataSectors(of: 1) == nil)
    #expect(RingProtection.dataSectors(of: 66) == nil, "64 sectors and 2 of tuples: one too many")
    for limit in 2...4096 {
      let data = RingProtection.sector.dataSegments(of: limit)
      let pages = (UInt64(data) * 8 + 511) / 512
      #expect(data > 0 && UInt64(data) + pages <= UInt64(limit))
    }
  }
}
