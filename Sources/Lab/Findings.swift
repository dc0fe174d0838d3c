// SPDX-License-Identifier: MIT

public import Figures

/// What an experiment found: the one source of its text, JSON, plots and page.
public struct Findings: Sendable {
  /// What was held fixed, as name and value.
  public var parameters: [(name: String, value: String)] = []
  /// The numbers.
  public var tables: [LabTable] = []
  /// The numbers again, as pictures.
  public var plots: [Plot] = []
  /// Rings that belong to it.
  public var rings: [RingPicture] = []
  /// What came out, a sentence each.
  public var outcome: [String] = []
  /// Where the seeds were wrong, a sentence each.
  public var corrections: [String] = []

  /// Starts without findings.
  public init() {}
}

/// A table of results.
public struct LabTable: Codable, Equatable, Sendable {
  /// What it shows.
  public var title: String
  /// The columns' names, units included.
  public var columns: [String]
  /// The rows, each with a cell for every column.
  public var rows: [[LabCell]] = []

  /// Starts an empty table.
  public init(_ title: String, columns: [String]) {
    self.title = title
    self.columns = columns
  }

  /// Appends a row.
  public mutating func add(_ cells: LabCell...) {
    precondition(cells.count == columns.count, "a cell for every column")
    rows.append(cells)
  }
}

/// One cell: a text, and the number behind it where there is one.
public struct LabCell: Codable, Equatable, Sendable, ExpressibleByStringInterpolation {
  /// For people.
  public var text: String
  /// For programs: the number, or the median of a measurement.
  public var value: Double?
  /// The least that was measured.
  public var least: Double?
  /// The most that was measured.
  public var most: Double?

  /// A text.
  public init(stringLiteral value: String) { text = value }

  /// An exact number.
  public init(_ number: Int) {
    text = Digits.grouped(number)
    value = Double(number)
  }

  /// A computed number.
  public init(_ number: Double) {
    text = Digits.rounded(number)
    value = number
  }

  /// A measured number, with its spread.
  public init(_ sample: Sample) {
    value = sample.median
    least = sample.least
    most = sample.most
    text =
      sample.least == sample.most
      ? Digits.rounded(sample.median)
      : "\(Digits.rounded(sample.median)) (\(Digits.rounded(sample.least))-\(Digits.rounded(sample.most)))"
  }

  /// Whether it is a number.
  public var isNumber: Bool { value != nil }
}

/// Numbers for people.
public enum Digits {
  /// Thousands apart: `1 441 792`.
  public static func grouped(_ number: Int) -> String {
    var digits = String(number.magnitude)
    guard digits.count > 4 else { return String(number) }
    var groups: [String] = []
    while digits.count > 3 {
      groups.insert(String(digits.suffix(3)), at: 0)
      digits.removeLast(3)
    }
    groups.insert(digits, at: 0)
    return (number < 0 ? "-" : "") + groups.joined(separator: " ")
  }

  /// Three digits that matter, or all before the point.
  public static func rounded(_ number: Double) -> String {
    guard number.isFinite else { return "-" }
    let size = abs(number)
    if size >= 100 || number == number.rounded() { return grouped(Int(number.rounded())) }
    let places = size >= 10 ? 1 : size >= 1 ? 2 : size >= 0.1 ? 3 : 4
    var scale = 1.0
    for _ in 0..<places { scale *= 10 }
    let scaled = Int((size * scale).rounded())
    let fraction = String(scaled % Int(scale))
    let text = "\(scaled / Int(scale))." + String(repeating: "0", count: places - fraction.count) + fraction
    return (number < 0 ? "-" : "") + text
  }
}
