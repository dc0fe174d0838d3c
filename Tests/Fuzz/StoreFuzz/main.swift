// SPDX-License-Identifier: MIT

// Hostile clients against the store's wire sessions: `store-fuzz [MESSAGES [SEED]]`. Exit status 5 when a client of good
// will is disturbed, when the store's books do not balance, or when memory grows beyond what quotas allow.

import CLinux
import Glibc
import PVTestSupport
import XenStore
import XenWire

let arguments = CommandLine.arguments.dropFirst().compactMap { UInt64($0) }
let wanted = arguments.first ?? 1_000_000
let seed = arguments.dropFirst().first ?? 1

var run = HostileStoreRun(seed: seed)
let start = pv_monotonic_nanoseconds()
var early = 0
while run.messages < wanted {
  if let complaint = run.step(messages: min(10_000, wanted - run.messages)) {
    print("store-fuzz: after \(run.messages) messages, seed \(seed): \(complaint)")
    exit(5)
  }
  if early == 0, run.messages >= min(200_000, wanted / 2) { early = HostileStoreRun.residentByteCount }
}
let seconds = Double(pv_monotonic_nanoseconds() - start) / 1e9
let growth = max(0, HostileStoreRun.residentByteCount - early)
print(
  "store-fuzz: \(run.messages) messages, seed \(seed), \(run.sessions) sessions, \(run.answers) bytes of answers, "
    + "\(Int(Double(run.messages) / seconds)) a second, memory grew by \(growth >> 10) KiB: nothing found")
exit(growth < 64 << 20 ? 0 : 5)
