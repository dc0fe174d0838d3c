// SPDX-License-Identifier: MIT

public import BlockIO
import CLinux
import Glibc

extension RawImage {
  /// Gives the image file another length; the disk has it once ``refreshGeometry()`` has looked.
  /// - Parameter allowsShrinking: without it a smaller size is refused, since what lies behind it would be lost.
  /// - Throws: ``BlockError`` for a block device, a read-only image, a size that is no whole number of sectors, and what
  ///   the system refuses.
  public func resize(to byteCount: UInt64, allowsShrinking: Bool = false) throws(BlockError) {
    guard !file.isBlockDevice else {
      throw .unsupported("\(path) is a block device; change its size where it was made, then resize without SIZE")
    }
    guard !file.isReadOnly else {
      throw .unsupported("\(path) is open for reading alone; mount it writable to resize it")
    }
    guard byteCount > 0, byteCount % UInt64(file.logicalSectorSize) == 0, byteCount <= UInt64(Int64.max) else {
      throw .unsupported(
        "a disk is a whole number of \(file.logicalSectorSize)-byte sectors; \(byteCount) bytes are not")
    }
    guard allowsShrinking || byteCount >= geometry.byteCount else {
      throw .unsupported(
        "\(path) has \(geometry.byteCount) bytes, and what lies behind byte \(byteCount) would be lost; "
          + "add --shrink if it may be")
    }
    let code = ImageSystemCalls.resize(file.descriptor, to: Int(byteCount))
    if code != 0 { throw .system(call: "ftruncate", path: path, code: code) }
  }
}
