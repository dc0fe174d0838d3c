// SPDX-License-Identifier: MIT

import CFuse3
import CLinux
import Glibc
import Synchronization

/// Catches what libfuse and its mount program would print, so that the user reads one sentence of ours instead.
enum FuseMessages {
  private static let log = Mutex("")
  /// One mount at a time: standard error is the process's, and so is libfuse's log function.
  private static let turn = Mutex(())

  /// Runs `body` and answers its result with everything that was said meanwhile.
  static func capture<R>(_ body: () -> R) -> (result: R, text: String) {
    var captured: (R, String)?
    turn.withLock { _ in
      log.withLock { $0 = "" }
      unsafe pv_fuse_set_log { _, format, arguments in
        guard let format = unsafe format, let arguments = unsafe arguments else { return }
        let line = unsafe FuseMessages.formatted(format, arguments)
        FuseMessages.log.withLock { $0 += line }
      }
      let (result, printed) = withStandardErrorCaptured(body)
      captured = (result, log.withLock { $0 } + printed)
    }
    guard let captured else { preconditionFailure("the lock ran its body") }
    return captured
  }

  private static func formatted(_ format: UnsafePointer<CChar>, _ arguments: CVaListPointer) -> String {
    // SAFETY: libfuse passes a format and its arguments; the buffer's length is given, and the result is terminated.
    unsafe withUnsafeTemporaryAllocation(of: CChar.self, capacity: 512) { buffer in
      guard let start = buffer.baseAddress else { return "" }
      unsafe vsnprintf(start, buffer.count, format, arguments)
      return unsafe String(cString: start)
    }
  }

  /// The mount program inherits standard error: for the time of `body` that is a file in memory.
  private static func withStandardErrorCaptured<R>(_ body: () -> R) -> (R, String) {
    let saved = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3)
    let file = unsafe pv_memfd_create("pvdisk-messages", UInt32(pv_mfd_cloexec))
    guard saved >= 0, file >= 0 else { return (body(), "") }
    defer {
      close(saved)
      close(file)
    }
    dup2(file, STDERR_FILENO)
    let result = body()
    dup2(saved, STDERR_FILENO)
    return (result, FileText.contents(of: file))
  }
}

/// Small text files, read whole.
enum FileText {
  /// What a descriptor's file holds, from its start.
  static func contents(of descriptor: CInt) -> String {
    var bytes: [UInt8] = []
    var offset = 0
    while true {
      let part = unsafe [UInt8](unsafeUninitializedCapacity: 4096) { buffer, count in
        // SAFETY: the buffer's own address and length.
        count = unsafe max(0, pread(descriptor, buffer.baseAddress, buffer.count, offset))
      }
      if part.isEmpty { return String(decoding: bytes, as: UTF8.self) }
      bytes += part
      offset += part.count
    }
  }

  /// What the file at a path holds; empty when it cannot be read.
  static func contents(at path: String) -> String {
    let descriptor = unsafe open(path, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { return "" }
    defer { close(descriptor) }
    return contents(of: descriptor)
  }
}
