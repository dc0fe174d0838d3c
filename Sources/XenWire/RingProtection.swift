// SPDX-License-Identifier: MIT

/// How requests carry protection information (DIF/DIX) between the two ends; the raw value is the node's.
///
/// `sector`: a tuple of eight bytes for each 512 bytes of data, in sectors of their own behind the data. A request's last
/// segments name them; how many they are follows from the sum of all segments' sectors:
///
/// ```
/// data sectors S | tuple sectors ceil(S / 64)      one sector of 64 tuples for each 64 sectors of data, or part of them
/// ```
///
/// `slot`: one tuple for the whole request, in eight bytes of its slot, and of the response's slot after a read.
public enum RingProtection: UInt32, Sendable, CaseIterable {
  /// None.
  case off = 0
  /// Eight bytes in the slot, over all of a request's data.
  case slot = 1
  /// Eight bytes for each sector, in pages of their own.
  case sector = 2

  /// Tuples that one sector holds.
  @inlinable public static var tuplesPerSector: UInt64 { 64 }

  /// Sectors that the tuples of `sectors` data sectors fill.
  @inlinable
  public static func tupleSectors(for sectors: UInt64) -> UInt64 { (sectors &+ tuplesPerSector &- 1) / tuplesPerSector }

  /// The data sectors of a request whose segments have `total` sectors in all; nil when no data fits that sum.
  @inlinable
  public static func dataSectors(of total: UInt64) -> UInt64? {
    let (groups, rest) = total.quotientAndRemainder(dividingBy: tuplesPerSector &+ 1)
    if rest == 0 { return groups > 0 ? groups &* tuplesPerSector : nil }
    return rest > 1 ? groups &* tuplesPerSector &+ rest &- 1 : nil
  }

  /// The most data segments of a request of at most `limit` segments, whatever their lengths.
  @inlinable
  public func dataSegments(of limit: Int) -> Int {
    guard self == .sector else { return limit }
    // A page of tuples, one segment, is enough for 64 pages of data.
    return limit &- (limit &+ 64) / 65
  }
}
