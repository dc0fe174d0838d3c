// SPDX-License-Identifier: MIT

import Glibc

/// The signals that a daemon waits for instead of dying of them.
enum DaemonSignals {
  private static func set() -> sigset_t {
    var set = sigset_t()
    unsafe sigemptyset(&set)
    for signal in [SIGINT, SIGTERM, SIGHUP] { unsafe sigaddset(&set, signal) }
    return set
  }

  /// Blocks them in this thread and in all that it starts.
  static func block() {
    var set = set()
    unsafe pthread_sigmask(SIG_BLOCK, &set, nil)
    signal(SIGPIPE, SIG_IGN)
  }

  /// Lets them through again, for a child that is about to be started.
  static func unblock() {
    var set = set()
    unsafe pthread_sigmask(SIG_UNBLOCK, &set, nil)
  }

  /// Waits for one and answers which.
  static func wait() -> CInt {
    var set = set()
    var number: CInt = 0
    unsafe sigwait(&set, &number)
    return number
  }
}
