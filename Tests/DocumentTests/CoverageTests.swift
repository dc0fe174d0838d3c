// SPDX-License-Identifier: MIT

import FoundationEssentials
import Testing

@Suite("docs/protocol-coverage.md")
struct CoverageTests {
  /// The folder that this file's checkout is in.
  static let root: String = {
    let file = #filePath
    return file.split(separator: "/", omittingEmptySubsequences: false).dropLast(3).joined(separator: "/")
  }()

  /// The Swift files below a folder.
  static func sources(_ folder: String) throws -> [String] {
    var found: [String] = []
    var folders = ["\(root)/\(folder)"]
    while let folder = folders.popLast() {
      for name in try FileManager.default.contentsOfDirectory(atPath: folder) {
        var isFolder = false
        guard FileManager.default.fileExists(atPath: "\(folder)/\(name)", isDirectory: &isFolder) else { continue }
        if isFolder {
          folders.append("\(folder)/\(name)")
        } else if name.hasSuffix(".swift") {
          found.append("\(folder)/\(name)")
        }
      }
    }
    return found
  }

  /// The rows of all tables: what is said, where it is, what shows it.
  static func rows(_ text: String) -> [(said: String, where: String, shown: String)] {
    text.split(separator: "\n").compactMap { line in
      let cells = line.split(separator: "|", omittingEmptySubsequences: false).map { $0.trimming(" ") }
      guard line.hasPrefix("|"), cells.count == 5, !cells[1].hasPrefix("---"), cells[3] != "shown by" else {
        return nil
      }
      return (cells[1], cells[2], cells[3])
    }
  }

  static func parts(of text: String, between mark: Character) -> [String] {
    text.split(separator: mark, omittingEmptySubsequences: false).enumerated()
      .filter { $0.offset % 2 == 1 }.map { String($0.element) }
  }

  @Test("names tests and files that there are, at least one of each in every row")
  func names() throws {
    let text = try String(contentsOfFile: "\(Self.root)/docs/protocol-coverage.md", encoding: .utf8)
    let rows = Self.rows(text)
    #expect(rows.count > 80)
    var tests: Set<String> = []
    for file in try Self.sources("Tests") {
      let source = try String(contentsOfFile: file, encoding: .utf8)
      tests.formUnion(source.matches(of: /@Test\(\s*"((?:[^"\\]|\\.)*)"/).map { String($0.1) })
    }
    let files = Set(try Self.sources("Sources").compactMap { $0.split(separator: "/").last.map(String.init) })
    for row in rows {
      let named = (tests: Self.parts(of: row.shown, between: "\""), files: Self.parts(of: row.where, between: "`"))
      #expect(!named.tests.isEmpty && !named.files.isEmpty, "\(row.said)")
      for test in named.tests where !tests.contains(test) { Issue.record("there is no test \"\(test)\"") }
      for file in named.files where !files.contains(file) { Issue.record("there is no file \(file)") }
    }
  }
}

extension Substring {
  fileprivate func trimming(_ character: Character) -> String {
    var text = self
    while text.first == character { text.removeFirst() }
    while text.last == character { text.removeLast() }
    return String(text)
  }
}
