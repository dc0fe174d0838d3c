// SPDX-License-Identifier: MIT

import CLinux
import Glibc
import Synchronization

/// The machine's one thread for the control plane: store events, resizes, detaches, and what is due every second.
///
/// Work runs in order, one at a time.
final class ControlLoop: Sendable {
  typealias Work = @Sendable () -> Void

  private struct State {
    var work: [Work] = []
    var ticks: [Int: Work] = [:]
    var nextTick = 0
    var isStopped = false
  }

  private let state = Mutex(State())
  private let isThread = ThreadMark()
  private let descriptor = eventfd(0, CInt(EFD_CLOEXEC | EFD_NONBLOCK))

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

  /// Does work on the control thread and waits for its answer; at once when that is the calling thread.
  func perform<R: Sendable>(_ work: @escaping @Sendable () -> R) -> R {
    if isThread.isHere { return work() }
    let gate = DispatchGate()
    let answer = Answer<R>()
    enqueue {
      let result = work()
      answer.value.withLock { $0 = result }
      gate.open()
    }
    gate.wait()
    guard let result = answer.value.withLock({ $0 }) else { preconditionFailure("work without an answer") }
    return result
  }

  /// Calls `work` about once a second until ``endTick(_:)``.
  /// - Returns: the number to end it by.
  func addTick(_ work: @escaping Work) -> Int {
    defer { wake() }
    return state.withLock { state in
      state.nextTick += 1
      state.ticks[state.nextTick] = work
      return state.nextTick
    }
  }

  /// Lets what is due every second be done as often as in so many seconds, and waits until it is.
  func pass(seconds: Int) {
    perform { [self] in
      for _ in 0..<seconds {
        for tick in state.withLock({ Array($0.ticks.values) }) { tick() }
      }
    }
  }

  /// Ends what ``addTick(_:)`` began.
  func endTick(_ number: Int) { _ = state.withLock { $0.ticks.removeValue(forKey: number) } }

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
    isThread.setHere()
    while true {
      var waiting = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
      let hasTicks = state.withLock { !$0.ticks.isEmpty }
      // SAFETY: one local entry.
      let count = unsafe poll(&waiting, 1, hasTicks ? 1000 : -1)
      var value: UInt64 = 0
      _ = unsafe read(descriptor, &value, 8)
      let (work, ticks, isStopped) = state.withLock { state in
        defer { state.work = [] }
        return (state.work, count == 0 ? Array(state.ticks.values) : [], state.isStopped)
      }
      for piece in work { piece() }
      for tick in ticks { tick() }
      if isStopped { return }
    }
  }

  private final class Answer<R: Sendable>: Sendable {
    let value = Mutex<R?>(nil)
  }
}

/// Knows one thread again.
private final class ThreadMark: Sendable {
  private let thread = Mutex<pthread_t?>(nil)

  var isHere: Bool {
    guard let marked = thread.withLock({ $0 }) else { return false }
    return pthread_equal(marked, pthread_self()) != 0
  }

  func setHere() {
    let here = pthread_self()
    thread.withLock { $0 = here }
  }
}
