// SPDX-License-Identifier: MIT

public import GuestMemory

/// A list of pieces of memory that somebody else owns.
@safe public final class ExtentArray {
  // SAFETY: `extents` addresses `count` initialised extents until deinit.
  private let extents: UnsafeMutablePointer<MemoryExtent>
  private let count: Int

  /// Keeps a list.
  public init(_ list: [MemoryExtent]) {
    count = list.count
    unsafe extents = .allocate(capacity: max(1, list.count))
    for (index, extent) in list.enumerated() { unsafe (extents + index).initialize(to: extent) }
  }

  deinit { unsafe extents.deallocate() }

  /// What a request names.
  public var list: MemoryExtentList { unsafe MemoryExtentList(unsafeStart: extents, count: count) }
}
