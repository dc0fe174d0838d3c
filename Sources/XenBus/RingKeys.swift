// SPDX-License-Identifier: MIT

public import XenWire

extension RingPlan {
  /// The keys of a queue's ring pages, in the order in which the pages lie behind each other.
  /// - Parameter isNumbered: whether even a single page has a number; it has when `ring-page-order` is written.
  public func referenceKeys(isNumbered: Bool) -> [NodeKey<UInt32>] {
    isNumbered ? (0..<ringPages).map { FrontendKey.ringReference($0) } : [FrontendKey.ringReference]
  }
}
