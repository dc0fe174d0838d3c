// SPDX-License-Identifier: MIT

public import CLinux
import Glibc
public import GuestMemory

/// Every system call that an image makes on its file outside the queue's ring, so that faults have one place to enter.
///
/// Data calls answer the number of bytes, or a negative `errno`.
@usableFromInline
enum ImageSystemCalls {
  /// `preadv2(2)`.
  @inlinable
  static func read(_ descriptor: CInt, _ memory: MemoryExtentList, offset: UInt64, flags: CInt) -> Int {
    // SAFETY: the submitter keeps the extents and the memory they name until the request completes.
    let count = unsafe memory.withVectors {
      unsafe pv_preadv2(descriptor, $0, CInt($1), Int64(bitPattern: offset), flags)
    }
    return count >= 0 ? count : -Int(pv_errno())
  }

  /// `pwritev2(2)`.
  @inlinable
  static func write(_ descriptor: CInt, _ memory: MemoryExtentList, offset: UInt64, flags: CInt) -> Int {
    // SAFETY: the submitter keeps the extents and the memory they name until the request completes.
    let count = unsafe memory.withVectors {
      unsafe pv_pwritev2(descriptor, $0, CInt($1), Int64(bitPattern: offset), flags)
    }
    return count >= 0 ? count : -Int(pv_errno())
  }

  /// Reads one byte if that needs no device: whether the page around it is in the page cache.
  static func isCached(_ descriptor: CInt, at offset: UInt64) -> Bool {
    var byte: UInt8 = 0
    return unsafe withUnsafeMutableBytes(of: &byte) { bytes in
      // SAFETY: the vector names the one byte of `byte`, which outlives the call.
      var vector = unsafe iovec(iov_base: bytes.baseAddress, iov_len: 1)
      return unsafe pv_preadv2(descriptor, &vector, 1, Int64(bitPattern: offset), pv_rwf_nowait) == 1
    }
  }

  /// `open(2)`: a descriptor, or a negative `errno`.
  static func open(_ path: String, flags: CInt, mode: UInt32 = 0) -> CInt {
    while true {
      let descriptor = unsafe pv_open(path, flags | O_CLOEXEC, mode)
      if descriptor >= 0 { return descriptor }
      if pv_errno() != EINTR { return -pv_errno() }
    }
  }

  /// `fdatasync(2)`: 0, or a positive `errno`.
  static func dataSync(_ descriptor: CInt) -> CInt {
    while Glibc.fdatasync(descriptor) != 0 {
      if pv_errno() != EINTR { return pv_errno() }
    }
    return 0
  }

  /// `fsync(2)`: 0, or a positive `errno`.
  static func sync(_ descriptor: CInt) -> CInt {
    while Glibc.fsync(descriptor) != 0 {
      if pv_errno() != EINTR { return pv_errno() }
    }
    return 0
  }

  /// `ftruncate(2)`: 0, or a positive `errno`.
  static func resize(_ descriptor: CInt, to byteCount: Int) -> CInt {
    while ftruncate(descriptor, byteCount) != 0 {
      if pv_errno() != EINTR { return pv_errno() }
    }
    return 0
  }

  /// `lseek(2)`: an offset, or a negative `errno`.
  static func seek(_ descriptor: CInt, offset: UInt64, whence: CInt) -> Int64 {
    let found = pv_lseek(descriptor, Int64(bitPattern: offset), whence)
    return found >= 0 ? found : -Int64(pv_errno())
  }

  /// The length in bytes of an open regular file or block device, or a positive `errno`.
  static func byteCount(_ descriptor: CInt, isBlockDevice: Bool) -> Result<UInt64, Errno> {
    if isBlockDevice {
      var count: UInt64 = 0
      return unsafe pv_ioctl_u64(descriptor, pv_blkgetsize64, &count) == 0 ? .success(count) : .failure(.current)
    }
    var status = stat()
    return unsafe fstat(descriptor, &status) == 0 ? .success(UInt64(status.st_size)) : .failure(.current)
  }

  /// A positive `errno` as an error.
  struct Errno: Error {
    var code: CInt
    static var current: Errno { Errno(code: pv_errno()) }
  }
}
