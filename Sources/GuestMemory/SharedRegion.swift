// SPDX-License-Identifier: MIT

public import CLinux
public import Synchronization

/// A window of memory that a peer may read and write at any moment.
///
/// Nothing in it is ever trusted in place: values are loaded once into private memory and judged there. All integers are
/// little-endian, as the machine is. Every access is checked against the window's length, in release builds too.
///
/// **Assumptions.** The mapping outlives every region made from it; whoever maps is who unmaps, after the last use.
@safe public struct SharedRegion: @unchecked Sendable {
  // SAFETY: `base` addresses `byteCount` mapped bytes for as long as the owner of the mapping keeps it; accesses are bounds-checked.
  @usableFromInline let base: UnsafeMutableRawPointer

  /// The window's length in bytes.
  public let byteCount: Int

  /// Makes a window from raw memory; the caller vouches for the mapping's length and lifetime.
  @inlinable
  public init(unsafeBase base: UnsafeMutableRawPointer, byteCount: Int) {
    unsafe self.base = base
    self.byteCount = byteCount
  }

  /// The address of the window's first byte.
  @inlinable
  public var address: UInt { UInt(bitPattern: unsafe base) }

  /// A part of the window.
  @inlinable
  public func slice(at offset: Int, byteCount count: Int) -> SharedRegion {
    check(offset, count)
    return unsafe SharedRegion(unsafeBase: base + offset, byteCount: count)
  }

  /// Loads an integer once; unaligned offsets are allowed.
  @inlinable
  public func load<T: FixedWidthInteger & BitwiseCopyable>(_ type: T.Type, at offset: Int) -> T {
    check(offset, MemoryLayout<T>.size)
    var value: T = 0
    unsafe withUnsafeMutablePointer(to: &value) {
      unsafe pv_copy_once($0, base + offset, MemoryLayout<T>.size)
    }
    return value
  }

  /// Stores an integer; unaligned offsets are allowed.
  @inlinable
  public func store<T: FixedWidthInteger & BitwiseCopyable>(_ value: T, at offset: Int) {
    check(offset, MemoryLayout<T>.size)
    unsafe (base + offset).storeBytes(of: value, as: T.self)
  }

  /// Copies bytes out, each fetched once.
  @inlinable
  public func copyOut(at offset: Int, into bytes: inout MutableRawSpan) {
    check(offset, bytes.byteCount)
    unsafe bytes.withUnsafeMutableBytes { buffer in
      guard let destination = buffer.baseAddress else { return }
      unsafe pv_copy_once(destination, base + offset, buffer.count)
    }
  }

  /// Copies bytes in.
  @inlinable
  public func copyIn(_ bytes: RawSpan, at offset: Int) {
    check(offset, bytes.byteCount)
    unsafe bytes.withUnsafeBytes { buffer in
      guard let source = buffer.baseAddress else { return }
      unsafe (base + offset).copyMemory(from: source, byteCount: buffer.count)
    }
  }

  /// Fills a part of the window with one byte.
  @inlinable
  public func fill(_ byte: UInt8, at offset: Int = 0, byteCount count: Int? = nil) {
    let count = count ?? byteCount - offset
    check(offset, count)
    unsafe (base + offset).initializeMemory(as: UInt8.self, repeating: byte, count: count)
  }

  /// The 32-bit word at an aligned offset, as an atomic.
  @inlinable
  public func word32(at offset: Int) -> SharedWord<UInt32> {
    check(offset, 4)
    return unsafe SharedWord(unsafeAddress: base + offset)
  }

  /// The 64-bit word at an aligned offset, as an atomic.
  @inlinable
  public func word64(at offset: Int) -> SharedWord<UInt64> {
    check(offset, 8)
    return unsafe SharedWord(unsafeAddress: base + offset)
  }

  /// The 16-bit word at an aligned offset, as an atomic.
  @inlinable
  public func word16(at offset: Int) -> SharedWord<UInt16> {
    check(offset, 2)
    return unsafe SharedWord(unsafeAddress: base + offset)
  }

  /// The byte at an offset, as an atomic.
  @inlinable
  public func word8(at offset: Int) -> SharedWord<UInt8> {
    check(offset, 1)
    return unsafe SharedWord(unsafeAddress: base + offset)
  }

  /// Runs `body` with the raw bytes; for the C edges (system calls) only.
  @inlinable
  public func withUnsafeBytes<R, E: Error>(
    _ body: (UnsafeMutableRawBufferPointer) throws(E) -> R
  ) throws(E) -> R {
    try unsafe body(UnsafeMutableRawBufferPointer(start: base, count: byteCount))
  }

  @inlinable @inline(__always)
  func check(_ offset: Int, _ count: Int) {
    precondition(offset >= 0 && count >= 0 && offset <= byteCount - count, "outside the shared region")
  }
}

/// One aligned word of shared memory, reached only by atomic operations.
@safe public struct SharedWord<Value: AtomicRepresentable & FixedWidthInteger>: @unchecked Sendable
where Value.AtomicRepresentation: BitwiseCopyable {
  // SAFETY: made by `SharedRegion` from a checked offset; alignment is checked here.
  @usableFromInline let pointer: UnsafeMutablePointer<Atomic<Value>>

  @inlinable
  init(unsafeAddress address: UnsafeMutableRawPointer) {
    let bits = UInt(bitPattern: address)
    precondition(bits & UInt(MemoryLayout<Value>.size - 1) == 0, "misaligned shared word")
    unsafe pointer = address.assumingMemoryBound(to: Atomic<Value>.self)
  }
}
