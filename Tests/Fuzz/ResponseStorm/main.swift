// SPDX-License-Identifier: MIT

// Hostile backends one after the other, in every form of ring, against a frontend: 'response-fuzz [responses [seed]]'. Stops
// with a sentence when an I/O ends twice or never, or a backend that is not trusted sees a byte that it was not sent.

import CLinux
import Glibc
import PVPeers
import PVTestSupport

let arguments = CommandLine.arguments.dropFirst().compactMap { UInt64($0) }
let wanted = arguments.first ?? 1_000_000, seed = arguments.dropFirst().first ?? 1
var random = SeededGenerator(seed: seed)
let start = pv_monotonic_nanoseconds()
var responses: UInt64 = 0, backends = 0
while responses < wanted {
  var words: [UInt8] = []
  words.reserveCapacity(8192)
  for _ in 0..<1024 {
    let word = random.next()
    for shift in 0..<8 { words.append(UInt8(truncatingIfNeeded: word >> UInt64(shift * 8))) }
  }
  var input = FuzzInput(words)
  responses += UInt64(try ResponseFuzz.run(&input, steps: 4096))
  backends += 1
}
let seconds = Double(pv_monotonic_nanoseconds() - start) / 1e9
print(
  "response-fuzz: seed \(seed): \(responses) responses of \(backends) backends in \(Int(seconds)) s, nothing broken")
