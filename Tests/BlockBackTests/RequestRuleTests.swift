// SPDX-License-Identifier: MIT

import BlockBack
import BlockIO
import GuestMemory
import PVPeers
import PVTestSupport
import Testing
import XenWire

/// A request that a backend must refuse, and the answer that Linux's blkback gives.
struct BadRequest: CustomTestStringConvertible, Sendable {
  /// What a case has to work with: granted pages, filled with 0x11.
  struct Material<ABI: RingFormat> {
    let frontend: ScriptedFrontend<ABI>
    let pages: [GrantedPage]
    var whole: [Segment] { [pages[0].segment()] }
  }

  let testDescription: String
  let operation: BlockOperation
  let status: BlockStatus
  let put: @Sendable (Putting) -> Void

  /// The same case for each ABI, without generics in a closure.
  struct Putting {
    let direct: (BlockOperation, UInt64, [Segment], Int?) -> Void
    let indirect: (BlockOperation, UInt64, Int, [GrantReference]) -> Void
    let discard: (UInt64, UInt64) -> Void
    let describe: ([Segment]) -> Void
    let pages: [GrantedPage]
    var whole: [Segment] { [pages[0].segment()] }
    var table: GrantReference { pages[pages.count - 1].reference }
  }

  init(
    _ rule: String, answers operation: BlockOperation, _ status: BlockStatus = .error,
    _ put: @escaping @Sendable (Putting) -> Void
  ) {
    testDescription = rule
    self.operation = operation
    self.status = status
    self.put = put
  }

  static let end: UInt64 = 2048

  /// Rules about a request's shape.
  static let shapes: [BadRequest] = [
    BadRequest("a read without segments", answers: .read) { $0.direct(.read, 0, [], 0) },
    BadRequest("a write without segments", answers: .write) { $0.direct(.write, 0, [], 0) },
    BadRequest("a read of 12 segments", answers: .read) { $0.direct(.read, 0, $0.whole, 12) },
    BadRequest("a write of 255 segments", answers: .write) { $0.direct(.write, 0, $0.whole, 255) },
    BadRequest("a flush of 12 segments", answers: .flushDiskCache) { $0.direct(.flushDiskCache, 0, $0.whole, 12) },
    BadRequest("a barrier of 12 segments", answers: .writeBarrier) { $0.direct(.writeBarrier, 0, $0.whole, 12) },
    BadRequest("an indirect read without segments", answers: .read) { $0.indirect(.read, 0, 0, [$0.table]) },
    BadRequest("an indirect write of 257 segments", answers: .write) { $0.indirect(.write, 0, 257, [$0.table]) },
    BadRequest("an indirect write of 4097 segments", answers: .write) { $0.indirect(.write, 0, 4097, [$0.table]) },
    BadRequest("an indirect read of 65535 segments", answers: .read) { $0.indirect(.read, 0, 65535, [$0.table]) },
    BadRequest("first sector after last", answers: .write) { $0.direct(.write, 0, [$0.pages[0].segment(5, 4)], nil) },
    BadRequest("last sector 8", answers: .read) { $0.direct(.read, 0, [$0.pages[0].segment(0, 8)], nil) },
    BadRequest("last sector 255", answers: .read) { $0.direct(.read, 0, [$0.pages[0].segment(0, 255)], nil) },
    BadRequest("first and last sector 8", answers: .write) { $0.direct(.write, 0, [$0.pages[0].segment(8, 8)], nil) },
    BadRequest("a bad eleventh segment behind ten good ones", answers: .write) { put in
      put.direct(.write, 0, put.pages.prefix(10).map { $0.segment() } + [put.pages[10].segment(3, 2)], nil)
    },
    BadRequest("first sector after last in a descriptor page", answers: .write) { put in
      put.describe(put.pages.prefix(12).map { $0.segment() } + [put.pages[12].segment(1, 0)])
      put.indirect(.write, 0, 13, [put.table])
    },
    BadRequest("last sector 9 in a descriptor page", answers: .read) { put in
      put.describe([put.pages[0].segment(0, 9)])
      put.indirect(.read, 0, 1, [put.table])
    },
  ]

  /// Rules about where a request lies.
  static let places: [BadRequest] = [
    BadRequest("a read that begins at the end", answers: .read) { $0.direct(.read, end, $0.whole, nil) },
    BadRequest("a write that ends one sector late", answers: .write) { $0.direct(.write, end - 7, $0.whole, nil) },
    BadRequest("a read far behind the end", answers: .read) { $0.direct(.read, 1 << 40, $0.whole, nil) },
    BadRequest("a start whose end wraps to 0", answers: .write) { $0.direct(.write, .max - 7, $0.whole, nil) },
    BadRequest("a start whose end wraps into the disk", answers: .write) { $0.direct(.write, .max, $0.whole, nil) },
    BadRequest("a start with the sign bit", answers: .read) { $0.direct(.read, 1 << 63, $0.whole, nil) },
    BadRequest("an indirect write over the end", answers: .write) { put in
      put.describe(put.pages.prefix(12).map { $0.segment() })
      put.indirect(.write, end - 95, 12, [put.table])
    },
    BadRequest("a flush whose data lies behind the end", answers: .flushDiskCache) {
      $0.direct(.flushDiskCache, end, $0.whole, nil)
    },
    BadRequest("a barrier whose data lies behind the end", answers: .writeBarrier) {
      $0.direct(.writeBarrier, end, $0.whole, nil)
    },
    BadRequest("a discard over the end", answers: .discard) { $0.discard(end - 7, 8) },
    BadRequest("a discard that wraps", answers: .discard) { $0.discard(8, .max - 7) },
    BadRequest("a discard that wraps to 0", answers: .discard) { $0.discard(.max, 1) },
    BadRequest("a discard of nothing", answers: .discard) { $0.discard(8, 0) },
  ]

