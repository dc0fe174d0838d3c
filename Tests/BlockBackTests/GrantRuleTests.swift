// SPDX-License-Identifier: MIT

import BlockBack
import BlockIO
import GuestMemory
import PVPeers
import PVTestSupport
import Testing
import XenHypervisor
import XenWire

/// A reference that cannot be mapped, of each kind.
enum BadReference: String, CaseIterable, Sendable {
  case beyondTheTable, reserved, neverGranted, ended, grantedToAnother, readOnly

  func make<ABI: RingFormat>(_ frontend: ScriptedFrontend<ABI>) throws -> GrantReference {
    switch self {
    case .beyondTheTable: return .invalid
    case .reserved: return GrantReference(rawValue: 0)
    case .neverGranted: return try frontend.machine.guest.allocateReferences(1)[0]
    case .ended:
      let page = try frontend.grantPage()
      #expect(frontend.machine.guest.endAccess(page.reference))
      return page.reference
    case .grantedToAnother: return try frontend.grantPage(to: PeerMachine.strangerID).reference
    case .readOnly: return try frontend.grantPage(isReadOnly: true).reference
    }
  }
}

@Suite("References that a backend cannot map")
struct GrantRuleTests {
  /// Places in a request: both ends, the middle, and around the batches of eleven in which Linux maps.
  static let places = [0, 1, 5, 9, 10, 11, 12, 21, 22, 32, 33, 254, 255]

  func setup(_ isPersistent: Bool) -> ScriptedFrontend<ABI64>.Setup {
    var setup = ScriptedFrontend<ABI64>.Setup()
    setup.abilities.isPersistent = isPersistent
    return setup
  }

  @Test(
    "one bad reference anywhere fails the request: no byte moves and every page is let go (XSA-365, XSA-371)",
    arguments: BadReference.allCases, [false, true])
  func onePlace(kind: BadReference, isPersistent: Bool) throws {
    for count in [1, 2, 11, 12, 34, 256] {
      let frontend = try ScriptedFrontend<ABI64>(setup(isPersistent))
      let pages = try frontend.grantPages(count)
      let table = try frontend.grantPage()
      let bad = try kind.make(frontend)
      for page in pages { page.fill(0x5A) }
      for place in Self.places where place < count {
        var segments = pages.map { $0.segment() }
        segments[place].reference = bad
        frontend.describe(segments, in: [table])
        if count <= 11 {
          frontend.direct(.read, id: UInt64(place), segments)
        } else {
          frontend.indirect(.read, id: UInt64(place), count: count, [table.reference])
        }
        #expect(
          frontend.run() == [BlockResponse(id: UInt64(place), operation: .read, status: .error)],
          "place \(place) of \(count)")
        if !isPersistent { #expect(frontend.mappedPages == 0, "place \(place) of \(count)") }
      }
      #expect(frontend.disk.log.isEmpty)
      #expect(pages.allSatisfy { $0.holds(0x5A) })
      #expect(frontend.tearDown(), "something stayed mapped")
    }
  }

  @Test("every reference bad, and a good request afterwards", arguments: [false, true])
  func allBad(isPersistent: Bool) throws {
    let frontend = try ScriptedFrontend<ABI64>(setup(isPersistent))
    let bad = Segment(reference: .invalid, firstSector: 0, lastSector: 7)
    frontend.direct(.write, Array(repeating: bad, count: 11))
    #expect(frontend.run().map(\.status) == [.error])
    #expect(frontend.mappedPages == 0 && frontend.disk.log.isEmpty)
    let page = try frontend.grantPage()
    frontend.direct(.write, [page.segment()])
    #expect(frontend.run().map(\.status) == [.okay])
  }

