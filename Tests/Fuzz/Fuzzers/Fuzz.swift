// SPDX-License-Identifier: MIT

import CFuzzer
import Glibc
import PVPeers

/// One program for all fuzzers: `PVDISK_FUZZ_TARGET` says which; everything else is libFuzzer's.
@main
enum Fuzz {
  static let targets: [String: @Sendable (inout FuzzInput) throws -> Void] = [
    "ring": { _ = try RingFuzz.run(&$0) }, "response": { _ = try ResponseFuzz.run(&$0) },
    "wire": { try WireFuzz.run(&$0) }, "node": { try NodeFuzz.run(&$0) }, "fuse": { try FuseFuzz.run(&$0) },
    "image": { try ImageFuzz.run(&$0) },
    "command": { try CommandFuzz.run(&$0) },
  ]

  static let target: @Sendable (inout FuzzInput) throws -> Void = {
    let name = unsafe getenv("PVDISK_FUZZ_TARGET").map { unsafe String(cString: $0) } ?? ""
    guard let target = targets[name] else {
      print("fuzz: set PVDISK_FUZZ_TARGET to one of \(targets.keys.sorted().joined(separator: ", "))")
      exit(1)
    }
    return target
  }()

  static func main() {
    _ = target
    var count = CommandLine.argc
    // SAFETY: the C runtime's own arguments, which live as long as the process.
    var arguments: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>? = unsafe CommandLine.unsafeArgv
    exit(
      unsafe LLVMFuzzerRunDriver(&count, &arguments) { bytes, size in
        var input = unsafe FuzzInput(Array(UnsafeBufferPointer(start: bytes, count: size)))
        do { try Fuzz.target(&input) } catch { fatalError("a fuzzer could not be set up: \(error)") }
        return 0
      })
  }
}
