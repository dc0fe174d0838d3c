// SPDX-License-Identifier: MIT

extension LabRecord {
  /// The record as text for a terminal.
  public var text: String {
    var lines = ["\(name)  \(title)", ""]
    lines += LabText.wrapped(claim, first: "claim    ", rest: "         ")
    let parameters = findings.parameters.map { "\($0.name): \($0.value)" }.joined(separator: "; ")
    if !parameters.isEmpty { lines += LabText.wrapped(parameters, first: "with     ", rest: "         ") }
    for table in findings.tables { lines += [""] + table.textLines }
    if !findings.outcome.isEmpty { lines.append("") }
    for (index, sentence) in findings.outcome.enumerated() {
      lines += LabText.wrapped(sentence, first: index == 0 ? "outcome  - " : "         - ", rest: "           ")
    }
    for (index, sentence) in findings.corrections.enumerated() {
      lines += LabText.wrapped(sentence, first: index == 0 ? "seeds    - " : "         - ", rest: "           ")
    }
    return lines.joined(separator: "\n")
  }
}

extension LabTable {
  /// The table with aligned columns: numbers to the right.
  var textLines: [String] {
    let isNumeric = columns.indices.map { column in rows.contains { $0[column].isNumber } }
    let widths = columns.indices.map { column in
      ([columns[column].count] + rows.map { $0[column].text.count }).max() ?? 0
    }
    func line(_ cells: [String]) -> String {
      let padded = cells.enumerated().map { column, text in
        let space = String(repeating: " ", count: widths[column] - text.count)
        return isNumeric[column] ? space + text : text + space
      }
      return "  " + padded.joined(separator: "   ").trimmedAtEnd
    }
    return [
      "  \(title)", "", line(columns), "  " + widths.map { String(repeating: "-", count: $0) }.joined(separator: "   "),
    ]
      + rows.map { line($0.map(\.text)) }
  }
}

extension String {
  var trimmedAtEnd: String {
    var text = self
    while text.hasSuffix(" ") { text.removeLast() }
    return text
  }
}

/// Text for a terminal.
enum LabText {
  /// Breaks a text at words so that lines have at most 112 characters.
  static func wrapped(_ text: String, first: String, rest: String) -> [String] {
    var lines: [String] = []
    var line = first
    var isEmpty = true
    for word in text.split(separator: " ") {
      if !isEmpty, line.count + 1 + word.count > 112 {
        lines.append(line)
        line = rest
        isEmpty = true
      }
      line += isEmpty ? String(word) : " " + word
      isEmpty = false
    }
    return lines + [line]
  }
}
