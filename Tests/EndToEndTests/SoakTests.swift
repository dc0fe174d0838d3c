// SPDX-License-Identifier: MIT

import Testing

@Suite("Random operations beside an oracle, a slice of 'make soak'")
struct SoakTests {
  @Test(
    "no byte is lost or wrong, over each transport and in each placement",
    .enabled(if: Program.isInstalled("python3") && Program.isInstalled("fio")),
    arguments: ["dev --placement=inline", "dev --placement=threads", "uring --placement=inline", "uring --cache=none"])
  func slice(_ words: String) throws {
    let scene = try Scene(size: nil)
    let script = #filePath.split(separator: "/", omittingEmptySubsequences: false).dropLast(2).joined(separator: "/")
    let outcome = try scene.shell(
      "python3 -B '\(script)/Performance/soak.py' --pvdisk '\(Program.pvdisk)' --seconds 1.5 --seed 1 --only='\(words)'"
    )
    #expect(outcome.status == 0, "\(outcome)")
    // Where the kernel does not offer io_uring there is nothing to try.
    #expect(words.hasPrefix("uring") || outcome.output.contains("ok "), "\(outcome)")
  }
}
