// SPDX-License-Identifier: MIT

import BlockIO
import CLinux
import FuseExport
import Glibc
import GuestMemory
import PVTestSupport
import Testing

/// A memory disk behind a real mount, in a directory of its own that goes away with it.
final class MountedDisk: Sendable {
  let disk: MemoryDisk
  let mount: FuseMount<MemoryDisk>
  let place: TemporaryPlace

  init(
    _ disk: MemoryDisk, shape: TemporaryPlace.Shape = .directory, options change: (inout FuseOptions) -> Void = { _ in }
  )
    throws
  {
    self.disk = disk
    place = try TemporaryPlace(shape)
    var options = FuseOptions(mountPoint: place.path)
    change(&options)
    mount = try FuseMount.mount(device: disk, options: options)
    try mount.start()
  }

  var path: String { mount.filePath }

  /// Ends the mount and removes its directory.
  @discardableResult
  func end(_ urgency: StopUrgency = .orderly) -> FuseOutcome {
    mount.requestStop(urgency)
    let outcome = mount.waitUntilUnmounted()
    place.remove()
    return outcome
  }
}

/// The transports that this machine offers: what holds on the one holds on the other.
enum Transports {
  static let available: [FuseTransportChoice] =
    SystemView.text("/sys/module/fuse/parameters/enable_uring").hasPrefix("Y") ? [.device, .ring] : [.device]
}

/// For each transport mounts a disk, runs `body` with it, unmounts, and checks that the disk was never asked for nonsense.
///
/// The answer is the last body's.
func withMountedDisk<R>(
  byteCount: Int = 4 << 20, geometry: BlockGeometry? = nil, behaviour: MemoryDisk.Behaviour = .init(),
  shape: TemporaryPlace.Shape = .directory, options: (inout FuseOptions) -> Void = { _ in },
  _ body: (MountedDisk) throws -> R
) throws -> R {
  let geometry =
    geometry ?? BlockGeometry(sectorCount: UInt64(byteCount / 512), discard: DiscardAbility(leavesZeros: true))
  var result: R?
  for transport in Transports.available {
    let disk = try MemoryDisk(geometry: geometry, behaviour: behaviour)
    let mounted = try MountedDisk(disk, shape: shape) {
      $0.transport = transport
      options(&$0)
    }
    let outcome = Result { try body(mounted) }
    #expect(mounted.end().flushError == nil, "over \(transport)")
    #expect(mounted.disk.requestCounts.violations == 0, "over \(transport)")
    result = try outcome.get()
  }
  return try #require(result)
}

/// A fresh directory, or a file in one, that goes with the last who knows it.
final class TemporaryPlace: Sendable {
  enum Shape: Sendable { case directory, file }

  let root: String
  let path: String

  init(_ shape: Shape) throws {
    var template = Array("/tmp/pvdisk-fuse-XXXXXX".utf8CString)
    guard unsafe mkdtemp(&template) != nil else { throw SystemError("mkdtemp") }
    root = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
    path = "\(root)/disk"
    switch shape {
    case .directory: try checked("mkdir", unsafe mkdir(path, 0o755))
    case .file: try OpenFile.make(path)
    }
  }

  deinit { remove() }

  func remove() {
    if unsafe rmdir(path) != 0 { unsafe _ = unlink(path) }
    unsafe _ = rmdir(root)
  }
}

/// Throws when a system call failed.
@discardableResult
func checked<T: SignedInteger>(_ call: StaticString, _ result: T) throws -> T {
  guard result >= 0 else { throw SystemError(call) }
  return result
}

/// A file descriptor with the calls that the tests make.
struct OpenFile: ~Copyable {
  let descriptor: CInt

  init(_ path: String, _ flags: CInt = O_RDWR) throws {
    descriptor = try checked("open", unsafe pv_open(path, flags | O_CLOEXEC, 0o644))
  }

  static func make(_ path: String) throws { _ = try OpenFile(path, O_RDWR | O_CREAT) }

  deinit { close(descriptor) }

  /// The bytes that a single read gives.
  func read(_ count: Int, at offset: Int) throws -> [UInt8] {
    var failure: SystemError?
    let bytes = unsafe [UInt8](unsafeUninitializedCapacity: count) { buffer, used in
      let result = unsafe pread(descriptor, buffer.baseAddress, count, offset)
      if result < 0 { failure = SystemError("pread") }
      used = max(result, 0)
    }
    if let failure { throw failure }
    return bytes
  }

  /// Writes once; answers how much was taken.
  @discardableResult
  func write(_ bytes: [UInt8], at offset: Int) throws -> Int {
    try checked("pwrite", unsafe pwrite(descriptor, bytes, bytes.count, offset))
  }

  func seek(_ offset: Int, _ whence: CInt) throws -> Int {
    Int(try checked("lseek", pv_lseek(descriptor, Int64(offset), whence)))
  }

  func allocate(_ mode: CInt, _ offset: Int, _ count: Int) throws {
    try checked("fallocate", pv_fallocate(descriptor, mode, Int64(offset), Int64(count)))
  }

  func sync() throws { try checked("fsync", fsync(descriptor)) }

  func truncate(_ size: Int) throws { try checked("ftruncate", ftruncate(descriptor, size)) }

  func status() throws -> stat {
    var status = stat()
    try checked("fstat", unsafe fstat(descriptor, &status))
    return status
  }
}

/// The status of a path.
func statusOf(_ path: String) throws -> stat {
  var status = stat()
  try checked("stat", unsafe stat(path, &status))
  return status
}

/// The kind of a path's node, as `st_mode` has it.
func kindOf(_ path: String) throws -> mode_t { try statusOf(path).st_mode & S_IFMT }

/// The permission bits of a path.
func permissionsOf(_ path: String) throws -> mode_t { try statusOf(path).st_mode & 0o7777 }

/// Expects `body` to fail with an `errno`.
func expectErrno(_ code: CInt, sourceLocation: SourceLocation = #_sourceLocation, _ body: () throws -> Void) {
  do {
    try body()
    Issue.record("succeeded where errno \(code) was expected", sourceLocation: sourceLocation)
  } catch let error as SystemError {
    #expect(error.code == code, "\(error)", sourceLocation: sourceLocation)
  } catch {
    Issue.record(error, sourceLocation: sourceLocation)
  }
}

/// Repeatable bytes; beyond 64 KiB they repeat, with a period that no sector size divides.
func randomBytes(_ count: Int, _ generator: inout SeededGenerator) -> [UInt8] {
  let period = min(count, 65_521)
  let words = (0..<(period + 7) / 8).map { _ in generator.next() }
  return unsafe [UInt8](unsafeUninitializedCapacity: count) { buffer, used in
    guard let start = buffer.baseAddress else { return }
    // SAFETY: every piece ends within the buffer, and is no longer than the words.
    for offset in stride(from: 0, to: count, by: max(period, 1)) {
      unsafe memcpy(start + offset, words, min(period, count - offset))
    }
    used = count
  }
}
