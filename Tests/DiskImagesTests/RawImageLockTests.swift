// SPDX-License-Identifier: MIT

import BlockIO
import Glibc
import PVTestSupport
import Synchronization
import Testing

@testable import DiskImages

@Suite("Locks on raw images")
struct RawImageLockTests {
  let scratch: ScratchDirectory

  init() throws {
    scratch = try ScratchDirectory()
    try RawImage.create(path: scratch.file(), byteCount: 65536)
  }

  @Test(
    "a writer keeps everybody away and readers keep writers away",
    arguments: [
      (ImageOptions.Access.readWrite, ImageOptions.Access.readWrite, false),
      (.readWrite, .readOnly, false),
      (.readOnly, .readWrite, false),
      (.readOnly, .readOnly, true),
    ])
  func exclusion(first: ImageOptions.Access, second: ImageOptions.Access, isShared: Bool) throws {
    let image = try RawImage.open(path: scratch.file(), options: ImageOptions(access: first))
    if isShared {
      try RawImage.open(path: scratch.file(), options: ImageOptions(access: second)).close()
    } else {
      let holder = "process \(getpid()) (\(commandName()))"
      #expect(throws: BlockError.locked(path: scratch.file(), holder: holder)) {
        try RawImage.open(path: scratch.file(), options: ImageOptions(access: second))
      }
    }
    try image.close()
    try RawImage.open(path: scratch.file(), options: ImageOptions(access: second)).close()
  }

  @Test("another process is kept away, and told who holds the image")
  func anotherProcess() async throws {
    let image = try RawImage.open(path: scratch.file())
    let path = scratch.file()
    let holder = "process \(getpid()) (\(commandName()))"
    await #expect(processExitsWith: .success) { [path = path as String, holder = holder as String] in
      #expect(throws: BlockError.locked(path: path, holder: holder)) { try RawImage.open(path: path) }
    }
    try image.close()
    await #expect(processExitsWith: .success) { [path = path as String] in
      try RawImage.open(path: path).close()
    }
  }

  @Test("a failed opening leaves no lock behind")
  func failedOpening() throws {
    let image = try RawImage.open(path: scratch.file(), options: ImageOptions(access: .readOnly))
    #expect(throws: BlockError.self) { try RawImage.open(path: scratch.file()) }
    try image.close()
    try RawImage.open(path: scratch.file()).close()
  }

  @Test("an image that is let go without being closed gives its lock back")
  func abandoned() throws {
    do { _ = try RawImage.open(path: scratch.file()) }
    try RawImage.open(path: scratch.file()).close()
  }

  /// Has a ring of io_uring keep an image open that nobody has any more, as a killed process leaves it, and runs `body`.
  private func afterDeath(_ body: (consuming SubmissionRing) throws -> Void) throws {
    let descriptor = unsafe open(scratch.file(), O_RDWR | O_CLOEXEC)
    try ImageLock.acquire(descriptor, access: .readWrite, path: scratch.file())
    let ring = try SubmissionRing(entryCount: 2, file: descriptor, engine: .automatic)
    close(descriptor)
    try body(ring)
  }

  /// Opens the image, again as long as some process is said to hold it: a child that another test starts just now has copies of all
  /// descriptors until its exec(2).
  private func openedUnlessHeld() throws -> RawImage? {
    for _ in 0..<10_000 {
      do throws(BlockError) { return try RawImage.open(path: scratch.file()) } catch {
        guard case .locked(_, .some) = error else { throw error }
      }
      usleep(1000)
    }
    return nil
  }

  @Test("a lock that no process has any more is waited for", .enabled(if: hasRings))
  func noHolder() throws {
    try afterDeath { ring in
      let end = RingEnd(ring)
      let thread = PeerThread {
        usleep(50_000)
        end.close()
      }
      try #require(try openedUnlessHeld()).close()
      thread.join()
    }
  }

  @Test("a lock that no process has is not waited for without end", .enabled(if: hasRings))
  func holderInHiding() throws {
    try afterDeath { ring in
      #expect(throws: BlockError.locked(path: scratch.file(), holder: nil)) { _ = try openedUnlessHeld() }
      _ = consume ring
    }
  }

  /// Whether this kernel lets us have a ring.
  static let hasRings = FaultSweepTests.engines.contains(.automatic)

  @Test("QEMU is kept off a writable image, and may read a read-only one", .enabled(if: hasQEMU))
  func qemu() throws {
    let probe = ["/usr/bin/qemu-io", "-r", "-f", "raw", "-c", "read 0 512", scratch.file()]
    let image = try RawImage.open(path: scratch.file())
    #expect(try ChildProcess.run(probe) != 0)
    try image.close()
    let reader = try RawImage.open(path: scratch.file(), options: ImageOptions(access: .readOnly))
    #expect(try ChildProcess.run(probe) == 0)
    let writer = ["/usr/bin/qemu-io", "-f", "raw", "-c", "write 0 512", scratch.file()]
    #expect(try ChildProcess.run(writer) != 0)
    try reader.close()
    #expect(try ChildProcess.run(writer) == 0)
  }

  private static let hasQEMU = unsafe access("/usr/bin/qemu-io", X_OK) == 0

  private func commandName() -> String {
    var name = [CChar](repeating: 0, count: 64)
    let descriptor = unsafe open("/proc/self/comm", O_RDONLY)
    defer { close(descriptor) }
    let count = unsafe read(descriptor, &name, 63)
    return String(decoding: name.prefix(count - 1).map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }
}

/// A ring that another thread closes.
final class RingEnd: Sendable {
  private let ring: Mutex<SubmissionRing?>
  init(_ ring: consuming SubmissionRing) { self.ring = Mutex(ring) }
  func close() { ring.withLock { $0 = nil } }
}
