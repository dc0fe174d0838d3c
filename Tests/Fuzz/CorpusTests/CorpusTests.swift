// SPDX-License-Identifier: MIT

import Foundation
import Testing

/// What `make fuzz` starts from, run once.
@Suite struct CorpusTests {
  private static let folder = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
    .appending(path: "Corpus")

  private static func inputs(_ name: String) throws -> [[UInt8]] {
    let files = try FileManager.default.contentsOfDirectory(
      at: folder.appending(path: name), includingPropertiesForKeys: nil)
    return try files.sorted { $0.path < $1.path }.map { [UInt8](try Data(contentsOf: $0)) }
  }

  @Test(
    "every input that a fuzzer has kept breaks nothing, and comes out in a used world as in a new one",
    arguments: Harnesses.all.keys.sorted())
  func runs(_ name: String) throws {
    let kind = try #require(Harnesses.all[name])
    let inputs = try Self.inputs(name)
    #expect(!inputs.isEmpty)
    let harness = try KeptHarness(kind)
    for (index, input) in inputs.enumerated() {
      try harness.run(input, isThorough: index % 4 == 0, isCompared: index % 8 == 0)
    }
  }
}
