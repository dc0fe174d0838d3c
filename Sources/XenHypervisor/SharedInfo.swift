// SPDX-License-Identifier: MIT

/// Where the fields of a domain's shared-info page stand on x86_64 (Xen xen.h, `struct shared_info`).
///
/// ```
///   0          vcpu_info[32], 64 bytes each: upcall_pending u8 @0, upcall_mask u8 @1, pending_sel u64 @8
///   2048       evtchn_pending: 64 words of 64 bits, one bit a port
///   2560       evtchn_mask:    64 words of 64 bits, one bit a port
///   3072       wall clock
///   4096       vcpu_info[32...255]: in pages of their own, as a guest registers them (`VCPUOP_register_vcpu_info`)
/// ```
public enum SharedInfo {
  /// The most virtual CPUs that the page has room for (`XEN_LEGACY_MAX_VCPUS`).
  public static let virtualCPUCount = 32
  /// The most virtual CPUs of a domain: those with room in the page, and those whose `vcpu_info` stands behind it.
  public static let virtualCPULimit = 256
  /// Bytes of one `struct vcpu_info`.
  public static let virtualCPUByteCount = 64
  /// The offset, in a `vcpu_info`, of the byte that says that something is pending.
  public static let upcallPendingOffset = 0
  /// The offset, in a `vcpu_info`, of the byte by which a guest holds upcalls off; nothing here looks at it.
  public static let upcallMaskOffset = 1
  /// The offset, in a `vcpu_info`, of the selector: one bit for each word of pending ports.
  public static let pendingSelectorOffset = 8
  /// The offset of the pending bits.
  public static let pendingOffset = 2048
  /// The offset of the mask bits.
  public static let maskOffset = 2560
  /// The ports that the two-level interface has: 64 words of 64 bits.
  public static let portCount = 4096

  /// Bytes of the page and of the `vcpu_info`s behind it, whole pages.
  static let byteCount = (virtualCPUOffset(virtualCPULimit) + 4095) & ~4095

  /// Where a virtual CPU's `vcpu_info` stands: the page's first half, then, over the rest of the page, behind it.
  @inlinable
  static func virtualCPUOffset(_ virtualCPU: Int) -> Int {
    virtualCPU &* virtualCPUByteCount &+ (virtualCPU >= virtualCPUCount ? 4096 - pendingOffset : 0)
  }
}