  @Test("a bad descriptor page fails the request, whichever of the eight it is", arguments: [false, true])
  func descriptorPages(isPersistent: Bool) throws {
    var setup = setup(isPersistent)
    setup.abilities.maxIndirectSegments = 4096
    setup.geometry.sectorCount = 65536
    let frontend = try ScriptedFrontend<ABI64>(setup)
    let pages = try frontend.grantPages(64)
    let tables = try frontend.grantPages(8)
    frontend.describe((0..<4096).map { pages[$0 % 64].segment() }, in: tables)
    for place in 0..<8 {
      var references = tables.map(\.reference)
      references[place] = .invalid
      frontend.indirect(.write, id: UInt64(place), count: 512 * place + 1, references)
      #expect(frontend.run() == [BlockResponse(id: UInt64(place), operation: .write, status: .error)])
      if !isPersistent { #expect(frontend.mappedPages == 0) }
    }
    #expect(frontend.disk.log.isEmpty)
    for place in 0..<7 {
      var references = tables.map(\.reference)
      references[place + 1] = .invalid
      frontend.indirect(.write, count: 512 * (place + 1), references)
      #expect(frontend.run().first?.status == .okay, "a page that is not needed is not looked at")
    }
    #expect(frontend.tearDown())
  }

  @Test("a frame that the guest does not have cannot be mapped")
  func badFrame() throws {
    let frontend = try ScriptedFrontend<ABI64>()
    let reference = try frontend.machine.guest.allocateReferences(1)[0]
    frontend.machine.guest.grantAccess(
      reference, to: .control, frame: FrameNumber(rawValue: 0xFFFF_FFF0), isReadOnly: false)
    frontend.direct(.read, [Segment(reference: reference, firstSector: 0, lastSector: 7)])
    #expect(frontend.run().map(\.status) == [.error])
    #expect(frontend.mappedPages == 0)
  }

  @Test("without persistent grants a page is mapped as the request needs it, and writing needs no more than reading")
  func writability() throws {
    let frontend = try ScriptedFrontend<ABI64>(setup(false))
    let readable = try frontend.grantPage(isReadOnly: true)
    let table = try frontend.grantPage(isReadOnly: true)
    frontend.direct(.write, [readable.segment()])
    #expect(frontend.run().map(\.status) == [.okay])
    frontend.describe([readable.segment()], in: [table])
    frontend.indirect(.write, count: 1, [table.reference])
    #expect(frontend.run().map(\.status) == [.okay])
    frontend.direct(.read, [readable.segment()])
    #expect(frontend.run().map(\.status) == [.error])
    #expect(frontend.machine.control.calls.maps.map(\.isWritable) == [false, false, false, true])
  }

  @Test("with persistent grants every page is mapped for writing, descriptor pages too")
  func persistentWritability() throws {
    let frontend = try ScriptedFrontend<ABI64>(setup(true))
    let page = try frontend.grantPage()
    let table = try frontend.grantPage()
    let readable = try frontend.grantPage(isReadOnly: true)
    frontend.direct(.write, [page.segment()])
    #expect(frontend.run().map(\.status) == [.okay])
    frontend.describe([page.segment()], in: [table])
    frontend.indirect(.write, count: 1, [table.reference])
    #expect(frontend.run().map(\.status) == [.okay])
    frontend.direct(.write, [readable.segment()])
    #expect(frontend.run().map(\.status) == [.error])
    #expect(frontend.machine.control.calls.maps.map(\.isWritable) == [true, true, true])
  }

  @Test("one page in several segments is served, with the right bytes, and let go", arguments: [false, true])
  func duplicates(isPersistent: Bool) throws {
    let frontend = try ScriptedFrontend<ABI64>(setup(isPersistent))
    let page = try frontend.grantPage()
    for sector in 0..<8 { page.region.fill(UInt8(sector + 1), at: sector * 512, byteCount: 512) }
    frontend.direct(.write, sector: 100, (UInt8(0)..<8).reversed().map { page.segment($0, $0) })
    #expect(frontend.run().map(\.status) == [.okay])
    for sector in 0..<8 {
      let byte = frontend.disk.disk.contents.load(UInt8.self, at: (100 + sector) * 512 + 17)
      #expect(byte == UInt8(8 - sector))
    }
    #expect(frontend.mappedPages == (isPersistent ? 1 : 0), "one of them may stay, the others go")
    frontend.direct(.read, sector: 100, [page.segment(), page.segment(), page.segment()])
    #expect(frontend.run().map(\.status) == [.okay])
    #expect(frontend.mappedPages == (isPersistent ? 1 : 0))
    #expect(frontend.tearDown())
  }

  @Test("a page in use by one request is mapped once more for another")
  func sharedByRequests() throws {
    let frontend = try ScriptedFrontend<ABI64>(setup(true))
    frontend.disk.isOpen = false
    let page = try frontend.grantPage()
    frontend.direct(.write, id: 1, sector: 0, [page.segment()])
    frontend.direct(.write, id: 2, sector: 8, [page.segment()])
    #expect(frontend.run().isEmpty)
    #expect(frontend.mappedPages == 2 && frontend.disk.log.count == 2)
    frontend.disk.release(1)
    #expect(frontend.runBackend().map(\.id) == [2])
    #expect(frontend.mappedPages == 1)
    frontend.disk.release()
    #expect(frontend.runBackend().map(\.id) == [1])
    #expect(frontend.mappedPages == 1 && frontend[.grants_persistent] == 1)
    #expect(frontend.tearDown())
  }
}
