// SPDX-License-Identifier: MIT

import Testing
import XenRecords
import XenWire

@Suite("Layouts and constants of the classic protocol")
struct LayoutTests {
  let golden: GoldenVectors

  init() throws { golden = try GoldenVectors.load() }

  @Test("sizes and offsets are those of the C headers for the three ABIs")
  func offsets() throws {
    try check(ABI64.self, "x86_64")
    try check(ABI32.self, "x86_32")
    try check(ABIArm.self, "x86_64")
  }

  func check<ABI: RingFormat>(_ abi: ABI.Type, _ name: String) throws {
    let layouts = try #require(golden.layouts[name])
    func at(_ structure: String, _ field: String) throws -> Int {
      try #require(layouts[structure]?.fields[field]?.first)
    }
    #expect(ABI.slotSize == layouts["blkif_sring_entry"]?.size)
    #expect(ABI.slotSize == layouts["blkif_request"]?.size)
    #expect(ABI.responseSize == layouts["blkif_response"]?.size)
    for structure in ["blkif_request", "blkif_request_discard", "blkif_request_indirect"] {
      #expect(try ABI.idOffset == at(structure, "id"))
      #expect(try ABI.sectorOffset == at(structure, "sector_number"))
    }
    #expect(try ABI.segmentsOffset == at("blkif_request", "seg"))
    #expect(try ABI.discardCountOffset == at("blkif_request_discard", "nr_sectors"))
    #expect(try ABI.indirectHandleOffset == at("blkif_request_indirect", "handle"))
    #expect(try ABI.indirectReferencesOffset == at("blkif_request_indirect", "indirect_grefs"))
    #expect(try BlockLimits.ringHeaderSize == at("blkif_sring", "ring"))
    #expect(BlockLimits.segmentSize == layouts["blkif_request_segment"]?.size)
    #expect(BlockLimits.directSegments * 8 == layouts["blkif_request"]?.fields["seg"]?.last)
    #expect(BlockLimits.indirectPages * 4 == layouts["blkif_request_indirect"]?.fields["indirect_grefs"]?.last)
  }

  @Test("a segment's fields stand where the C headers put them, and its padding is not looked at")
  func segment() throws {
    let fields = try #require(golden.layouts["x86_64"]?["blkif_request_segment"]?.fields)
    #expect(fields == ["gref": [0, 4], "first_sect": [4, 1], "last_sect": [5, 1]])
    let image = try #require(golden.image("x86_64", "segment"))
    let bits = image.reversed().reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
    let segment = Segment(reference: GrantReference(rawValue: 0xDEAD_BEEF), firstSector: 1, lastSector: 6)
    #expect(segment.bits == bits)
    #expect(Segment(bits: bits | 0xABCD << 48) == segment)
    #expect(segment.sectorCount == 6)
  }

  @Test("a segment is valid exactly when first <= last <= 7")
  func validSegments() {
    for first in UInt8.min ... .max {
      for last in UInt8.min ... .max {
        let segment = Segment(reference: GrantReference(rawValue: 8), firstSector: first, lastSector: last)
        if segment.isValid != (first <= last && last <= 7) { Issue.record("\(first)...\(last)") }
      }
    }
  }

  @Test("opcodes, statuses, flags and protocol names have their numbers")
  func constants() throws {
    let operations: [String: BlockOperation] = [
      "READ": .read, "WRITE": .write, "WRITE_BARRIER": .writeBarrier, "FLUSH_DISKCACHE": .flushDiskCache,
      "RESERVED_1": BlockOperation(rawValue: 4), "DISCARD": .discard, "INDIRECT": .indirect,
    ]
    #expect(operations.mapValues(\.rawValue) == golden.operations)
    let statuses: [String: BlockStatus] = ["OKAY": .okay, "ERROR": .error, "EOPNOTSUPP": .unsupported]
    #expect(statuses.mapValues(\.rawValue) == golden.statuses)
    let flags: [String: DiskInfoFlags] = ["CDROM": .cdrom, "REMOVABLE": .removable, "READONLY": .readOnly]
    #expect(flags.mapValues(\.rawValue) == golden.diskInfo)
    #expect(BlockLimits.discardSecureFlag == golden.discardSecure)
    #expect(Set(BlockProtocol.allCases.map(\.rawValue)) == Set(golden.protocols))
    for kind in BlockProtocol.allCases { #expect(kind.slotSize == (kind == .x86_32 ? 108 : 112)) }
    #expect([ABI64.name, ABI32.name, ABIArm.name] == ["x86_64-abi", "x86_32-abi", "arm-abi"])
  }

  @Test("descriptor pages are counted by 512 segments")
  func descriptorPages() {
    for (segments, pages) in [(0, 0), (1, 1), (511, 1), (512, 1), (513, 2), (1024, 2), (4095, 8), (4096, 8)] {
      #expect(BlockLimits.indirectPages(for: segments) == pages)
    }
    #expect(BlockLimits.indirectSegments == 4096)
  }

  @Test("the notify decision is that of the public macro in every row")
  func notify() {
    #expect(golden.notify.count == 28)
    for row in golden.notify {
      let decision = RingIndex.mustNotify(
        from: RingIndex(rawValue: row[0]), to: RingIndex(rawValue: row[1]), event: RingIndex(rawValue: row[2]))
      #expect(decision == (row[3] == 1), "old \(row[0]) new \(row[1]) event \(row[2])")
    }
  }

  @Test("the notify decision is membership of the half-open interval, whatever the start")
  func notifyInterval() {
    for start: UInt32 in [0, .max / 2 - 3, .max - 3] {
      for pushed: UInt32 in 0...8 {
        for ahead: Int in -9...9 {
          let event = start &+ UInt32(truncatingIfNeeded: ahead)
          let decision = RingIndex.mustNotify(
            from: RingIndex(rawValue: start), to: RingIndex(rawValue: start &+ pushed),
            event: RingIndex(rawValue: event))
          if decision != (ahead >= 1 && ahead <= Int(pushed)) { Issue.record("\(start) +\(pushed) event \(ahead)") }
        }
      }
    }
  }
}
