// SPDX-License-Identifier: MIT

import Glibc

/// A command that is run and waited for.
enum ChildProcess {
  /// Runs a command found on the path; its exit status, or 128 and the signal that ended it.
  static func run(_ words: [String], environment: [String: String], isQuiet: Bool = false) throws -> Int32 {
    for (name, value) in environment { _ = unsafe setenv(name, value, 1) }
    var actions = unsafe posix_spawn_file_actions_t()
    unsafe posix_spawn_file_actions_init(&actions)
    defer { unsafe posix_spawn_file_actions_destroy(&actions) }
    if isQuiet {
      for descriptor: CInt in 0...2 {
        unsafe posix_spawn_file_actions_addopen(&actions, descriptor, "/dev/null", O_RDWR, 0)
      }
    }
    var attributes = posix_spawnattr_t()
    unsafe posix_spawnattr_init(&attributes)
    defer { unsafe posix_spawnattr_destroy(&attributes) }
    var noSignals = sigset_t()
    unsafe sigemptyset(&noSignals)
    unsafe posix_spawnattr_setsigmask(&attributes, &noSignals)
    unsafe posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK))
    var child: pid_t = 0
    // SAFETY: the copies live until the child has been started.
    var arguments = unsafe words.map { unsafe strdup($0) }
    unsafe arguments.append(nil)
    defer { unsafe arguments.forEach { unsafe free($0) } }
    let code = unsafe posix_spawnp(&child, words[0], &actions, &attributes, arguments, environ)
    guard code == 0 else {
      let reason = unsafe String(cString: strerror(code))
      throw Refusal("cannot run \(words[0]): \(reason)", status: code == ENOENT ? 127 : 126)
    }
    var status: CInt = 0
    while unsafe waitpid(child, &status, 0) < 0, errno == EINTR {}
    return status & 0x7F == 0 ? (status >> 8) & 0xFF : 128 + (status & 0x7F)
  }
}
