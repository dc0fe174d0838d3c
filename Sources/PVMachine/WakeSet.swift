// SPDX-License-Identifier: MIT

public import BlockIO
import CLinux
import Glibc
import GuestMemory

/// Several descriptors as one: readable while any of them is (an epoll instance).
public struct WakeSet: ~Copyable {
  /// The epoll instance.
  public let descriptor: CInt

  /// Watches all members that there are; -1 stands for none.
  public init(_ members: [CInt]) throws(BlockError) {
    descriptor = epoll_create1(CInt(EPOLL_CLOEXEC))
    guard descriptor >= 0 else { throw .system(call: "epoll_create1", path: "", code: pv_errno()) }
    for member in members where member >= 0 {
      guard Self.add(member, to: descriptor) else {
        let code = pv_errno()
        Glibc.close(descriptor)
        throw .system(call: "epoll_ctl", path: "", code: code)
      }
    }
  }

  /// Takes in one more; a closed one leaves by itself.
  func add(_ member: CInt) {
    guard member >= 0 else { return }
    let isAdded = Self.add(member, to: descriptor)
    precondition(isAdded, "no memory for one more descriptor to wait for")
  }

  private static func add(_ member: CInt, to set: CInt) -> Bool {
    var event = unsafe epoll_event()
    unsafe event.events = EPOLLIN.rawValue
    return unsafe epoll_ctl(set, EPOLL_CTL_ADD, member, &event) == 0
  }

  deinit { Glibc.close(descriptor) }
}
