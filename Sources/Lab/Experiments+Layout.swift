// SPDX-License-Identifier: MIT

import Figures
import PVMachine
import XenWire

/// A ring with a name for tables.
struct NamedRing: Sendable {
  let name: String
  let picture: RingPicture

  init(_ name: String, lineSize: Int? = nil, _ change: (inout RingPlan) -> Void = { _ in }) {
    var plan = RingPlan()
    change(&plan)
    self.name = name
    picture = RingPicture(plan, lineSize: lineSize)
  }

  /// The forms that tables of sizes compare.
  static let forms: [NamedRing] = [
    NamedRing("classic x86_64"),
    NamedRing("classic x86_32") { $0.blockProtocol = .x86_32 },
    NamedRing("classic, whole page") { $0.usesWholePage = true },
    NamedRing("classic, align 128") { $0.alignment = 128 },
    NamedRing("wide 32") { ($0.variant, $0.segmentsPerRequest) = (.wide, 32) },
    NamedRing("wide 256") { ($0.variant, $0.segmentsPerRequest) = (.wide, 256) },
    NamedRing("segment-ring, 8 bytes") { $0.variant = .segmentRing },
    NamedRing("segment-ring, 6 bytes") { ($0.variant, $0.segmentEntrySize) = (.segmentRing, 6) },
    NamedRing("slim64") { $0.variant = .slim64 },
    NamedRing("slim64, whole page") { ($0.variant, $0.usesWholePage) = (.slim64, true) },
    NamedRing("slim32") { $0.variant = .slim32 },
    NamedRing("slim32, split, whole page") { ($0.variant, $0.isSplit, $0.usesWholePage) = (.slim32, true, true) },
  ]
}

extension Experiment {
  /// A: how much data a ring can have under way.
  static let dataInFlight = Experiment(
    "A", "Data in flight",
    claim: "A request carries at most 11 pages, 44 KiB, so that a ring of 32 has no more than 1.4 MB under way."
  ) { (effort) throws(MachineError) in
    var findings = Findings()
    findings.parameters = [("ring", "one page"), ("page", "4096 bytes"), ("figures", "computed from the layouts")]
    var table = LabTable(
      "Data in flight by form",
      columns: [
        "form", "slot bytes", "slots", "pages in the slot", "pages in all", "bytes a request", "bytes in flight",
      ])
    var bars: [Plot.Point] = []
    for ring in NamedRing.forms {
      let picture = ring.picture
      table.add(
        LabCell(stringLiteral: ring.name), LabCell(picture.requests.slotSize), LabCell(picture.requestSlots),
        LabCell(picture.directSegments), LabCell(picture.mostSegments), LabCell(picture.mostBytes),
        LabCell(picture.bytesInFlight))
      bars.append(Plot.Point(x: Double(bars.count), y: Double(picture.bytesInFlight) / 1_048_576))
    }
    findings.tables = [table, limits()]
    findings.plots = [
      Plot(
        bars: "Data in flight on a ring of one page", yTitle: "MiB", categories: NamedRing.forms.map(\.name),
        series: [Plot.Series("MiB", bars)], isLogarithmic: true)
    ]
    findings.outcome = [
      "True as far as 11 segments go: 32 requests of 45 056 bytes are 1 441 792 bytes.",
      "Linux mended it in 3.11 with indirect requests: 32 MiB with blkback's 256 segments, 4 MiB with blkfront's default "
        + "of 32, 512 MiB with all that the wire allows.",
      "slim32 goes furthest, 4 MiB a request and 256 MiB a page of ring; but its pages need 65 792 persistent grants, "
        + "and blkback keeps 1056.",
    ]
    findings.corrections = [
      "36 requests are said to be usable; 36 fit, and 32 can be used, because the index is masked.",
      "The segment ring's one page is said to let one request cover about 4 MB; it is 2 793 472 bytes with 6-byte "
        + "entries, 2 097 152 with 8-byte ones. 4 145 152 is the whole ring's.",
      "Wide slots of 256 segments are said to have 1582 bytes; with the 8-byte segments that a slot of 112 bytes "
        + "implies they have 2072, so that a page of ring holds one; and their "
        + "count has one byte, so that 0 has to stand for 256.",
      "36 slots of indirect requests are said to cover 32 MB; 32 slots do, exactly 33 554 432 bytes.",
    ]
    return findings
  }

  private static func limits() -> LabTable {
    var table = LabTable(
      "What Linux's limits make of the classic ring", columns: ["segments", "bytes a request", "1 page", "16 pages"])
    let one = NamedRing("").picture.requestSlots
    let many = NamedRing("") { $0.ringPages = 16 }.picture.requestSlots
    for (name, segments) in [
      ("11, direct", 11), ("32, blkfront's", 32), ("256, blkback's", 256), ("4096, the wire's", 4096),
    ] {
      let bytes = segments * 4096
      table.add(LabCell(stringLiteral: name), LabCell(bytes), LabCell(one * bytes), LabCell(many * bytes))
    }
    return table
  }

