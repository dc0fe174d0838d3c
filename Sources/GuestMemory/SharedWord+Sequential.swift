// SPDX-License-Identifier: MIT

public import Synchronization

extension SharedWord where Value: FixedWidthInteger {
  /// Loads in the one order that all sequentially consistent accesses share: not before an earlier exchange of another word.
  @inlinable
  public func loadSequential() -> UInt64 where Value == UInt64 {
    unsafe pointer.pointee.load(ordering: .sequentiallyConsistent)
  }

  /// Loads in the one order that all sequentially consistent accesses share: not before an earlier exchange of another word.
  @inlinable
  public func loadSequential() -> UInt32 where Value == UInt32 {
    unsafe pointer.pointee.load(ordering: .sequentiallyConsistent)
  }

  /// Loads in the one order that all sequentially consistent accesses share: not before an earlier exchange of another word.
  @inlinable
  public func loadSequential() -> UInt8 where Value == UInt8 {
    unsafe pointer.pointee.load(ordering: .sequentiallyConsistent)
  }
}
