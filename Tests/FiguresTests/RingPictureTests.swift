// SPDX-License-Identifier: MIT

import Figures
import Testing
import XenRecords
import XenWire

/// One drawing's options, with a name for the test's title.
struct Drawing: CustomTestStringConvertible, Sendable {
  var testDescription: String
  var plan = RingPlan()

  init(_ name: String, _ change: (inout RingPlan) -> Void) {
    testDescription = name
    change(&plan)
  }

  var picture: RingPicture { RingPicture(plan) }
}

@Suite("What a ring drawing says")
struct RingPictureTests {
  static let sizes: [Drawing] = [
    Drawing("112") { _ in }, Drawing("108") { $0.blockProtocol = .x86_32 }, Drawing("64") { $0.variant = .slim64 },
    Drawing("32") { $0.variant = .slim32 },
  ]

  @Test("slots touch the cache lines that the vectors say", arguments: sizes, [64, 128])
  func cacheLines(drawing: Drawing, line: Int) throws {
    var plan = drawing.plan
    let expected = try #require(try GoldenVectors.load().cacheLines[drawing.testDescription]?["\(line)"])
    let ring = RingPicture(plan, lineSize: line).requests
    #expect(ring.slotCount == expected.used)
    #expect(ring.linesTouched == Array(expected.touched.prefix(expected.used)))
    #expect(ring.histogram == Dictionary(uniqueKeysWithValues: expected.histogram.map { (Int($0.key), $0.value) }))
    plan.usesWholePage = true
    let whole = RingPicture(plan, lineSize: line).requests
    #expect(whole.linesTouched == expected.touched)
    #expect(
      whole.histogram == Dictionary(uniqueKeysWithValues: expected.histogramOfFit.map { (Int($0.key), $0.value) }))
  }

  @Test("as many slots fit, and cross pages, as the vectors say", arguments: sizes)
  func capacity(drawing: Drawing) throws {
    let vectors = try GoldenVectors.load()
    for (pages, counts) in try #require(vectors.ringEntries[drawing.testDescription]) {
      var plan = drawing.plan
      plan.ringPages = try #require(Int(pages))
      let ring = RingPicture(plan).requests
      #expect([ring.fit, ring.slotCount] == counts)
      if let crossing = vectors.crossingSlots[drawing.testDescription]?[pages] {
        #expect(ring.crossingSlots == crossing)
      }
    }
  }

  @Test("the corrected arithmetic of the overhaul thread holds")
  func arithmetic() {
    #expect(RingPictureTests.picture { _ in }.directBytes * 32 == 1_441_792)
    #expect(RingPictureTests.picture { $0.variant = .slim64 }.bytesInFlight == 33_554_432)
    let slim32 = RingPictureTests.picture { $0.variant = .slim32 }
    #expect(slim32.mostBytes == 4 << 20)
    #expect(slim32.bytesInFlight == 268_435_456)
    #expect(RingPictureTests.picture { ($0.variant, $0.usesWholePage) = (.slim32, true) }.bytesInFlight == 528_482_304)
    let packed = RingPictureTests.picture { ($0.variant, $0.segmentEntrySize) = (.segmentRing, 6) }
    #expect(packed.areas[1].slotCount == 682)
    #expect(packed.mostBytes == 2_793_472)
    let aligned = RingPictureTests.picture { $0.variant = .segmentRing }
    #expect(aligned.areas[1].slotCount == 512)
    #expect(aligned.mostBytes == 2_097_152)
    let wide = RingPictureTests.picture { ($0.variant, $0.segmentsPerRequest) = (.wide, 256) }
    #expect(wide.requests.slotSize == 2072)
    #expect(wide.requests.slotCount == 1)
    #expect(RingPictureTests.picture { $0.alignment = 128 }.requests.slotCount == 16)
  }

  @Test("rings apart have as many slots as the vectors say when their indices are together")
  func split() {
    func requests(_ variant: RingVariant) -> RingArea {
      RingPictureTests.picture {
        ($0.variant, $0.isSplit, $0.indexPlacement, $0.usesWholePage) = (variant, true, .together, true)
      }.requests
    }
    #expect(requests(.slim32).slotCount == 126)
    #expect(requests(.slim64).slotCount == 63)
    #expect(requests(.classic).slotCount == 36)
    let pages = RingPictureTests.picture {
      ($0.variant, $0.isSplit, $0.indexPlacement, $0.usesWholePage) = (.slim32, true, .together, true)
    }
    #expect(pages.areas[1].slotCount == 252)
  }

  @Test("every byte has one use, and uses add up", arguments: RingPictureTests.all)
  func everyByte(drawing: Drawing) {
    for area in drawing.picture.areas {
      var ofSlots = Array(repeating: 0, count: area.slotCount)
      var ofWords = 0
      var others = 0
      for byte in 0..<area.byteCount {
        switch area.use(ofByte: byte) {
        case .word: ofWords += 1
        case .request(let slot), .response(let slot), .spare(let slot):
          ofSlots[slot] += 1
        case .unused: others += 1
        }
      }
      let lines = (0..<area.lineCount).map { line in
        (line * area.lineSize..<(line + 1) * area.lineSize).reduce(into: RingWriters()) {
          $0.formUnion(area.writers(ofByte: $1))
        }
      }
      #expect(lines == (0..<area.lineCount).map(area.writers(ofLine:)))
      #expect(area.wastedBytes == (0..<area.byteCount).count(where: { area.writers(ofByte: $0).isEmpty }))
      #expect(ofSlots == Array(repeating: area.slotSize, count: area.slotCount))
      #expect(ofWords == area.words.count * 4)
      #expect(ofWords + others + area.slotCount * area.slotSize == area.byteCount)
    }
  }

  @Test("with rings and indices apart no line has two writers", arguments: RingVariant.allCases)
  func writers(variant: RingVariant) {
    for area in RingPictureTests.picture({ ($0.variant, $0.isSplit) = (variant, true) }).areas {
      #expect(area.lines(writtenBy: [.front, .back]) == 0, "\(area.name)")
    }
    #expect(RingPictureTests.picture { $0.variant = variant }.requests.lines(writtenBy: [.front, .back]) > 1)
  }

  @Test("what does not go together is refused with a sentence")
  func refusals() {
    let bad: [(inout RingPlan) -> Void] = [
      { $0.ringPages = 3 }, { $0.alignment = 32 }, { $0.segmentEntrySize = 7 },
      { ($0.variant, $0.segmentsPerRequest) = (.wide, 257) },
      {
        ($0.variant, $0.segmentsPerRequest, $0.isSplit, $0.alignment) = (.wide, 256, true, 128);
        $0.indexPlacement = .together
      },
    ]
    for change in bad {
      var plan = RingPlan()
      change(&plan)
      #expect(RingPicture.complaint(plan) != nil)
    }
    #expect(RingPicture.complaint(RingPlan(), lineSize: 48) != nil)
  }

  static func picture(_ change: (inout RingPlan) -> Void) -> RingPicture {
    var plan = RingPlan()
    change(&plan)
    return RingPicture(plan)
  }

  /// Every variant with each modifier alone and all together.
  static let all: [Drawing] = RingVariant.allCases.flatMap { variant in
    [
      Drawing("\(variant)") { $0.variant = variant },
      Drawing("\(variant), split") { ($0.variant, $0.isSplit) = (variant, true) },
      Drawing("\(variant), split, together") {
        ($0.variant, $0.isSplit, $0.indexPlacement) = (variant, true, .together)
      },
      Drawing("\(variant), whole-page") { ($0.variant, $0.usesWholePage) = (variant, true) },
      Drawing("\(variant), align 128, split, 2 pages") {
        ($0.variant, $0.alignment, $0.isSplit, $0.ringPages) = (variant, 128, true, 2)
      },
    ]
  }
}

