// SPDX-License-Identifier: MIT

import Figures
import Foundation
import Lab
import PVMachine
import Testing

@Suite("The laboratory", .serialized)
struct LabShapeTests {
  static let records = Result { try Experiment.all.map { try $0.run(.quick) } }
  static let machine = LabMachine(
    processor: "a test", cpus: 2, kernel: "0", date: "2000-01-01", command: "pvdisk lab", load: "0")

  @Test("every problem of the thread has an experiment, and what Linux shipped has one")
  func names() {
    #expect(Experiment.all.map(\.name) == ["A", "B", "C", "D", "E", "F", "G", "H", "I", "J", "features"])
    #expect(Experiment.named("f")?.name == "F")
    #expect(Experiment.named("K") == nil)
  }

  @Test("every experiment says what was claimed, measures something and says what came out")
  func findings() throws {
    for record in try LabShapeTests.records.get() {
      #expect(record.claim.hasSuffix("."))
      #expect(!record.findings.tables.isEmpty && !record.findings.plots.isEmpty, "\(record.name)")
      #expect(!record.findings.outcome.isEmpty && !record.findings.parameters.isEmpty, "\(record.name)")
      for table in record.findings.tables {
        #expect(!table.rows.isEmpty, "\(record.name): \(table.title)")
        #expect(table.rows.allSatisfy { $0.count == table.columns.count })
        let numbers = table.rows.flatMap { $0.compactMap(\.value) }
        #expect(!numbers.isEmpty && numbers.allSatisfy(\.isFinite), "\(record.name): \(table.title)")
      }
    }
  }

  @Test("the JSON is valid and has every experiment")
  func json() throws {
    let records = try LabShapeTests.records.get()
    let report = LabReport(records, machine: LabShapeTests.machine, effort: .quick)
    let text = try JSONEncoder().encode(report)
    #expect(try JSONDecoder().decode(LabReport.self, from: text) == report)
    #expect(report.experiments.map(\.name) == Experiment.all.map(\.name))
    #expect(report.isQuick)
  }

  @Test("the page is one file with all texts, tables and pictures, and pictures are well formed")
  func page() throws {
    let records = try LabShapeTests.records.get()
    let html = LabPage(records, machine: LabShapeTests.machine, effort: .quick).html
    #expect(!html.contains("src=") && !html.contains("href=\"http"))
    for record in records {
      #expect(html.contains("<section id=\"\(record.name)\">"))
      for table in record.findings.tables { #expect(html.contains(SVGDrawing.escaped(table.title))) }
    }
    for picture in records.flatMap(\.pictures) {
      let parser = XMLShape(picture.svg)
      #expect(parser.isBalanced, "\(picture.name)")
      #expect(!picture.svg.contains("nan"), "\(picture.name)")
    }
    let root = try #require(html.range(of: "<html"))
    let shape = XMLShape(String(html[root.lowerBound...]))
    #expect(shape.isBalanced)
  }

  @Test("the exact numbers of the thread come out corrected")
  func corrections() throws {
    let records = try LabShapeTests.records.get()
    func cells(_ name: String, _ table: Int, row: String) throws -> [Double] {
      let record = try #require(records.first { $0.name == name })
      let found = record.findings.tables[table].rows.first { $0[0].text == row }
      return try #require(found).compactMap(\.value)
    }
    #expect(try cells("A", 0, row: "slim32") == [32, 64, 2, 1024, 4_194_304, 268_435_456])
    #expect(try cells("A", 1, row: "11, direct") == [45_056, 1_441_792, 23_068_672])
    #expect(try cells("D", 0, row: "112 bytes") == [64, 32, 0, 16, 16, 2.5, 16])
    #expect(try cells("D", 0, row: "108 bytes") == [64, 32, 0, 12, 20, 2.625, 20])
    #expect(try cells("F", 0, row: "classic, 11 segments").first == 24)
    #expect(try cells("F", 0, row: "classic, indirect 256").first == 1)
    #expect(try cells("J", 0, row: "x86_32, depth 1").prefix(2) == [108, 12])
  }

  @Test("whatever is planted in an image is reported, with its sector")
  func planted() throws {
    let record = try #require(try LabShapeTests.records.get().first { $0.name == "G" })
    let table = try #require(record.findings.tables.last)
    #expect(table.rows.count == 3)
    for row in table.rows { #expect(Set(row.compactMap(\.value)).count == 1, "\(row.map(\.text))") }
  }
}

@Suite("Numbers for people")
struct DigitsTests {
  @Test(
    "numbers are grouped and rounded to what matters",
    arguments: [
      (1_441_792.0, "1 441 792"), (2.625, "2.63"), (0, "0"), (45_056, "45 056"), (999.6, "1000"), (12.34, "12.3"),
      (0.0625, "0.0625"), (-3.5, "-3.50"), (.infinity, "-"),
    ])
  func rounded(number: Double, text: String) { #expect(Digits.rounded(number) == text) }

  @Test("a sample is its median with the least and the most")
  func sample() {
    #expect(Sample([3, 1, 2]).median == 2)
    #expect(Sample([4, 1, 2, 3]).median == 2.5)
    #expect(LabCell(Sample([3, 1, 2])).text == "2 (1-3)")
  }
}

/// Whether every tag is closed in its order.
struct XMLShape {
  let isBalanced: Bool

  init(_ text: String) {
    var open: [Substring] = []
    for tag in text.split(separator: "<").filter({ !$0.hasPrefix("!") }) {
      let name = tag.prefix { $0 != ">" && $0 != " " && $0 != "\n" }
      if name.hasPrefix("/") {
        guard open.popLast() == name.dropFirst() else {
          isBalanced = false
          return
        }
      } else if !(tag.prefix { $0 != ">" }).hasSuffix("/"), name != "meta" {
        open.append(name)
      }
    }
    isBalanced = open.isEmpty
  }
}
