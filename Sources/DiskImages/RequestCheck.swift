// SPDX-License-Identifier: MIT

public import BlockIO
public import Glibc
public import GuestMemory

/// What is wrong with a request before anything is done: a queue's last line against reaching outside its disk.
@usableFromInline
enum RequestCheck {
  /// `EIO`, as Linux answers for access beyond a device's end.
  @inlinable static var outsideDisk: CInt { EIO }

  /// 0, or the positive `errno` to refuse the request with.
  ///
  /// `alignmentMask` is the logical sector size in 512-byte sectors, less one.
  @inlinable
  static func errorCode(
    _ request: IORequest, sectorCount: UInt64, alignmentMask: UInt64, isReadOnly: Bool
  ) -> CInt {
    if request.operation == .flush { return 0 }
    if isReadOnly && request.operation != .read { return EROFS }
    if !request.sectors.fits(in: sectorCount) { return outsideDisk }
    if (request.sectors.start | request.sectors.count) & alignmentMask != 0 { return EINVAL }
    if request.operation == .read || request.operation == .write {
      guard let memory = request.memory, UInt64(memory.byteCount) == request.sectors.byteCount else { return EINVAL }
    }
    return 0
  }
}
