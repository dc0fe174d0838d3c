// SPDX-License-Identifier: MIT

// Hostile frontends one after the other, in every form of ring, against a backend: 'ring-fuzz [requests [seed]]'. Stops with a
// sentence when the disk is asked for what it cannot do, a page that was never granted changes, or something is kept.

import CLinux
import Glibc
import PVPeers
import PVTestSupport

let arguments = CommandLine.arguments.dropFirst().compactMap { UInt64($0) }
let wanted = arguments.first ?? 1_000_000, seed = arguments.dropFirst().first ?? 1
var random = SeededGenerator(seed: seed)
let start = pv_monotonic_nanoseconds()
var requests: UInt64 = 0, frontends = 0
while requests < wanted {
  var words: [UInt8] = []
  words.reserveCapacity(8192)
  for _ in 0..<1024 {
    let word = random.next()
    for shift in 0..<8 { words.append(UInt8(truncatingIfNeeded: word >> UInt64(shift * 8))) }
  }
  var input = FuzzInput(words)
  requests += UInt64(try RingFuzz.run(&input, steps: 4096))
  frontends += 1
}
let seconds = Double(pv_monotonic_nanoseconds() - start) / 1e9
print("ring-fuzz: seed \(seed): \(requests) requests of \(frontends) frontends in \(Int(seconds)) s, nothing broken")
