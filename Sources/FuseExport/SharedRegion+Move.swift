// SPDX-License-Identifier: MIT

import Glibc
public import GuestMemory

extension SharedRegion {
  /// Copies bytes of another region, or of this one, which may overlap.
  @usableFromInline
  func move(from source: SharedRegion, at sourceOffset: Int, to offset: Int, byteCount: Int) {
    guard byteCount > 0 else { return }
    unsafe source.slice(at: sourceOffset, byteCount: byteCount).withUnsafeBytes { from in
      unsafe slice(at: offset, byteCount: byteCount).withUnsafeBytes { to in
        // SAFETY: both slices were checked and are as long as the move; neither is empty.
        if let from = from.baseAddress, let to = to.baseAddress { unsafe _ = memmove(to, from, byteCount) }
      }
    }
  }
}
