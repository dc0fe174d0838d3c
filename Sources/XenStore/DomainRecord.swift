// SPDX-License-Identifier: MIT

import XenWire

/// What the store knows of one domain; a domain that comes back under an old number gets a new record.
struct DomainRecord: Sendable {
  /// The state's generation when the record came to be: permission entries that are older mean an earlier domain.
  let generation: UInt64
  var quotas: StoreQuotas
  var isIntroduced = false
  var isShutDown = false
  /// A domain whose rights this one has too (SET_TARGET).
  var target: DomainID?
  var features = StoreFeatures.all
  var writeCredit = WriteCredit()
  private var usage = [9 of Int](repeating: 0)
  private var peaks = [9 of Int](repeating: 0)

  init(generation: UInt64, quotas: StoreQuotas, isIntroduced: Bool = false) {
    self.generation = generation
    self.quotas = quotas
    self.isIntroduced = isIntroduced
  }

  /// How much of something the domain uses now.
  subscript(quota: StoreQuota) -> Int { usage[quota.index] }

  /// The most that was seen of something.
  func peak(_ quota: StoreQuota) -> Int { peaks[quota.index] }

  mutating func add(_ quota: StoreQuota, _ amount: Int) {
    usage[quota.index] += amount
    if usage[quota.index] > peaks[quota.index] { peaks[quota.index] = usage[quota.index] }
  }

  /// Notes an amount that is limited but not kept, such as a node's size.
  mutating func note(_ quota: StoreQuota, _ amount: Int) {
    if amount > peaks[quota.index] { peaks[quota.index] = amount }
  }

  /// Takes what is used now as the most that was seen.
  mutating func resetPeaks() { peaks = usage }
}

extension [9 of Int] {
  fileprivate init(repeating value: Int) {
    self.init { _ in value }
  }
}
