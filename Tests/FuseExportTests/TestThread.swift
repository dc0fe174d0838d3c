// SPDX-License-Identifier: MIT

import Glibc
import GuestMemory
import Synchronization

/// A thread of its own for code that blocks, with a result.
final class TestThread<Value: Sendable>: Sendable {
  private let thread: pthread_t
  private let result: ResultSlot<Value>

  init(_ body: @escaping @Sendable () throws -> Value) {
    let slot = ResultSlot<Value>()
    result = slot
    var handle = pthread_t()
    let context = unsafe Unmanaged.passRetained(ThreadBody { slot.set(Result { try body() }) })
    unsafe pthread_create(
      &handle, nil,
      { pointer in
        guard let pointer = unsafe pointer else { return nil }
        unsafe Unmanaged<ThreadBody>.fromOpaque(pointer).takeRetainedValue().run()
        return nil
      }, context.toOpaque())
    thread = handle
  }

  /// Waits for the thread; its result, or what it threw.
  ///
  /// Call it once.
  func value() throws -> Value {
    pthread_join(thread, nil)
    return try result.take()
  }
}

/// Where a thread leaves its result.
final class ResultSlot<Value: Sendable>: Sendable {
  private let outcome = Mutex<Result<Value, any Error>?>(nil)
  func set(_ result: Result<Value, any Error>) { outcome.withLock { $0 = result } }
  func take() throws -> Value {
    guard let result = outcome.withLock({ $0 }) else { throw SystemError("pthread_join", code: ESRCH) }
    return try result.get()
  }
}

private final class ThreadBody {
  let run: @Sendable () -> Void
  init(_ run: @escaping @Sendable () -> Void) { self.run = run }
}
