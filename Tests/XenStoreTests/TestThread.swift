// SPDX-License-Identifier: MIT

import Glibc
import Synchronization
import Testing

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

  /// Waits for the body's end; a thread that does not end fails the test, which goes on without it.
  func join(sourceLocation: SourceLocation = #_sourceLocation) {
    if !Patience.wait(until: { isDone.load(ordering: .acquiring) }) {
      Issue.record("a thread did not end within \(Patience.milliseconds) ms", sourceLocation: sourceLocation)
    }
  }
}
