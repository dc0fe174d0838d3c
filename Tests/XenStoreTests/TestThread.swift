// SPDX-License-Identifier: MIT

import Glibc
import Synchronization

/// A thread for tests that need one.
final class TestThread: Sendable {
  private let isDone = Atomic(false)

  init(_ body: @escaping @Sendable () -> Void) {
    var identifier = pthread_t()
    let entry = unsafe Unmanaged.passRetained(
      Entry {
        body()
        self.isDone.store(true, ordering: .releasing)
      })
    // SAFETY: the entry was retained for the new thread, which takes it over.
    _ = unsafe pthread_create(
      &identifier, nil,
      { argument in
        if let argument = unsafe argument { unsafe Unmanaged<Entry>.fromOpaque(argument).takeRetainedValue().body() }
        return nil
      }, entry.toOpaque())
    pthread_detach(identifier)
  }

  private final class Entry {
    let body: @Sendable () -> Void
    init(_ body: @escaping @Sendable () -> Void) { self.body = body }
  }

  /// Waits for the body's end.
  func join() {
    while !isDone.load(ordering: .acquiring) { usleep(500) }
  }
}
