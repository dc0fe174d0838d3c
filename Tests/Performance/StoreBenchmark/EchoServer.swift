// SPDX-License-Identifier: MIT

import CLinux
import Glibc
import Synchronization

/// The yardstick: a thread that sends back whatever comes through its sockets, and does nothing else.
final class EchoServer: Sendable {
  /// The clients' ends.
  let descriptors: [CInt]
  private let isDone = Atomic(false)

  init(clients: Int) {
    let poll = epoll_create1(0)
    var near: [CInt] = []
    for index in 0..<clients {
      var ends: [CInt] = [0, 0]
      // SAFETY: the array has the two elements that the call fills.
      let status = unsafe socketpair(AF_UNIX, CInt(SOCK_STREAM.rawValue), 0, &ends)
      precondition(status == 0, "socketpair failed")
      near.append(ends[0])
      _ = pv_epoll_control(poll, EPOLL_CTL_ADD, ends[1], EPOLLIN.rawValue, UInt64(ends[1]))
      precondition(index < 64, "one epoll_wait takes all")
    }
    descriptors = near
    startThread { self.run(poll) }
  }

  private func run(_ poll: CInt) {
    var ready = [pv_ready](repeating: pv_ready(), count: 64)
    var buffer = [UInt8](repeating: 0, count: 16_384)
    var open = descriptors.count
    while open > 0 {
      // SAFETY: addresses and counts are those of the arrays.
      let count = unsafe ready.withUnsafeMutableBufferPointer {
        unsafe pv_epoll_wait(poll, $0.baseAddress, CInt($0.count), -1)
      }
      for event in ready.prefix(Int(max(count, 0))) {
        let descriptor = CInt(event.token)
        unsafe buffer.withUnsafeMutableBytes { bytes in
          let count = unsafe read(descriptor, bytes.baseAddress, bytes.count)
          if count > 0 {
            _ = unsafe send(descriptor, bytes.baseAddress, count, CInt(MSG_NOSIGNAL))
          } else {
            close(descriptor)
            open -= 1
          }
        }
      }
    }
    close(poll)
    isDone.store(true, ordering: .releasing)
  }

  /// Closes the clients' ends and waits for the thread.
  func stop() {
    for descriptor in descriptors { close(descriptor) }
    while !isDone.load(ordering: .acquiring) { usleep(1000) }
  }
}

/// Starts a thread that nobody waits for.
func startThread(_ body: @escaping @Sendable () -> Void) {
  final class Entry {
    let body: @Sendable () -> Void
    init(_ body: @escaping @Sendable () -> Void) { self.body = body }
  }
  var identifier = pthread_t()
  let entry = unsafe Unmanaged.passRetained(Entry(body))
  // SAFETY: the entry was retained for the new thread, which takes it over.
  _ = unsafe pthread_create(
    &identifier, nil,
    { argument in
      if let argument = unsafe argument { unsafe Unmanaged<Entry>.fromOpaque(argument).takeRetainedValue().body() }
      return nil
    }, entry.toOpaque())
  pthread_detach(identifier)
}
