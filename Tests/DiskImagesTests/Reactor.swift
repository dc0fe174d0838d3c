// SPDX-License-Identifier: MIT

import DiskImages
import Glibc
import GuestMemory
import PVTestSupport

/// A thread of its own, as the owner of a queue has one.
enum Reactor {
  private final class Task {
    var driver: QueueDriver<RawImageQueue>?
    let body: (inout QueueDriver<RawImageQueue>) -> Int
    var outcome = -1

    init(_ driver: consuming QueueDriver<RawImageQueue>, _ body: @escaping (inout QueueDriver<RawImageQueue>) -> Int) {
      self.driver = consume driver
      self.body = body
    }

    func run() {
      guard var driver = driver.take() else { return }
      outcome = body(&driver)
    }
  }

  /// Gives a queue to a new thread, which uses it and drops it; the body's answer.
  static func run(
    _ driver: consuming QueueDriver<RawImageQueue>, _ body: @escaping (inout QueueDriver<RawImageQueue>) -> Int
  ) throws -> Int {
    let task = Task(driver, body)
    var thread: pthread_t = 0
    let code = unsafe pthread_create(
      &thread, nil,
      { argument in
        // SAFETY: the starter keeps the task until the thread has been joined.
        guard let argument = unsafe argument else { return nil }
        unsafe Unmanaged<Task>.fromOpaque(argument).takeUnretainedValue().run()
        return nil
      }, Unmanaged.passUnretained(task).toOpaque())
    guard code == 0 else { throw SystemError("pthread_create", code: code) }
    pthread_join(thread, nil)
    return task.outcome
  }
}
