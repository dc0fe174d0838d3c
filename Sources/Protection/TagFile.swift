// SPDX-License-Identifier: MIT

public import BlockIO
import CLinux
import Glibc
public import GuestMemory

/// The protection tuples of a disk, kept in a file beside its image.
///
/// ```
/// byte 0     the header (``TagHeader``)
///   4096     a tuple for each interval, every bit inverted: a hole reads as all ones, which nobody checks
/// ```
///
/// The file is mapped, so that storing a tuple is storing eight bytes.
///
/// **Assumptions.** Data and tuple are not one atomic write: after a crash of the machine a sector that was being written can
/// have one without the other, and is then reported. Nobody else changes the file while it is held.
@safe public final class TagFile: @unchecked Sendable {
  // SAFETY: `base` addresses `byteCount` mapped bytes from init to deinit.
  private let base: UnsafeMutableRawPointer
  private let byteCount: Int
  private let descriptor: CInt
  /// The file's name.
  public let path: String
  /// The form of the tuples.
  public let form: ProtectionForm
  /// Whether tuples can be stored.
  public let isReadOnly: Bool

  static let headerByteCount = 4096

  /// The name of the tag file beside an image.
  public static func path(besides image: String) -> String { image + ".dif" }

  /// Opens the tag file of a disk, or makes an empty one in which no interval is protected yet.
  ///
  /// - Throws: ``BlockError`` when the file is another disk's, of another form, or in use.
  public init(
    path: String, form: ProtectionForm, sectorCount: UInt64, isReadOnly: Bool = false
  ) throws(BlockError) {
    let flags = isReadOnly ? O_RDONLY : O_RDWR | O_CREAT
    let descriptor = unsafe pv_open(path, flags | O_CLOEXEC, 0o600)
    guard descriptor >= 0 else {
      if pv_errno() == ENOENT { throw .unsupported("\(path) does not exist, and a read-only disk cannot make it") }
      throw .system(call: "open", path: path, code: pv_errno())
    }
    let intervals = (sectorCount + (1 << UInt64(form.sectorsShift)) - 1) >> UInt64(form.sectorsShift)
    let byteCount = TagFile.headerByteCount + Int(intervals) * ProtectionTuple.byteCount
    do throws(BlockError) {
      guard pv_ofd_lock(descriptor, !isReadOnly) == 0 else { throw .locked(path: path, holder: nil) }
      try TagFile.check(descriptor, path, form: form, sectorCount: sectorCount, byteCount: byteCount, isReadOnly)
      let rights = isReadOnly ? PROT_READ : PROT_READ | PROT_WRITE
      let address = unsafe mmap(nil, byteCount, rights, MAP_SHARED, descriptor, 0)
      guard let address = unsafe address, unsafe address != MAP_FAILED else {
        throw .system(call: "mmap", path: path, code: pv_errno())
      }
      unsafe base = address
    } catch {
      close(descriptor)
      throw error
    }
    self.descriptor = descriptor
    self.byteCount = byteCount
    self.path = path
    self.form = form
    self.isReadOnly = isReadOnly
  }

  deinit {
    unsafe munmap(base, byteCount)
    close(descriptor)
  }

  /// All tuples.
  public var region: SharedRegion {
    unsafe SharedRegion(unsafeBase: base + TagFile.headerByteCount, byteCount: byteCount - TagFile.headerByteCount)
  }

  /// Forgets tuples, so that nobody checks their intervals: 0 or an `errno`.
  ///
  /// - Parameter offset: the first tuple's byte in ``region``.
  func forget(at offset: Int, byteCount count: Int) -> CInt {
    if count <= 1 << 16 {
      region.fill(0, at: offset, byteCount: count)
      return 0
    }
    let start = Int64(TagFile.headerByteCount + offset)
    return pv_fallocate(descriptor, pv_falloc_keep_size | pv_falloc_punch_hole, start, Int64(count)) == 0
      ? 0 : pv_errno()
  }

  /// Makes all stored tuples durable: 0 or an `errno`.
  ///
  /// It waits for the disk that the file is on.
  public func flush() -> CInt { isReadOnly || fdatasync(descriptor) == 0 ? 0 : pv_errno() }

  /// Compares an existing file with what it should be; makes a header in a new one.
  private static func check(
    _ descriptor: CInt, _ path: String, form: ProtectionForm, sectorCount: UInt64, byteCount: Int, _ isReadOnly: Bool
  ) throws(BlockError) {
    var status = stat()
    guard unsafe fstat(descriptor, &status) == 0 else { throw .system(call: "fstat", path: path, code: pv_errno()) }
    guard status.st_size > 0 else {
      if isReadOnly { throw .unsupported("\(path) is empty; mount the disk writable once to start it") }
      return try writeHeader(descriptor, path, form, sectorCount, byteCount)
    }
    var header = [UInt8](repeating: 0, count: TagHeader.byteCount)
    let count = unsafe header.withUnsafeMutableBytes { unsafe pread(descriptor, $0.baseAddress, $0.count, 0) }
    header.removeLast(header.count - max(count, 0))
    switch TagHeader.judge(header[...], form: form, sectorCount: sectorCount) {
    case .fits: break
    case .grows: if !isReadOnly { try writeHeader(descriptor, path, form, sectorCount, byteCount) }
    case .foreign: throw .unsupported("\(path) is no tag file of pvdisk; move it away, or name another")
    case .otherForm:
      throw .unsupported(
        "\(path) holds protection information of another form; mount the disk as before, or remove the file to start "
          + "again without protection")
    case .larger(let sectors):
      throw .unsupported(
        "\(path) is for a disk of \(sectors) sectors, this one has \(sectorCount); remove it to start again without "
          + "protection")
    }
    guard isReadOnly || status.st_size >= byteCount || ftruncate(descriptor, byteCount) == 0 else {
      throw .system(call: "ftruncate", path: path, code: pv_errno())
    }
    guard !isReadOnly || status.st_size >= byteCount else {
      throw .unsupported("\(path) is for a smaller disk; mount the disk writable once to let it grow")
    }
  }

  private static func writeHeader(
    _ descriptor: CInt, _ path: String, _ form: ProtectionForm, _ sectorCount: UInt64, _ byteCount: Int
  ) throws(BlockError) {
    let header = TagHeader.bytes(form: form, sectorCount: sectorCount)
    let count = unsafe header.withUnsafeBytes { unsafe pwrite(descriptor, $0.baseAddress, $0.count, 0) }
    guard count == header.count else { throw .system(call: "pwrite", path: path, code: pv_errno()) }
    guard ftruncate(descriptor, byteCount) == 0 else {
      throw .system(call: "ftruncate", path: path, code: pv_errno())
    }
  }
}
