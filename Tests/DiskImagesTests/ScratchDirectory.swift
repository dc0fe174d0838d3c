// SPDX-License-Identifier: MIT

import BlockIO
import Glibc
import GuestMemory
import PVTestSupport

@testable import DiskImages

/// A directory on a real file system that goes with this object, and what tests do with files in it.
final class ScratchDirectory {
  let path: String

  /// Makes a directory under `/var/tmp`, which is seldom in memory, or under `/dev/shm`, which always is.
  init(inMemory: Bool = false) throws {
    var template = Array("\(inMemory ? "/dev/shm" : "/var/tmp")/pvdisk-test-XXXXXX".utf8CString)
    guard unsafe mkdtemp(&template) != nil else { throw SystemError("mkdtemp") }
    path = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }

  deinit {
    if let directory = unsafe opendir(path) {
      while let entry = unsafe readdir(directory) {
        // SAFETY: the kernel ends `d_name` with a zero byte within the entry.
        unsafe withUnsafePointer(to: &entry.pointee.d_name) { pointer in
          unsafe pointer.withMemoryRebound(to: CChar.self, capacity: 256) { name in
            _ = unsafe unlinkat(dirfd(directory), name, 0)
          }
        }
      }
      unsafe closedir(directory)
    }
    _ = unsafe rmdir(path)
  }

  /// The path of a name in the directory.
  func file(_ name: String = "disk.img") -> String { "\(path)/\(name)" }

  /// Makes a file with contents.
  func write(_ bytes: [UInt8], to name: String = "disk.img") throws {
    let descriptor = unsafe open(file(name), O_RDWR | O_CREAT | O_TRUNC, 0o644)
    guard descriptor >= 0 else { throw SystemError("open") }
    defer { close(descriptor) }
    guard unsafe Glibc.write(descriptor, bytes, bytes.count) == bytes.count else { throw SystemError("write") }
  }

  /// The whole contents of a file.
  func read(_ name: String = "disk.img") throws -> [UInt8] {
    let descriptor = unsafe open(file(name), O_RDONLY)
    guard descriptor >= 0 else { throw SystemError("open") }
    defer { close(descriptor) }
    var bytes = [UInt8](repeating: 0, count: Int(lseek(descriptor, 0, SEEK_END)))
    let count = unsafe bytes.withUnsafeMutableBytes { unsafe pread(descriptor, $0.baseAddress, $0.count, 0) }
    guard count == bytes.count else { throw SystemError("pread") }
    return bytes
  }

  /// Writes a file's pages out and drops them from the page cache.
  func evict(_ name: String = "disk.img") {
    let descriptor = unsafe open(file(name), O_RDONLY)
    fdatasync(descriptor)
    posix_fadvise(descriptor, 0, 0, POSIX_FADV_DONTNEED)
    close(descriptor)
  }

  /// Bytes of storage that a file takes.
  func allocatedByteCount(_ name: String = "disk.img") -> Int {
    var status = stat()
    _ = unsafe stat(file(name), &status)
    return status.st_blocks * 512
  }
}

extension RawImage {
  /// Queue 0, driven.
  func driver(_ index: Int = 0) throws(BlockError) -> QueueDriver<RawImageQueue> {
    QueueDriver(try makeQueue(index, buffers: BufferDemand(count: 0, byteCount: 0)))
  }
}

extension ProcText {
  /// The reads that the calling thread has asked the kernel for (`syscr` of /proc/thread-self/io).
  static var readCallsOfThread: Int {
    let lines = (read("/proc/thread-self/io") ?? "").split(separator: "\n")
    return lines.compactMap { $0.hasPrefix("syscr: ") ? Int($0.dropFirst(7)) : nil }.first ?? -1
  }
}
