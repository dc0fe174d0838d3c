// SPDX-License-Identifier: MIT

public import CLinux

/// Computes the guard tags of protection information: CRC-16/T10-DIF, or the Internet checksum.
///
/// CRC-16/T10-DIF (SBC-3): polynomial 0x8BB7, most significant bit first, from 0, no final exclusive-or. It is linear, so
/// eight bytes are looked up at once in eight tables ("slicing"), and where the CPU multiplies without carries whole lines are
/// folded first.
@safe public struct GuardTables: @unchecked Sendable {
  // SAFETY: addresses 8 * 256 entries that are filled before anybody sees them, never change and are never freed.
  @usableFromInline let table: UnsafePointer<UInt16>
  /// Whether long runs are folded by carry-less multiplication.
  public let multiplies: Bool

  /// The polynomial without its x^16.
  public static let polynomial: UInt16 = 0x8BB7

  /// The tables of this process; made at the first use, which is the control plane's.
  private static let shared = unsafe Shared(table: makeTable())

  @safe private struct Shared: @unchecked Sendable {
    // SAFETY: as `table`.
    let table: UnsafePointer<UInt16>
  }

  /// Takes the tables.
  /// - Parameter multiplies: false for the tables alone, on any CPU.
  public init(multiplies: Bool = true) {
    unsafe table = GuardTables.shared.table
    self.multiplies = multiplies && pv_has_carryless_multiply()
  }

  /// Table `k` holds the CRC of each byte followed by `k` zero bytes.
  private static func makeTable() -> UnsafePointer<UInt16> {
    let table = UnsafeMutablePointer<UInt16>.allocate(capacity: 8 * 256)
    for byte in 0..<256 {
      var crc = UInt16(byte) << 8
      for _ in 0..<8 { crc = crc & 0x8000 != 0 ? crc << 1 ^ polynomial : crc << 1 }
      unsafe (table + byte).initialize(to: crc)
    }
    for slice in 1..<8 {
      for byte in 0..<256 {
        let before = unsafe table[(slice - 1) * 256 + byte]
        unsafe (table + (slice * 256 + byte)).initialize(to: before << 8 ^ table[Int(before >> 8)])
      }
    }
    return unsafe UnsafePointer(table)
  }

  /// The CRC of bytes, going on from the CRC of what came before them.
  @inlinable
  public func crc(of bytes: UnsafeRawBufferPointer, after seed: UInt16 = 0) -> UInt16 {
    guard let base = bytes.baseAddress else { return seed }
    guard multiplies, bytes.count >= 128 else { return unsafe sliced(base, bytes.count, after: seed) }
    var rest = (UInt64(0), UInt64(0))
    // SAFETY: `rest` is 16 bytes; `used` is at most `bytes.count`.
    return unsafe withUnsafeMutableBytes(of: &rest) { rest in
      guard let folded = rest.baseAddress else { return seed }
      let used = unsafe pv_crc16_fold(seed, base, bytes.count, folded.assumingMemoryBound(to: UInt8.self))
      let crc = unsafe sliced(UnsafeRawPointer(folded), 16, after: 0)
      return unsafe sliced(base + used, bytes.count - used, after: crc)
    }
  }

  /// Eight bytes at a time by tables.
  @inlinable
  func sliced(_ start: UnsafeRawPointer, _ count: Int, after seed: UInt16) -> UInt16 {
    var crc = seed
    var place = unsafe start
    var left = count
    while left >= 8 {
      let word = unsafe UInt64(bigEndian: place.loadUnaligned(as: UInt64.self)) ^ UInt64(crc) << 48
      crc = unsafe table[7 &* 256 &+ Int(truncatingIfNeeded: word >> 56)]
      unsafe crc ^= table[6 &* 256 &+ Int(truncatingIfNeeded: word >> 48 & 0xFF)]
      unsafe crc ^= table[5 &* 256 &+ Int(truncatingIfNeeded: word >> 40 & 0xFF)]
      unsafe crc ^= table[4 &* 256 &+ Int(truncatingIfNeeded: word >> 32 & 0xFF)]
      unsafe crc ^= table[3 &* 256 &+ Int(truncatingIfNeeded: word >> 24 & 0xFF)]
      unsafe crc ^= table[2 &* 256 &+ Int(truncatingIfNeeded: word >> 16 & 0xFF)]
      unsafe crc ^= table[256 &+ Int(truncatingIfNeeded: word >> 8 & 0xFF)]
      unsafe crc ^= table[Int(truncatingIfNeeded: word & 0xFF)]
      unsafe place += 8
      left &-= 8
    }
    while left > 0 {
      let byte = unsafe place.load(as: UInt8.self)
      unsafe crc = crc << 8 ^ table[Int(crc >> 8 ^ UInt16(byte))]
      unsafe place += 1
      left &-= 1
    }
    return crc
  }

  /// Adds bytes to an Internet checksum's sum; all runs but the last have an even length.
  ///
  /// One's complement sums do not mind the byte order: it is set right at the end (RFC 1071).
  @inlinable
  public func sum(of bytes: UnsafeRawBufferPointer, after seed: UInt64 = 0) -> UInt64 {
    var sum = seed
    var place = 0
    while place &+ 4 <= bytes.count {
      sum &+= UInt64(unsafe bytes.loadUnaligned(fromByteOffset: place, as: UInt32.self))
      place &+= 4
    }
    while place < bytes.count {
      let low = UInt64(unsafe bytes[place])
      let high = place &+ 1 < bytes.count ? UInt64(unsafe bytes[place &+ 1]) << 8 : 0
      sum &+= low | high
      place &+= 2
    }
    return sum
  }

  /// The Internet checksum of a sum: folded, complemented, in the order of the wire.
  @inlinable
  public func checksum(ofSum sum: UInt64) -> UInt16 {
    var folded = (sum & 0xFFFF_FFFF) &+ sum >> 32
    folded = (folded & 0xFFFF) &+ (folded >> 16)
    folded = (folded & 0xFFFF) &+ (folded >> 16)
    folded = (folded & 0xFFFF) &+ (folded >> 16)
    return ~UInt16(truncatingIfNeeded: folded).bigEndian
  }
}
