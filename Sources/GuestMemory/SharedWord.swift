// SPDX-License-Identifier: MIT

public import Synchronization

extension SharedWord where Value == UInt32 {
  /// Loads with no ordering.
  @inlinable public func loadRelaxed() -> UInt32 { unsafe pointer.pointee.load(ordering: .relaxed) }
  /// Loads; later accesses stay later.
  @inlinable public func loadAcquiring() -> UInt32 { unsafe pointer.pointee.load(ordering: .acquiring) }
  /// Stores with no ordering.
  @inlinable public func storeRelaxed(_ value: UInt32) { unsafe pointer.pointee.store(value, ordering: .relaxed) }
  /// Stores; earlier accesses stay earlier.
  @inlinable public func storeReleasing(_ value: UInt32) { unsafe pointer.pointee.store(value, ordering: .releasing) }
  /// Replaces the value if it is `expected`; answers whether it was and what was found.
  ///
  /// Sequentially consistent.
  @inlinable
  public func compareExchange(expected: UInt32, desired: UInt32) -> (exchanged: Bool, original: UInt32) {
    unsafe pointer.pointee.compareExchange(
      expected: expected, desired: desired, ordering: .sequentiallyConsistent)
  }
  /// Ands atomically and answers the old value.
  ///
  /// Sequentially consistent.
  @inlinable @discardableResult
  public func fetchAnd(_ mask: UInt32) -> UInt32 {
    unsafe pointer.pointee.bitwiseAnd(mask, ordering: .sequentiallyConsistent).oldValue
  }
  /// Ors atomically and answers the old value.
  ///
  /// Sequentially consistent.
  @inlinable @discardableResult
  public func fetchOr(_ bits: UInt32) -> UInt32 {
    unsafe pointer.pointee.bitwiseOr(bits, ordering: .sequentiallyConsistent).oldValue
  }
  /// Swaps atomically and answers the old value.
  ///
  /// Sequentially consistent.
  @inlinable
  public func exchange(_ value: UInt32) -> UInt32 {
    unsafe pointer.pointee.exchange(value, ordering: .sequentiallyConsistent)
  }
}

extension SharedWord where Value == UInt64 {
  /// Stores with no ordering.
  @inlinable public func storeRelaxed(_ value: UInt64) { unsafe pointer.pointee.store(value, ordering: .relaxed) }
  /// Loads with no ordering.
  @inlinable public func loadRelaxed() -> UInt64 { unsafe pointer.pointee.load(ordering: .relaxed) }
  /// Loads; later accesses stay later.
  @inlinable public func loadAcquiring() -> UInt64 { unsafe pointer.pointee.load(ordering: .acquiring) }
  /// Stores; earlier accesses stay earlier.
  @inlinable public func storeReleasing(_ value: UInt64) { unsafe pointer.pointee.store(value, ordering: .releasing) }
  /// Ors atomically and answers the old value.
  ///
  /// Sequentially consistent.
  @inlinable @discardableResult
  public func fetchOr(_ bits: UInt64) -> UInt64 {
    unsafe pointer.pointee.bitwiseOr(bits, ordering: .sequentiallyConsistent).oldValue
  }
  /// Ands atomically and answers the old value.
  ///
  /// Sequentially consistent.
  @inlinable @discardableResult
  public func fetchAnd(_ mask: UInt64) -> UInt64 {
    unsafe pointer.pointee.bitwiseAnd(mask, ordering: .sequentiallyConsistent).oldValue
  }
  /// Swaps atomically and answers the old value.
  ///
  /// Sequentially consistent.
  @inlinable
  public func exchange(_ value: UInt64) -> UInt64 {
    unsafe pointer.pointee.exchange(value, ordering: .sequentiallyConsistent)
  }
}

extension SharedWord where Value == UInt16 {
  /// Loads with no ordering.
  @inlinable public func loadRelaxed() -> UInt16 { unsafe pointer.pointee.load(ordering: .relaxed) }
  /// Loads; later accesses stay later.
  @inlinable public func loadAcquiring() -> UInt16 { unsafe pointer.pointee.load(ordering: .acquiring) }
  /// Stores; earlier accesses stay earlier.
  @inlinable public func storeReleasing(_ value: UInt16) { unsafe pointer.pointee.store(value, ordering: .releasing) }
  /// Replaces the value if it is `expected`; answers whether it was and what was found.
  ///
  /// Sequentially consistent.
  @inlinable
  public func compareExchange(expected: UInt16, desired: UInt16) -> (exchanged: Bool, original: UInt16) {
    unsafe pointer.pointee.compareExchange(
      expected: expected, desired: desired, ordering: .sequentiallyConsistent)
  }
}

extension SharedWord where Value == UInt8 {
  /// Loads with no ordering.
  @inlinable public func loadRelaxed() -> UInt8 { unsafe pointer.pointee.load(ordering: .relaxed) }
  /// Stores; earlier accesses stay earlier.
  @inlinable public func storeReleasing(_ value: UInt8) { unsafe pointer.pointee.store(value, ordering: .releasing) }
  /// Swaps atomically and answers the old value.
  ///
  /// Sequentially consistent.
  @inlinable
  public func exchange(_ value: UInt8) -> UInt8 {
    unsafe pointer.pointee.exchange(value, ordering: .sequentiallyConsistent)
  }
}