@Suite("How a ring is drawn")
struct RingRenderingTests {
  @Test("a line of text is a cache line, a character a byte", arguments: RingPictureTests.all)
  func text(drawing: Drawing) throws {
    let picture = drawing.picture
    let rows = picture.text.split(separator: "\n").filter { row in
      let words = row.prefix(12).split(separator: " ")
      return words.count == 2 && words.allSatisfy { $0.allSatisfy(\.isNumber) }
    }
    #expect(rows.count == picture.areas.map(\.lineCount).reduce(0, +))
    var row = rows.startIndex
    for area in picture.areas {
      for line in 0..<area.lineCount {
        let bytes = Array(rows[row].dropFirst(18).prefix(area.lineSize))
        #expect(bytes.count == area.lineSize)
        let isWrong = bytes.enumerated().contains { place, character in
          let isNobodys = area.writers(ofByte: line * area.lineSize + place).isEmpty
          if "[]0123456789".contains(character) { return false }
          return (character == ".") != isNobodys
        }
        #expect(!isWrong, "line \(line) of the \(area.name)")
        row += 1
      }
    }
  }

  @Test("the SVG is well formed and its slots are as wide as they are", arguments: RingPictureTests.all)
  func svg(drawing: Drawing) throws {
    let svg = drawing.picture.svg
    #expect(svg.hasPrefix("<svg ") && svg.hasSuffix("</svg>\n"))
    var open = 0
    for tag in svg.split(separator: "<") {
      if tag.hasPrefix("/") { open -= 1 } else if !tag.contains("/>") { open += 1 }
      #expect(open >= 0)
    }
    #expect(open == 0)
    #expect(!svg.contains("nan") && !svg.contains("inf"))
    let area = drawing.picture.requests
    let last = "slot \(area.slotCount - 1): bytes \(area.offset(ofSlot: area.slotCount - 1)) to "
    #expect(svg.contains(last))
  }

  @Test("the report has the drawing's numbers")
  func report() {
    let report = RingReport(RingPictureTests.picture { _ in })
    #expect(report.areas.count == 1)
    #expect(report.areas[0].histogram == ["2": 16, "3": 16])
    #expect(report.areas[0].straddlingSlots == 16)
    #expect(report.areas[0].lineWriters[0] == "FB")
    #expect(report.areas[0].wastedBytes == 496)
    #expect(report.areas[0].idleBytesOfResponse == 96)
  }
}
