// SPDX-License-Identifier: MIT

import CLinux
import Glibc

/// A thread for the other end of something.
@safe public final class PeerThread: Sendable {
  // SAFETY: the handle is written once by `pthread_create` and read by `join`.
  private let thread: pthread_t

  /// Starts a thread.
  public init(_ body: @escaping @Sendable () -> Void) {
    var handle = pthread_t()
    let context = unsafe Unmanaged.passRetained(ThreadBody(body)).toOpaque()
    let code = unsafe pv_start_thread(
      &handle,
      { pointer in
        guard let pointer = unsafe pointer else { return nil }
        unsafe Unmanaged<ThreadBody>.fromOpaque(pointer).takeRetainedValue().run()
        return nil
      }, context)
    precondition(code == 0, "no thread: \(code)")
    thread = handle
  }

  /// Waits for the thread's end; call it once.
  public func join() { pthread_join(thread, nil) }
}

private final class ThreadBody: Sendable {
  let run: @Sendable () -> Void
  init(_ run: @escaping @Sendable () -> Void) { self.run = run }
}
