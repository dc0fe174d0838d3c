// SPDX-License-Identifier: MIT

import CFuzzer
import Glibc

/// One program for all fuzzers: `PVDISK_FUZZ_TARGET` says which; everything else is libFuzzer's.
@main
enum Fuzzer {
  // SAFETY: made before libFuzzer's loop, which is the program's only thread, and used in that loop alone.
  nonisolated(unsafe) private static var harness: KeptHarness?

  static func main() throws {
    let name = unsafe getenv("PVDISK_FUZZ_TARGET").map { unsafe String(cString: $0) } ?? ""
    guard let kind = Harnesses.all[name] else {
      print("fuzz: set PVDISK_FUZZ_TARGET to one of \(Harnesses.all.keys.sorted().joined(separator: ", "))")
      exit(1)
    }
    let neighbours = unsafe getenv("PVDISK_FUZZ_NEIGHBOURS").flatMap { unsafe Int(String(cString: $0)) } ?? 0
    unsafe harness = try KeptHarness(kind, neighbours: neighbours)
    print("fuzz: \(name): \(unsafe pv_fuzzer_focus(kind.focus)) branches are looked at")
    atexit { print("fuzz: \(unsafe Fuzzer.harness?.count ?? 0) inputs were run") }
    var count = CommandLine.argc
    // SAFETY: the C runtime's own arguments, which live as long as the process.
    var arguments: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>? = unsafe CommandLine.unsafeArgv
    exit(
      unsafe LLVMFuzzerRunDriver(&count, &arguments) { bytes, size in
        do {
          pv_fuzzer_listen(true)
          // Comparisons are for inputs that libFuzzer has: neighbours do without.
          try unsafe Fuzzer.harness?.run(Array(UnsafeBufferPointer(start: bytes, count: size))) {
            pv_fuzzer_listen(false)
          }
        } catch {
          fatalError("a fuzzer could not be set up: \(error)")
        }
        return 0
      })
  }
}
