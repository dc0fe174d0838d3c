// SPDX-License-Identifier: MIT

import CLinux
import Glibc

/// A thread with a name, a body and every signal blocked; whoever starts it joins it.
@usableFromInline
struct ReactorThread: Sendable {
  private let handle: pthread_t

  private final class Body {
    let name: String
    let cpu: Int?
    let run: @Sendable () -> Void

    init(name: String, cpu: Int?, run: @escaping @Sendable () -> Void) {
      self.name = name
      self.cpu = cpu
      self.run = run
    }
  }

  /// Starts a thread, on one CPU if one is named.
  @usableFromInline
  init(name: String, cpu: Int?, _ run: @escaping @Sendable () -> Void) throws(FuseError) {
    var handle = pthread_t()
    // SAFETY: the thread takes over the retained body, and releases it when it ends.
    let body = unsafe Unmanaged.passRetained(Body(name: name, cpu: cpu, run: run))
    let result = unsafe pv_start_thread(
      &handle,
      { context in
        guard let context = unsafe context else { return nil }
        let body = unsafe Unmanaged<Body>.fromOpaque(context).takeRetainedValue()
        unsafe pv_name_thread(body.name)
        if let cpu = body.cpu { _ = pv_pin_thread(CInt(cpu)) }
        body.run()
        return nil
      }, body.toOpaque())
    guard result == 0 else {
      unsafe body.release()
      throw .system(call: "pthread_create", code: result)
    }
    self.handle = handle
  }

  /// Waits for the thread's end.
  @usableFromInline
  func join() { _ = pthread_join(handle, nil) }
}