  /// I: what of the pages is never used.
  static let waste = Experiment(
    "I", "Wasted space",
    claim: "A response has to occupy as much of the ring as a request, although it needs only a few bytes."
  ) { (effort) throws(MachineError) in
    var findings = Findings()
    findings.parameters = [("ring", "one page"), ("figures", "computed from the layouts")]
    var table = LabTable(
      "Bytes by form",
      columns: [
        "form", "pages", "slots used", "slots that fit", "never used", "percent", "behind the last slot",
        "idle in a response's slot",
      ])
    var bars: [Plot.Point] = []
    for ring in NamedRing.forms {
      let areas = ring.picture.areas
      let all = areas.map(\.byteCount).reduce(0, +)
      let wasted = areas.map(\.wastedBytes).reduce(0, +)
      let responses = areas.first { $0.responseSize > 0 } ?? areas[0]
      let percent = Double(wasted) * 100 / Double(all)
      table.add(
        LabCell(stringLiteral: ring.name), LabCell(areas.map(\.pages).reduce(0, +)),
        LabCell(ring.picture.requestSlots), LabCell(areas[0].fit), LabCell(wasted), LabCell(percent),
        LabCell(areas.map(\.tailBytes).reduce(0, +)), LabCell(responses.idleBytesOfResponse))
      bars.append(Plot.Point(x: Double(bars.count), y: percent))
    }
    findings.tables = [table]
    findings.plots = [
      Plot(
        bars: "Bytes of the ring's pages that nothing ever covers", yTitle: "percent",
        categories: NamedRing.forms.map(\.name), series: [Plot.Series("percent", bars)])
    ]
    findings.outcome = [
      "True: 96 of 112 bytes lie idle while a response is in a slot, 86 percent of it.",
      "Most of what is never used at all comes from the power of two, though, not from the responses: of 126 slots of 32 "
        + "bytes 62 are given up, half a page.",
      "Responses on pages of their own cost those pages: split rings use two where one did, and 248 places for "
        + "responses answer 124 requests.",
    ]
    findings.corrections = [
      "Wide slots are said to need 14 pages for 36 of them; with true sizes 32 slots need 17 pages, which is order 5, "
        + "beyond the order 4 that Linux allows.",
      "Using the whole page is said to be free; an index that runs through 2^32 and is taken modulo 126 jumps at the "
        + "wrap, so each side needs a cursor.",
      "Slots of 6-byte segments would have 90 bytes, not 112: the real segment has 8.",
    ]
    return findings
  }

  /// D: slots that lie across cache lines.
  static let straddling = Experiment(
    "D", "Straddling",
    claim: "The protocol is aligned to 16 bits, and a third of the requests straddle three cache lines."
  ) { (effort) throws(MachineError) in
    var findings = Findings()
    findings.parameters = [
      ("ring", "one page"), ("traffic", "as many requests at a time as the ring takes"),
      ("runs", "\(effort.repeats)"), ("run", "\(effort.duration / 1_000_000) ms"),
    ]
    var table = LabTable(
      "Cache lines of slots",
      columns: ["slot", "line", "slots", "on 1", "on 2", "on 3", "average", "on more than needed"])
    for ring in straddlingForms {
      for line in [64, 128] {
        let area = RingPicture(ring.picture.plan, lineSize: line).requests
        table.add(
          LabCell(stringLiteral: ring.name), LabCell(line), LabCell(area.slotCount), LabCell(area.histogram[1] ?? 0),
          LabCell(area.histogram[2] ?? 0), LabCell(area.histogram[3] ?? 0), LabCell(area.averageLines),
          LabCell(area.straddlingSlots))
      }
    }
    let measured = try trafficTable(
      "What crossing costs between two CPUs", straddlingForms.map { ($0.name, RingTraffic($0.picture, batch: .max)) },
      effort)
    findings.tables = [table, measured.table]
    findings.plots = [measured.plot]
    findings.rings = [NamedRing("").picture]
    findings.outcome =
      [
        "Half of the slots, 16 of 32, lie on three lines, and none on one; on the 32-bit ring 20 of 32 do.",
        "Slots of 64 and of 32 bytes behind a header of 64 never straddle a line of 64.",
      ] + measured.sentences
    findings.corrections = [
      "A half, not a third, of the slots straddle three lines.",
      "Slots are aligned to 16 bytes, not to 16 bits: 112 is 7 times 16.",
      "A request of 32 bytes is said to cross two lines; behind a header of 64 bytes it never does.",
      "Smaller lines of the future are said to skew the picture; lines of 32 bytes make every figure worse, and the "
        + "trend is to 128.",
    ]
    return findings
  }

  private static let straddlingForms: [NamedRing] = [
    NamedRing("112 bytes"), NamedRing("108 bytes") { $0.blockProtocol = .x86_32 },
    NamedRing("128 bytes, header 128") { $0.alignment = 128 }, NamedRing("64 bytes") { $0.variant = .slim64 },
    NamedRing("32 bytes") { $0.variant = .slim32 },
  ]
}
