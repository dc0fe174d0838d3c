// SPDX-License-Identifier: MIT

import CLinux
import Glibc

/// A thread that somebody joins.
struct LabThread: Sendable {
  private let handle: pthread_t

  private final class Body: Sendable {
    let cpu: Int
    let run: @Sendable () -> Void
    init(cpu: Int, run: @escaping @Sendable () -> Void) {
      self.cpu = cpu
      self.run = run
    }
  }

  /// Starts a thread on a CPU; where there are fewer, they are gone round.
  init(cpu: Int, _ run: @escaping @Sendable () -> Void) {
    var handle = pthread_t()
    let body = unsafe Unmanaged.passRetained(Body(cpu: cpu, run: run))
    // SAFETY: the thread takes over the one reference that `passRetained` made.
    let code = unsafe pv_start_thread(
      &handle,
      { context in
        guard let context = unsafe context else { return nil }
        let body = unsafe Unmanaged<Body>.fromOpaque(context).takeRetainedValue()
        _ = pv_pin_thread(CInt(body.cpu) % max(pv_cpu_count(), 1))
        body.run()
        return nil
      }, body.toOpaque())
    precondition(code == 0, "the system has no thread left")
    self.handle = handle
  }

  /// Waits for the thread's end.
  func join() { _ = pthread_join(handle, nil) }
}
