// SPDX-License-Identifier: MIT

import BlockBack
import PVPeers
import PVTestSupport
import Testing
import XenHypervisor
import XenWire

@Suite("Pages that a ring keeps for foreign pages to stand in")
struct FreePagePoolTests {
  func make(
    most: Int, isPersistent: Bool = false, domainPages: Int = .max, keptMappings: Int = 1056
  ) throws -> (ScriptedFrontend<ABI64>, [GrantedPage]) {
    var setup = ScriptedFrontend<ABI64>.Setup()
    setup.abilities.isPersistent = isPersistent
    setup.knobs.maxBufferPages = most
    setup.knobs.maxPersistentGrants = keptMappings
    setup.bufferPages = domainPages
    let frontend = try ScriptedFrontend<ABI64>(setup)
    return (frontend, try frontend.grantPages(11))
  }

  /// Writes with so many of the pages.
  func use(_ frontend: ScriptedFrontend<ABI64>, _ pages: [GrantedPage]) -> [BlockStatus] {
    frontend.direct(.write, pages.map { $0.segment() })
    return frontend.run().map(\.status)
  }

  func held(_ frontend: ScriptedFrontend<ABI64>) -> Int { frontend.machine.ledger.bufferPages }

  @Test("those of mappings that are no more are kept for the next ones, up to max_buffer_pages")
  func keeping() throws {
    let (frontend, pages) = try make(most: 4)
    #expect(use(frontend, Array(pages.prefix(8))) == [.okay])
    #expect(frontend.mappedPages == 0 && held(frontend) == 4 && frontend[.buffer_pages] == 4)
    #expect(frontend.machine.control.calls.bufferPagesTaken == 8)
    #expect(use(frontend, Array(pages.prefix(3))) == [.okay])
    #expect(frontend.machine.control.calls.bufferPagesTaken == 8, "three of the four were enough")
    #expect(use(frontend, Array(pages.prefix(6))) == [.okay])
    #expect(frontend.machine.control.calls.bufferPagesTaken == 10, "two were missing")
    #expect(held(frontend) == 4)
    #expect(frontend.tearDown())
    #expect(held(frontend) == 0)
  }

  @Test("none of them while memory is short, and for ten milliseconds after")
  func squeeze() throws {
    let (frontend, pages) = try make(most: 8)
    #expect(use(frontend, Array(pages.prefix(6))) == [.okay])
    #expect(held(frontend) == 6)
    frontend.back?.squeeze()
    #expect(held(frontend) == 0 && frontend[.buffer_pages] == 0)
    frontend.machine.control.advanceClock(milliseconds: 9)
    frontend.back?.housekeep()
    #expect(use(frontend, Array(pages.prefix(6))) == [.okay], "memory is short, not gone")
    #expect(held(frontend) == 0)
    frontend.machine.control.advanceClock(milliseconds: 1)
    frontend.back?.housekeep()
    #expect(use(frontend, Array(pages.prefix(6))) == [.okay])
    #expect(held(frontend) == 6)
    #expect(frontend.tearDown())
  }

  @Test("a request for which the domain has too few is an error, maps nothing and takes nothing")
  func exhaustion() throws {
    let (frontend, pages) = try make(most: 100, domainPages: 6)
    #expect(use(frontend, Array(pages.prefix(7))) == [.error])
    #expect(held(frontend) == 0 && frontend.machine.control.calls.maps.isEmpty && frontend.disk.log.isEmpty)
    #expect(use(frontend, Array(pages.prefix(6))) == [.okay])
    #expect(use(frontend, Array(pages.prefix(7))) == [.error], "the six in the pool are all there are")
    #expect(use(frontend, Array(pages.prefix(6))) == [.okay])
    #expect(frontend.tearDown())
    #expect(held(frontend) == 0)
  }

  @Test("a page that could not be mapped, and one that a purge unmapped, come back to the pool")
  func comingBack() throws {
    let (frontend, pages) = try make(most: 100, isPersistent: true, keptMappings: 100)
    let bad = Segment(reference: GrantReference(rawValue: 9999), firstSector: 0, lastSector: 7)
    frontend.direct(.write, [pages[0].segment(), bad, pages[1].segment()])
    #expect(frontend.run().map(\.status) == [.error])
    #expect(frontend.mappedPages == 2 && held(frontend) == 3 && frontend[.buffer_pages] == 1)
    frontend.machine.control.advanceClock(milliseconds: 60_000)
    frontend.back?.housekeep()
    #expect(frontend.mappedPages == 0 && held(frontend) == 3 && frontend[.buffer_pages] == 3)
    #expect(frontend.tearDown())
    #expect(held(frontend) == 0)
  }
}
