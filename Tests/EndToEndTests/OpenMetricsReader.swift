// SPDX-License-Identifier: MIT

/// A reader of the OpenMetrics text format (1.0) that takes nothing which the format does not allow.
struct OpenMetricsReader {
  struct Sample: Hashable {
    var name: String
    var labels: [String: String]
    var value: String
    var number: Double { Double(value) ?? .nan }
  }

  struct Family {
    var name: String
    var type = "unknown"
    var unit: String?
    var help: String?
    var samples: [Sample] = []
  }

  private(set) var families: [String: Family] = [:]
  /// What is wrong with the text, a sentence each.
  private(set) var complaints: [String] = []
  private var current: String?
  private var closed: Set<String> = []
  private var seen: Set<String> = []

  /// The suffixes that samples of a type have.
  private static let suffixes: [String: [String]] = [
    "counter": ["_total", "_created"], "gauge": [""], "info": ["_info"],
    "histogram": ["_bucket", "_count", "_sum", "_created"], "unknown": [""],
  ]

  init(_ text: String) {
    guard text.hasSuffix("# EOF\n") || text.hasSuffix("# EOF") else {
      complaints.append("the last line is not # EOF")
      return
    }
    var lines = text.split(separator: "\n", omittingEmptySubsequences: false).map(String.init)
    if lines.last == "" { lines.removeLast() }
    for (number, line) in lines.enumerated() {
      if line == "# EOF" {
        if number != lines.count - 1 { complaints.append("# EOF in line \(number + 1) of \(lines.count)") }
      } else if line.hasPrefix("#") {
        readMetadata(line)
      } else {
        readSample(line)
      }
    }
    for family in families.values { judge(family) }
  }

  private mutating func complain(_ text: String, _ line: String) { complaints.append("\(text): \(line)") }

  private mutating func readMetadata(_ line: String) {
    let words = line.split(separator: " ", maxSplits: 3, omittingEmptySubsequences: false).map(String.init)
    guard words.count == 4, words[0] == "#", ["TYPE", "UNIT", "HELP"].contains(words[1]) else {
      return complain("no metadata", line)
    }
    let name = words[2]
    guard Self.isName(name) else { return complain("no name", line) }
    if current != name {
      if let current { closed.insert(current) }
      guard !closed.contains(name) else { return complain("a family in two places", line) }
      current = name
      families[name] = Family(name: name)
    }
    guard var family = families[name], family.samples.isEmpty else { return complain("metadata behind samples", line) }
    switch words[1] {
    case "TYPE":
      guard Self.suffixes[words[3]] != nil else { return complain("no such type", line) }
      family.type = words[3]
    case "UNIT":
      guard name.hasSuffix("_" + words[3]) else { return complain("a unit that the name does not end with", line) }
      family.unit = words[3]
    default: family.help = words[3]
    }
    families[name] = family
  }

  private mutating func readSample(_ line: String) {
    guard let (name, labels, value) = Self.parse(line) else { return complain("no sample", line) }
    guard let current, var family = families[current] else { return complain("a sample without a family", line) }
    let suffixes = Self.suffixes[family.type] ?? []
    guard suffixes.contains(where: { current + $0 == name }) else {
      return complain("a sample that is not of the \(family.type) \(current)", line)
    }
    guard Double(value) != nil else { return complain("no number", line) }
    let key = name + labels.sorted { $0.key < $1.key }.map { "\u{1}\($0.key)\u{2}\($0.value)" }.joined()
    if !seen.insert(key).inserted { complain("the same sample twice", line) }
    family.samples.append(Sample(name: name, labels: labels, value: value))
    families[current] = family
  }

  /// `name{label="value",...} number`.
  private static func parse(_ line: String) -> (String, [String: String], String)? {
    var rest = Substring(line)
    let name = String(rest.prefix { $0 != "{" && $0 != " " })
    guard isName(name) else { return nil }
    rest = rest.dropFirst(name.count)
    var labels: [String: String] = [:]
    if rest.first == "{" {
      rest = rest.dropFirst()
      while rest.first != "}" {
        if !labels.isEmpty {
          guard rest.first == "," else { return nil }
          rest = rest.dropFirst()
        }
        let label = String(rest.prefix { $0 != "=" })
        rest = rest.dropFirst(label.count)
        guard isName(label), !label.contains(":"), rest.hasPrefix("=\"") else { return nil }
        rest = rest.dropFirst(2)
        guard let (value, after) = string(rest), labels.updateValue(value, forKey: label) == nil else { return nil }
        rest = after
      }
      rest = rest.dropFirst()
    }
    guard rest.first == " " else { return nil }
    let value = String(rest.dropFirst())
    return value.contains(" ") ? nil : (name, labels, value)
  }

  /// What stands before the closing quotation mark, without its escapes.
  private static func string(_ text: Substring) -> (String, Substring)? {
    var value = ""
    var rest = text
    while let character = rest.popFirst() {
      if character == "\"" { return (value, rest) }
      guard character == "\\" else {
        value.append(character)
        continue
      }
      switch rest.popFirst() {
      case "n": value.append("\n")
      case "\\": value.append("\\")
      case "\"": value.append("\"")
      default: return nil
      }
    }
    return nil
  }

  private static func isName(_ text: String) -> Bool {
    guard let first = text.first, first.isASCII, first.isLetter || first == "_" || first == ":" else { return false }
    return text.allSatisfy { $0.isASCII && ($0.isLetter || $0.isNumber || $0 == "_" || $0 == ":") }
  }

  private mutating func judge(_ family: Family) {
    if family.help == nil || family.samples.isEmpty { complaints.append("\(family.name) has no help or no samples") }
    for other in families.keys where other != family.name {
      let isClash = (Self.suffixes[family.type] ?? []).contains { !$0.isEmpty && family.name + $0 == other }
      if isClash { complaints.append("\(other) is a sample's name of \(family.name)") }
    }
    switch family.type {
    case "counter":
      for sample in family.samples where !(sample.number >= 0) { complaints.append("\(sample) counts down") }
    case "info":
      for sample in family.samples where sample.value != "1" { complaints.append("\(sample) is not 1") }
    case "histogram": judgeHistogram(family)
    default: break
    }
  }

  private mutating func judgeHistogram(_ family: Family) {
    func series(_ sample: Sample) -> [String: String] { sample.labels.filter { $0.key != "le" } }
    for (labels, samples) in Dictionary(grouping: family.samples, by: series) {
      let buckets = samples.filter { $0.name.hasSuffix("_bucket") }
      let limits = buckets.map { Double($0.labels["le"] ?? "") ?? .nan }
      let counts = buckets.map(\.number)
      let count = samples.first { $0.name.hasSuffix("_count") }?.number
      let sum = samples.first { $0.name.hasSuffix("_sum") }?.number
      let isRising = zip(limits, limits.dropFirst()).allSatisfy { $0 < $1 }
      let isCumulative = zip(counts, counts.dropFirst()).allSatisfy { $0 <= $1 }
      if limits.last != .infinity || !isRising {
        complaints.append("\(family.name) \(labels): buckets up to \(limits)")
      }
      if !isCumulative || counts.last != count {
        complaints.append("\(family.name) \(labels): \(counts) of \(count ?? -1)")
      }
      if !((sum ?? -1) >= 0) { complaints.append("\(family.name) \(labels) has no sum") }
    }
  }
}
