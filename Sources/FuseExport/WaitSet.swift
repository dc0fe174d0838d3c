// SPDX-License-Identifier: MIT

import CLinux
import Glibc
import GuestMemory

/// A descriptor that is closed when its owner goes.
@usableFromInline
struct OwnedDescriptor: ~Copyable {
  @usableFromInline let number: CInt

  init(_ number: CInt) { self.number = number }

  // Inlinable, as in all values that a reactor owns: where a reactor ends is compiled in the client's module.
  @inlinable
  deinit { closeDescriptor(number) }
}

@usableFromInline
func closeDescriptor(_ number: CInt) { close(number) }

/// The one place where a reactor sleeps: an epoll set whose readiness comes back as ``WakeReason`` bits.
@usableFromInline
struct WaitSet: ~Copyable {
  @usableFromInline let descriptor: OwnedDescriptor

  /// Makes an empty set.
  init() throws(SystemError) {
    descriptor = OwnedDescriptor(epoll_create1(CInt(EPOLL_CLOEXEC)))
    guard descriptor.number >= 0 else { throw SystemError("epoll_create1") }
  }

  /// Adds a descriptor; -1 is left out.
  ///
  /// `exclusive` wakes only one of the sets that hold the same source.
  func add(_ other: CInt, exclusive: Bool = false, as reason: WakeReason) throws(SystemError) {
    guard other >= 0 else { return }
    let bit = CInt(reason.rawValue.trailingZeroBitCount)
    guard pv_epoll_add(descriptor.number, other, exclusive, bit) == 0 else { throw SystemError("epoll_ctl") }
  }

  /// Sleeps; empty after a signal.
  func wait() -> WakeReason {
    let bits = pv_epoll_wait_bits(descriptor.number, -1)
    precondition(bits >= 0, "a reactor cannot wait")
    return WakeReason(rawValue: bits)
  }
}
