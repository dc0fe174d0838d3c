// SPDX-License-Identifier: MIT

import PVTestSupport
import Testing

@Suite("A million hostile messages")
struct HostileMessageTests {
  @Test(
    "disturb no client of good will, break no quota and leave the books right",
    arguments: 0..<4 as Range<UInt64>)
  func million(seed: UInt64) {
    var run = HostileStoreRun(seed: seed)
    let wanted = UInt64(TestScale.count(250_000))
    while run.messages < wanted {
      if let complaint = run.step(messages: 25_000) {
        Issue.record("after \(run.messages) messages, seed \(seed): \(complaint)")
        return
      }
    }
    #expect(run.answers > 0)
  }
}
