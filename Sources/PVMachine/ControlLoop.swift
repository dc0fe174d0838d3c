// SPDX-License-Identifier: MIT

import CLinux
import Glibc
import Synchronization

/// The machine's one thread for the control plane: store events, resizes, detaches.
///
/// Work runs in order, one at a time.
final class ControlLoop: Sendable {
  typealias Work = @Sendable () -> Void

  private struct State {
    var work: [Work] = []
    var isStopped = false
  }

  private let state = Mutex(State())
  private let descriptor = eventfd(0, CInt(EFD_CLOEXEC))

  init() {
    precondition(descriptor >= 0, "no descriptor for the control loop")
    let loop = self
    SystemThread.start(name: "pvdisk-control") { loop.run() }
  }

  deinit { Glibc.close(descriptor) }

  /// Adds work.
  func enqueue(_ work: @escaping Work) {
    state.withLock { $0.work.append(work) }
    wake()
  }

  /// Ends the thread once what waits is done.
  func stop() {
    state.withLock { $0.isStopped = true }
    wake()
  }

  private func wake() {
    var one: UInt64 = 1
    _ = unsafe write(descriptor, &one, 8)
  }

  private func run() {
    while true {
      var count: UInt64 = 0
      _ = unsafe read(descriptor, &count, 8)
      let (work, isStopped) = state.withLock { state in
        defer { state.work = [] }
        return (state.work, state.isStopped)
      }
      for piece in work { piece() }
      if isStopped { return }
    }
  }
}
