// SPDX-License-Identifier: MIT

import BlockIO
import CLinux
import Glibc
import GuestMemory

/// Several descriptors as one: readable while any of them is (an epoll instance).
struct WakeSet: ~Copyable {
  let descriptor: CInt

  init(_ members: [CInt]) throws(BlockError) {
    descriptor = epoll_create1(CInt(EPOLL_CLOEXEC))
    guard descriptor >= 0 else { throw .system(call: "epoll_create1", path: "", code: pv_errno()) }
    for member in members where member >= 0 {
      var event = unsafe epoll_event()
      unsafe event.events = EPOLLIN.rawValue
      guard unsafe epoll_ctl(descriptor, EPOLL_CTL_ADD, member, &event) == 0 else {
        let code = pv_errno()
        Glibc.close(descriptor)
        throw .system(call: "epoll_ctl", path: "", code: code)
      }
    }
  }

  deinit { Glibc.close(descriptor) }
}
