// SPDX-License-Identifier: MIT

import CLinux
import Glibc

/// A memfd: memory that can be mapped more than once, at different addresses and with different rights.
public final class MemoryFile: Sendable {
  /// The descriptor of the memfd; closed when this object goes.
  public let descriptor: CInt
  /// The file's length in bytes, a whole number of pages.
  public let byteCount: Int

  /// Makes a sparse memfd; pages come into being when they are first written.
  /// - Throws: ``SystemError`` when the kernel refuses.
  public init(name: String, byteCount: Int) throws(SystemError) {
    let descriptor = unsafe pv_memfd_create(name, UInt32(pv_mfd_cloexec))
    guard descriptor >= 0 else { throw SystemError("memfd_create") }
    self.descriptor = descriptor
    self.byteCount = PageGeometry.pages(for: byteCount) << PageGeometry.pageShift
    guard ftruncate(descriptor, self.byteCount) == 0 else {
      throw SystemError("ftruncate")
    }
  }

  /// Opens a file by its path, or makes it, for its owner alone: memory that outlives the process.
  ///
  /// A file that is shorter is made longer; what it holds stays.
  /// - Throws: ``SystemError`` when the system refuses, also for a symbolic link.
  public init(path: String, byteCount: Int) throws(SystemError) {
    descriptor = unsafe pv_open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0o600)
    self.byteCount = PageGeometry.pages(for: byteCount) << PageGeometry.pageShift
    guard descriptor >= 0 else { throw SystemError("open") }
    var status = stat()
    // SAFETY: the kernel fills the local structure.
    guard unsafe fstat(descriptor, &status) == 0 else { throw SystemError("fstat") }
    guard status.st_size >= self.byteCount || ftruncate(descriptor, self.byteCount) == 0 else {
      throw SystemError("ftruncate")
    }
  }

  deinit { close(descriptor) }

  /// Maps the whole file, readable and writable.
  public func map() throws(SystemError) -> MappedMemory {
    try MappedMemory(file: self, offset: 0, byteCount: byteCount, writable: true)
  }
}

/// A mapping that is undone when its owner lets it go.
@safe public struct MappedMemory: ~Copyable, @unchecked Sendable {
  // SAFETY: the pages at `base` stay mapped until deinit; `region` hands out bounded views only.
  let base: UnsafeMutableRawPointer
  /// The mapping's length in bytes.
  public let byteCount: Int

  /// Maps a part of a memfd.
  public init(file: MemoryFile, offset: Int, byteCount: Int, writable: Bool) throws(SystemError) {
    let protection = writable ? PROT_READ | PROT_WRITE : PROT_READ
    let address = unsafe mmap(nil, byteCount, protection, MAP_SHARED, file.descriptor, offset)
    guard let address = unsafe address, unsafe address != MAP_FAILED else { throw SystemError("mmap") }
    unsafe base = address
    self.byteCount = byteCount
  }

  /// Maps private, zeroed memory that no file backs.
  public init(anonymousByteCount byteCount: Int) throws(SystemError) {
    let address = unsafe mmap(
      nil, byteCount, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    guard let address = unsafe address, unsafe address != MAP_FAILED else { throw SystemError("mmap") }
    unsafe base = address
    self.byteCount = byteCount
  }

  /// Reserves address space that holds nothing: every access faults until something is mapped over it.
  public init(reservingByteCount byteCount: Int) throws(SystemError) {
    let address = unsafe mmap(nil, byteCount, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    guard let address = unsafe address, unsafe address != MAP_FAILED else { throw SystemError("mmap") }
    unsafe base = address
    self.byteCount = byteCount
  }

  deinit { unsafe munmap(base, byteCount) }

  /// The whole mapping as a region.
  public var region: SharedRegion { unsafe SharedRegion(unsafeBase: base, byteCount: byteCount) }

  /// Maps pages of a memfd over a part of this (reserved) range.
  public func place(
    _ file: MemoryFile, fileOffset: Int, at offset: Int, byteCount count: Int, writable: Bool
  ) throws(SystemError) {
    precondition(offset >= 0 && count > 0 && offset <= byteCount - count, "outside the reserved range")
    let protection = writable ? PROT_READ | PROT_WRITE : PROT_READ
    let address = unsafe mmap(
      base + offset, count, protection, MAP_SHARED | MAP_FIXED, file.descriptor, fileOffset)
    guard unsafe address != MAP_FAILED else { throw SystemError("mmap") }
  }

  /// Turns a part of this range back into nothing: accesses fault again.
  public func clear(at offset: Int, byteCount count: Int) throws(SystemError) {
    precondition(offset >= 0 && count > 0 && offset <= byteCount - count, "outside the reserved range")
    let address = unsafe mmap(
      base + offset, count, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0)
    guard unsafe address != MAP_FAILED else { throw SystemError("mmap") }
  }
}
