// SPDX-License-Identifier: MIT

import Testing
import XenRecords
import XenStore

@Suite("The store's errors and quotas are those of Xen's headers and xenstored")
struct GoldenTests {
  let golden: GoldenXen

  init() throws { golden = try GoldenXen.load() }

  @Test("every error name of the wire is there, with Linux's number")
  func errors() {
    let ours = Dictionary(uniqueKeysWithValues: StoreError.allCases.map { ($0.wireName, Int($0.errno)) })
    #expect(ours == golden.group("xs_errno_linux"))
  }

  @Test("the quotas have xenstored's names and defaults")
  func quotas() {
    for (name, value) in golden.group("xs_quota_default") {
      let ours = ["memory_hard": "memory", "memory_soft": "soft-memory"][name] ?? name
      #expect(StoreQuotas.xenstored[named: ours] == value, "\(name)")
    }
    #expect(StoreQuotas.names.count == golden.group("xs_quota_default").count)
  }
}
