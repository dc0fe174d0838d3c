// SPDX-License-Identifier: MIT

import Glibc
import GuestMemory
import Synchronization

/// Another process' reads of a file's start, up to a given byte, over and over, with nothing left in the page cache: the
/// kernel takes them for a stream and reads ahead.
final class NeighbourReader: @unchecked Sendable {
  private let descriptor: CInt
  private let end: Int
  private let isStopping = Atomic<Bool>(false)
  // SAFETY: written once, before anybody else has the object.
  private var thread: pthread_t = 0

  init(path: String, end: Int) throws(SystemError) {
    descriptor = unsafe open(path, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { throw SystemError("open") }
    self.end = end
    // SAFETY: the object is kept until `stop` has joined the thread.
    let code = unsafe pthread_create(
      &thread, nil,
      { argument in
        guard let argument = unsafe argument else { return nil }
        unsafe Unmanaged<NeighbourReader>.fromOpaque(argument).takeUnretainedValue().run()
        return nil
      }, Unmanaged.passUnretained(self).toOpaque())
    guard code == 0 else { throw SystemError("pthread_create", code: code) }
  }

  /// Ends the reads.
  func stop() {
    isStopping.store(true, ordering: .relaxed)
    pthread_join(thread, nil)
    close(descriptor)
  }

  private func run() {
    var bytes = [UInt8](repeating: 0, count: end)
    while !isStopping.load(ordering: .relaxed) {
      unsafe bytes.withUnsafeMutableBytes { bytes in
        posix_fadvise(descriptor, 0, 0, POSIX_FADV_DONTNEED)
        _ = unsafe pread(descriptor, bytes.baseAddress, end / 2, 0)
        _ = unsafe pread(descriptor, bytes.baseAddress, end / 2, end / 2)
      }
    }
  }
}
