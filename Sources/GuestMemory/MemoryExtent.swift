// SPDX-License-Identifier: MIT

public import Glibc

/// A run of bytes that an I/O moves: an address in this process and a length, laid out as C's `struct iovec`.
@safe public struct MemoryExtent: Equatable, @unchecked Sendable {
  // SAFETY: a description only; whoever turns it into an access vouches for the memory behind it.
  @usableFromInline var vector: iovec

  /// Describes `byteCount` bytes from `address`.
  @inlinable
  public init(address: UInt, byteCount: Int) {
    unsafe vector = iovec(iov_base: UnsafeMutableRawPointer(bitPattern: address), iov_len: byteCount)
  }

  /// The first byte's address.
  @inlinable public var address: UInt { UInt(bitPattern: unsafe vector.iov_base) }
  /// The number of bytes.
  @inlinable
  public var byteCount: Int {
    get { unsafe vector.iov_len }
    set { unsafe vector.iov_len = newValue }
  }
  /// One past the last byte's address.
  @inlinable public var endAddress: UInt { address &+ UInt(bitPattern: byteCount) }

  /// Extents are equal when they name the same bytes.
  @inlinable
  public static func == (left: MemoryExtent, right: MemoryExtent) -> Bool {
    left.address == right.address && left.byteCount == right.byteCount
  }

  /// The same bytes as a region, for code that touches them.
  @inlinable
  public var region: SharedRegion? {
    guard let base = unsafe vector.iov_base else { return nil }
    return unsafe SharedRegion(unsafeBase: base, byteCount: byteCount)
  }
}

/// A list of extents that somebody else keeps, in order: what `readv(2)` takes.
///
/// **Assumptions.** The list stays in place until the I/O that was given it has completed.
@safe public struct MemoryExtentList: @unchecked Sendable {
  // SAFETY: `start` addresses `count` initialised extents that the submitter keeps until completion.
  @usableFromInline let start: UnsafePointer<MemoryExtent>
  /// The number of extents.
  public let count: Int

  /// Names `count` extents at `start`.
  @inlinable
  public init(unsafeStart start: UnsafePointer<MemoryExtent>, count: Int) {
    unsafe self.start = start
    self.count = count
  }

  /// One extent.
  @inlinable
  public subscript(index: Int) -> MemoryExtent {
    precondition(index >= 0 && index < count, "outside the extent list")
    return unsafe start[index]
  }

  /// The sum of the extents' lengths in bytes.
  @inlinable
  public var byteCount: Int {
    var sum = 0
    for index in 0..<count { unsafe sum &+= start[index].byteCount }
    return sum
  }

  /// Runs `body` with the list as C's `struct iovec`.
  @inlinable
  public func withVectors<R>(_ body: (UnsafePointer<iovec>, Int) -> R) -> R {
    unsafe start.withMemoryRebound(to: iovec.self, capacity: count) { unsafe body($0, count) }
  }
}
