// SPDX-License-Identifier: MIT

import CLinux
import Glibc

/// A system call that failed.
struct CallFailure: Error, CustomStringConvertible {
  var call: String
  var code: CInt
  var description: String { unsafe "\(call): \(String(cString: strerror(code)))" }
}

/// An open file with the calls that the tests make; offsets and counts are in bytes.
final class OpenDisk: Sendable {
  let descriptor: CInt

  init(_ path: String, flags: CInt = O_RDWR) throws {
    descriptor = unsafe open(path, flags | O_CLOEXEC)
    guard descriptor >= 0 else { throw CallFailure(call: "open \(path)", code: errno) }
  }

  deinit { close(descriptor) }

  func read(_ count: Int, at offset: Int) throws -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: count)
    let done = unsafe bytes.withUnsafeMutableBytes { unsafe pread(descriptor, $0.baseAddress, count, offset) }
    guard done >= 0 else { throw CallFailure(call: "pread", code: errno) }
    bytes.removeLast(count - done)
    return bytes
  }

  func write(_ bytes: [UInt8], at offset: Int) throws {
    let done = unsafe bytes.withUnsafeBytes { unsafe pwrite(descriptor, $0.baseAddress, $0.count, offset) }
    guard done >= 0 else { throw CallFailure(call: "pwrite", code: errno) }
    guard done == bytes.count else { throw CallFailure(call: "short pwrite", code: ENOSPC) }
  }

  func sync() throws {
    guard fsync(descriptor) == 0 else { throw CallFailure(call: "fsync", code: errno) }
  }

  /// Frees a range (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE) or zeroes it (FALLOC_FL_ZERO_RANGE).
  func clear(_ offset: Int, _ count: Int, freeing: Bool) throws {
    let mode = freeing ? pv_falloc_punch_hole | pv_falloc_keep_size : pv_falloc_zero_range
    guard pv_fallocate(descriptor, mode, Int64(offset), Int64(count)) == 0 else {
      throw CallFailure(call: "fallocate", code: errno)
    }
  }
}

/// Repeatable random numbers (SplitMix64).
struct Chance: RandomNumberGenerator {
  private var state: UInt64
  init(_ seed: UInt64) { state = seed }

  mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var z = state
    z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
    return z ^ (z >> 31)
  }

  /// Bytes that differ from place to place; they repeat, with a period that no sector size divides.
  mutating func bytes(_ count: Int) -> [UInt8] {
    let period = 65_521
    let words = (0..<(min(count, period) + 7) / 8).map { _ in next() }
    return unsafe [UInt8](unsafeUninitializedCapacity: count) { buffer, used in
      guard let start = buffer.baseAddress else { return }
      // SAFETY: every piece ends within the buffer, and is no longer than the words.
      for offset in stride(from: 0, to: count, by: period) {
        unsafe memcpy(start + offset, words, min(period, count - offset))
      }
      used = count
    }
  }
}

extension [UInt8] {
  /// Makes a run of bytes zero; quick in debug builds too.
  mutating func clear(_ range: Range<Int>) {
    precondition(range.lowerBound >= 0 && range.upperBound <= count)
    guard !range.isEmpty else { return }
    // SAFETY: the run lies within the array, by the check above.
    unsafe withUnsafeMutableBytes { bytes in
      guard let base = bytes.baseAddress else { return }
      unsafe memset(base + range.lowerBound, 0, range.count)
    }
  }

  /// Whether a run of bytes holds one value alone; quick in debug builds too.
  func isUniform(from start: Int, count: Int) -> Bool {
    precondition(start >= 0 && count > 0 && start + count <= self.count)
    // SAFETY: both runs lie within the array, by the check above.
    return unsafe withUnsafeBytes { bytes in
      guard let base = bytes.baseAddress else { return false }
      return unsafe memcmp(base + start, base + start + 1, count - 1) == 0
    }
  }
}
