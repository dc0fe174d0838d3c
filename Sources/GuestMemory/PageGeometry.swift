// SPDX-License-Identifier: MIT

/// The sizes that every part of the machine agrees on: a page is 4096 bytes, a sector 512, whatever the host does.
public enum PageGeometry {
  /// Bytes in a page (Xen `XEN_PAGE_SIZE`).
  public static let pageSize = 4096
  /// log2 of ``pageSize``.
  public static let pageShift = 12
  /// Bytes in a sector: the unit of every sector number of the block protocol.
  public static let sectorSize = 512
  /// log2 of ``sectorSize``.
  public static let sectorShift = 9
  /// Sectors in a page.
  public static let sectorsPerPage = 8

  /// The number of pages that `byteCount` bytes fill, rounded up.
  @inlinable
  public static func pages(for byteCount: Int) -> Int { (byteCount + pageSize - 1) >> pageShift }
}