  /// Rules about operations.
  static let operations: [BadRequest] =
    ([4, 7, 8, 127, 128, 255] as [UInt8]).map { code in
      let operation = BlockOperation(rawValue: code)
      return BadRequest("operation \(code)", answers: operation, .unsupported) {
        $0.direct(operation, 0, $0.whole, nil)
      }
    }
    + ([2, 3, 5, 6, 7, 255] as [UInt8]).map { code in
      let inner = BlockOperation(rawValue: code)
      return BadRequest("inner operation \(code)", answers: inner) { put in
        put.describe(put.whole)
        put.indirect(inner, 0, 1, [put.table])
      }
    }
}

@Suite("What a backend refuses, and how")
struct RequestRuleTests {
  /// Sends one bad request, judges the answer, and shows that nothing was touched and that the next request works.
  func check<ABI: RingFormat>(
    _ bad: BadRequest, _ abi: ABI.Type, _ setup: ScriptedFrontend<ABI>.Setup = .init()
  ) throws {
    let frontend = try ScriptedFrontend<ABI>(setup)
    let pages = try frontend.grantPages(16)
    for page in pages { page.fill(0x11) }
    let mapped = frontend.mappedPages
    bad.put(
      BadRequest.Putting(
        direct: { frontend.direct($0, id: 0xFEED_0000_0000_0001, sector: $1, $2, count: $3) },
        indirect: { frontend.indirect($0, id: 0xFEED_0000_0000_0001, sector: $1, count: $2, $3) },
        discard: { frontend.discard(id: 0xFEED_0000_0000_0001, sector: $0, count: $1) },
        describe: { frontend.describe($0, in: [pages[15]]) }, pages: pages))
    let expected = BlockResponse(id: 0xFEED_0000_0000_0001, operation: bad.operation, status: bad.status)
    #expect(frontend.run() == [expected])
    #expect(frontend.disk.log.isEmpty, "the disk was asked: \(frontend.disk.log)")
    #expect(pages.dropLast().allSatisfy { $0.holds(0x11) }, "a page was written")
    if !setup.abilities.isPersistent { #expect(frontend.mappedPages == mapped, "a page stayed mapped") }
    #expect(frontend[bad.status == .error ? .err_req : .unsupported_req] == 1)
    frontend.direct(.read, id: 8, sector: 0, [pages[1].segment()])
    #expect(frontend.run() == [BlockResponse(id: 8, operation: .read, status: .okay)])
    #expect(pages[1].holds(0))
    #expect(frontend.tearDown())
  }

  @Test("segments are from 1 to the most that was offered, and lie in their pages", arguments: BadRequest.shapes)
  func shapes(bad: BadRequest) throws {
    try check(bad, ABI64.self)
    try check(bad, ABI32.self)
    var setup = ScriptedFrontend<ABIArm>.Setup()
    setup.abilities.isPersistent = true
    try check(bad, ABIArm.self, setup)
  }

  @Test("a request lies on the disk, and its end does not wrap", arguments: BadRequest.places)
  func places(bad: BadRequest) throws {
    try check(bad, ABI64.self)
    try check(bad, ABI32.self)
  }

  @Test("unknown operations are unsupported, odd inner operations are errors", arguments: BadRequest.operations)
  func operations(bad: BadRequest) throws {
    try check(bad, ABI64.self)
    try check(bad, ABI32.self)
  }

  @Test("on a read-only disk everything but reading is an error, even an empty flush")
  func readOnly() throws {
    var setup = ScriptedFrontend<ABI64>.Setup()
    setup.abilities.isReadOnly = true
    let bad: [BadRequest] = [
      BadRequest("write", answers: .write) { $0.direct(.write, 0, $0.whole, nil) },
      BadRequest("indirect write", answers: .write) { put in
        put.describe(put.whole)
        put.indirect(.write, 0, 1, [put.table])
      },
      BadRequest("empty flush", answers: .flushDiskCache) { $0.direct(.flushDiskCache, 0, [], nil) },
      BadRequest("flush with data", answers: .flushDiskCache) { $0.direct(.flushDiskCache, 0, $0.whole, nil) },
      BadRequest("empty barrier", answers: .writeBarrier) { $0.direct(.writeBarrier, 0, [], nil) },
      BadRequest("barrier with data", answers: .writeBarrier) { $0.direct(.writeBarrier, 0, $0.whole, nil) },
      BadRequest("discard", answers: .discard) { $0.discard(0, 8) },
    ]
    for request in bad { try check(request, ABI64.self, setup) }
  }

  @Test("a handle is nobody's business: whatever stands there, the request is served, as in blkback")
  func anyHandle() throws {
    let frontend = try ScriptedFrontend<ABI64>()
    let page = try frontend.grantPage()
    for handle in [UInt16(0), 0xCA00, 0xCA10, 0xFFFF] {
      frontend.put { slot in
        slot.encodeDirect(.read, segmentCount: 1, handle: handle, id: UInt64(handle), sector: 8)
        slot.setDirectSegment(page.segment(), at: 0)
      }
      #expect(frontend.run() == [BlockResponse(id: UInt64(handle), operation: .read, status: .okay)])
    }
    #expect(frontend.tearDown())
  }

  @Test("what was not offered is unsupported")
  func notOffered() throws {
    var setup = ScriptedFrontend<ABI64>.Setup()
    setup.abilities.canFlush = false
    setup.abilities.canBarrier = false
    setup.abilities.canDiscard = false
    setup.abilities.maxIndirectSegments = 0
    let bad: [BadRequest] = [
      BadRequest("flush", answers: .flushDiskCache, .unsupported) { $0.direct(.flushDiskCache, 0, [], nil) },
      BadRequest("barrier", answers: .writeBarrier, .unsupported) { $0.direct(.writeBarrier, 0, $0.whole, nil) },
      BadRequest("discard", answers: .discard, .unsupported) { $0.discard(0, 8) },
      BadRequest("indirect", answers: .read) { $0.indirect(.read, 0, 1, [$0.table]) },
    ]
    for request in bad { try check(request, ABI64.self, setup) }
  }

  @Test("on a disk of 4096-byte sectors every segment and the start are whole sectors, counted in 512 bytes")
  func largeSectors() throws {
    var setup = ScriptedFrontend<ABI64>.Setup()
    setup.geometry.logicalSectorSize = 4096
    setup.geometry.physicalSectorSize = 4096
    let bad: [BadRequest] =
      [1, 4, 7].map { start in
        BadRequest("start \(start)", answers: .write) { $0.direct(.write, UInt64(start), $0.whole, nil) }
      } + [
        BadRequest("seven sectors", answers: .read) { $0.direct(.read, 0, [$0.pages[0].segment(0, 6)], nil) },
        BadRequest("two halves that make a whole", answers: .write) { put in
          put.direct(.write, 0, [put.pages[0].segment(0, 3), put.pages[1].segment(4, 7)], nil)
        },
        BadRequest("a half in a descriptor page", answers: .write) { put in
          put.describe([put.pages[0].segment(), put.pages[1].segment(0, 3), put.pages[2].segment(4, 7)])
          put.indirect(.write, 0, 3, [put.table])
        },
        BadRequest("a discard that is not aligned", answers: .discard) { $0.discard(4, 8) },
        BadRequest("a discard of half a sector", answers: .discard) { $0.discard(8, 4) },
      ]
    for request in bad { try check(request, ABI64.self, setup) }
    let frontend = try ScriptedFrontend<ABI64>(setup)
    let page = try frontend.grantPage()
    page.fill(0x77)
    frontend.direct(.write, sector: 8, [page.segment()])
    #expect(frontend.run().first?.status == .okay)
    #expect(frontend.disk.log.map(\.description) == ["write 8+8"])
  }

  @Test("the last sectors of the disk are on it, and the largest request is accepted")
  func limits() throws {
    let frontend = try ScriptedFrontend<ABI64>()
    let pages = try frontend.grantPages(256)
    let table = try frontend.grantPage()
    frontend.direct(.write, sector: 2040, [pages[0].segment()])
    frontend.describe(pages.map { $0.segment() }, in: [table])
    frontend.indirect(.write, sector: 0, count: 256, [table.reference])
    frontend.discard(sector: 2047, count: 1)
    #expect(frontend.run().map(\.status) == [.okay, .okay, .okay])
    #expect(frontend.disk.log.map(\.sectors.count) == [8, 2048, 1])
    #expect(frontend.disk.log[1].extentCount == 1, "adjacent grants reach the disk as one piece")
  }

  @Test("a response echoes id and operation, whatever the request's padding and stale bytes say")
  func echo() throws {
    let frontend = try ScriptedFrontend<ABI64>()
    let page = try frontend.grantPage()
    for id: UInt64 in [0, 1, 31, 0x0FFF_FFFF, .max] {
      frontend.ring.write(Array(repeating: 0xEE, count: 112), to: frontend.produced)
      let index = frontend.produced
      frontend.direct(.read, id: id, [page.segment()])
      frontend.ring.slot(index).store(UInt32(0xEEEE_EEEE), at: 4)
      frontend.ring.slot(index).store(UInt16(0xEEEE), at: 30)
      #expect(frontend.run() == [BlockResponse(id: id, operation: .read, status: .okay)])
      let bytes = frontend.ring.bytes(index)
      #expect(bytes[9] == 0 && bytes[12..<16] == [0, 0, 0, 0], "padding of a response is zero (XSA-216)")
    }
  }
}
