// SPDX-License-Identifier: MIT

import CFuzzKernel
import GuestMemory

/// What a harness does to its own memory for every input, where a sanitizer would watch each byte in vain.
extension SharedRegion {
  /// Whether every byte of a part is this one.
  func isFilled(_ byte: UInt8, at offset: Int, byteCount count: Int = 4096) -> Bool {
    pv_fuzz_all_are(slice(at: offset, byteCount: count).address, count, byte)
  }

  /// Whether any byte is this one.
  func holds(_ byte: UInt8) -> Bool { pv_fuzz_any_is(address, byteCount, byte) }

  /// Makes every byte of a part this one.
  func wipe(_ byte: UInt8, at offset: Int = 0, byteCount count: Int? = nil) {
    let part = slice(at: offset, byteCount: count ?? byteCount - offset)
    pv_fuzz_fill(part.address, part.byteCount, byte)
  }
}
