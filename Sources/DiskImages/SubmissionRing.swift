// SPDX-License-Identifier: MIT

import BlockIO
import CLinux
import CUring
import Glibc
import GuestMemory

/// The queue's io_uring, or what stands in for it: made by one thread, used by the first that prepares an entry, and by no other after it.
@safe struct SubmissionRing: ~Copyable, @unchecked Sendable {
  // SAFETY: `ring` is a live ring of CUring until deinit; descriptors and vectors are kept by the callers until the entry
  // that names them has finished.
  private let ring: OpaquePointer
  /// Becomes readable when results wait.
  let waitDescriptor: CInt
  private(set) var isEnabled = false

  /// Makes a ring for `entryCount` entries in flight, nearly all of them for `file`.
  init(entryCount: Int, file: CInt, engine: ImageOptions.Engine) throws(SystemError) {
    if engine == .automatic {
      if let ring = unsafe pv_ring_create(UInt32(entryCount), false) {
        _ = unsafe pv_ring_register_file(ring, file)
        unsafe self.init(ring)
        return
      }
      // io_uring_disabled and sandboxes answer EPERM, kernels without it ENOSYS; anything else is a shortage.
      let code = pv_errno()
      guard code == EPERM || code == EACCES || code == ENOSYS else { throw SystemError("io_uring_setup", code: code) }
    }
    guard let ring = unsafe pv_ring_create(UInt32(entryCount), true) else { throw SystemError("eventfd") }
    unsafe self.init(ring)
  }

  private init(_ ring: OpaquePointer) {
    unsafe self.ring = ring
    waitDescriptor = unsafe pv_ring_wait_descriptor(ring)
  }

  /// Waits for what the kernel still works on, then closes.
  @inlinable
  deinit { unsafe pv_ring_destroy(ring) }

  /// Whether entries are prepared, or the kernel wants to be entered to post results.
  var needsEnter: Bool { unsafe pv_ring_needs_enter(ring) }
  /// Whether a result can be taken.
  var hasResult: Bool { unsafe pv_ring_has_result(ring) }

  /// Hands what was prepared to the kernel and lets it post results; false when it had no room and must be asked again.
  func enter() -> Bool {
    let result = unsafe pv_ring_enter(ring)
    precondition(
      result == 0 || result == -EAGAIN || result == -EBUSY || result == -EINTR || result == -ENOMEM,
      "io_uring_enter failed: the queue was used by more than one thread")
    return result == 0
  }

  /// Takes a result: the number of its entry, and what the system call returned.
  func takeResult() -> (index: Int, value: Int32)? {
    var result = pv_ring_result()
    guard unsafe pv_ring_take(ring, &result, 1) == 1 else { return nil }
    return (Int(result.tag), result.value)
  }

  /// Makes the wait descriptor unreadable until the next result.
  func drainWaitDescriptor() { unsafe pv_ring_drain_wait_descriptor(ring) }

  /// Prepares a read.
  mutating func read(_ index: Int, _ file: CInt, _ window: VectorWindow, offset: UInt64, flags: CInt, punt: Bool) {
    enable()
    expectRoom(
      unsafe pv_ring_read(ring, UInt64(index), file, window.start, UInt32(window.count), offset, flags, punt))
  }

  /// Prepares a write.
  mutating func write(_ index: Int, _ file: CInt, _ window: VectorWindow, offset: UInt64, flags: CInt, punt: Bool) {
    enable()
    expectRoom(
      unsafe pv_ring_write(ring, UInt64(index), file, window.start, UInt32(window.count), offset, flags, punt))
  }

  /// Prepares an `fdatasync(2)`.
  mutating func dataSync(_ index: Int, _ file: CInt) {
    enable()
    expectRoom(unsafe pv_ring_datasync(ring, UInt64(index), file))
  }

  /// Prepares a `fallocate(2)`.
  mutating func allocate(_ index: Int, _ file: CInt, mode: CInt, offset: UInt64, byteCount: UInt64) {
    enable()
    expectRoom(unsafe pv_ring_allocate(ring, UInt64(index), file, mode, offset, byteCount))
  }

  /// Prepares a discard of a block device.
  mutating func blockDiscard(_ index: Int, _ file: CInt, offset: UInt64, byteCount: UInt64) {
    enable()
    expectRoom(unsafe pv_ring_block_discard(ring, UInt64(index), file, offset, byteCount))
  }

  private mutating func enable() {
    if isEnabled { return }
    isEnabled = true
    let result = unsafe pv_ring_enable(ring)
    precondition(result == 0, "a ring that was made can be enabled")
  }

  private func expectRoom(_ prepared: Bool) {
    precondition(prepared, "one entry for each slot, and none was free")
  }
}
