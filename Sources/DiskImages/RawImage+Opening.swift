// SPDX-License-Identifier: MIT

public import BlockIO
import CLinux
import Glibc
import GuestMemory

extension RawImage {
  /// Opens a regular file or block device as a disk.
  /// - Throws: ``BlockError`` for what is missing, is no disk, has no whole sector, is held by somebody else, may not be
  ///   opened, or cannot follow the options.
  public static func open(path: String, options: ImageOptions = ImageOptions()) throws(BlockError) -> RawImage {
    if let size = options.logicalSectorSize, size != 512 && size != 4096 {
      throw .unsupported("a logical sector has 512 or 4096 bytes, not \(size)")
    }
    // A look before the leap: opening a FIFO or a terminal can wait or have effects.
    let isBlockDevice = try FileKind.check(path: path)
    let descriptor = try openDescriptor(path: path, options: options, isBlockDevice: isBlockDevice)
    do throws(BlockError) {
      try ImageLock.acquire(descriptor, access: options.access, path: path)
      return try RawImage(descriptor: descriptor, path: path, options: options, isBlockDevice: isBlockDevice)
    } catch {
      ImageLock.release(descriptor)
      _ = Glibc.close(descriptor)
      throw error
    }
  }

  /// Makes a sparse image of zeros; an existing file is left alone.
  /// - Throws: ``BlockError``, with `EEXIST` when the name is taken.
  public static func create(path: String, byteCount: UInt64) throws(BlockError) {
    guard byteCount > 0 && byteCount % UInt64(PageGeometry.sectorSize) == 0 && byteCount <= UInt64(Int64.max) else {
      throw .unsupported("an image is a whole number of 512-byte sectors, at least one; \(byteCount) bytes are not")
    }
    let descriptor = ImageSystemCalls.open(path, flags: O_RDWR | O_CREAT | O_EXCL, mode: 0o666)
    guard descriptor >= 0 else { throw OpenFailure.error(path: path, code: -descriptor) }
    defer { _ = Glibc.close(descriptor) }
    var call: StaticString = "ftruncate"
    var code = ImageSystemCalls.resize(descriptor, to: Int(byteCount))
    if code == 0 {
      call = "fsync"
      code = ImageSystemCalls.sync(descriptor)
    }
    guard code == 0 else {
      unsafe unlink(path)
      throw .system(call: "\(call)", path: path, code: code)
    }
  }

  /// How often, and how far apart in microseconds, a device is tried again that somebody has claimed.
  private static let claimTries = 50, claimPause: useconds_t = 20_000

  private static func openDescriptor(
    path: String, options: ImageOptions, isBlockDevice: Bool
  ) throws(BlockError) -> CInt {
    var flags = options.access == .readOnly ? O_RDONLY : O_RDWR
    if options.cache == .none { flags |= pv_o_direct }
    // Claims the device from mounts and other claimants; writers only, since readers may be several.
    if isBlockDevice && options.access == .readWrite { flags |= O_EXCL }
    var descriptor = ImageSystemCalls.open(path, flags: flags)
    // As with locks: what a killed process had claimed, its rings of io_uring hold for a moment more.
    for _ in 0..<claimTries where isBlockDevice && descriptor == -EBUSY {
      usleep(claimPause)
      descriptor = ImageSystemCalls.open(path, flags: flags)
    }
    if descriptor >= 0 { return descriptor }
    if isBlockDevice && descriptor == -EBUSY { throw .locked(path: path, holder: "a mount, or another claim") }
    if options.cache == .none && descriptor == -EINVAL {
      throw .unsupported("\(path): the file system does not know O_DIRECT (cache mode none)")
    }
    throw OpenFailure.error(path: path, code: -descriptor)
  }

  /// The mapping that is asked for; nothing where reads do not come from the page cache, or the system will not.
  private static func mapping(
    _ choice: ImageOptions.MappedReads, _ descriptor: CInt, byteCount: UInt64, _ cachedReads: CachedAccess
  ) -> ImageMapping? {
    guard choice != .never, cachedReads.isTried else { return nil }
    return ImageMapping(descriptor: descriptor, byteCount: byteCount, onlyCached: choice == .whenCached)
  }

  private convenience init(
    descriptor: CInt, path: String, options: ImageOptions, isBlockDevice: Bool
  ) throws(BlockError) {
    let byteCount: UInt64
    switch ImageSystemCalls.byteCount(descriptor, isBlockDevice: isBlockDevice) {
    case .success(let count): byteCount = count
    case .failure(let error): throw .system(call: "fstat", path: path, code: error.code)
    }
    let probe = ImageProbe(descriptor: descriptor, path: path, isBlockDevice: isBlockDevice)
    let sectorSize = try probe.logicalSectorSize(options: options)
    let zeroMemory: MappedMemory
    do throws(SystemError) {
      zeroMemory = try MappedMemory(anonymousByteCount: ImageProbe.zeroByteCount)
    } catch {
      throw .system(call: error.call.description, path: path, code: error.code)
    }
    let cachedReads = options.cache == .none ? CachedAccess.never : probe.cachedReads()
    let mapping = Self.mapping(options.mappedReads, descriptor, byteCount: byteCount, cachedReads)
    let file = ImageFile(
      descriptor: descriptor, isReadOnly: options.access == .readOnly,
      alignmentMask: UInt64(sectorSize / PageGeometry.sectorSize - 1), isBlockDevice: isBlockDevice,
      cache: options.cache, logicalSectorSize: sectorSize,
      physicalSectorSize: max(sectorSize, probe.physicalSectorSize()),
      discard: options.access == .readOnly ? nil : probe.discardAbility(),
      mapped: mapping?.bytes ?? .none, cachedReads: cachedReads,
      cachedWrites: cachedReads == .never ? .never : .withoutWaiting,
      zeros: MemoryExtent(address: zeroMemory.region.address, byteCount: ImageProbe.zeroByteCount))
    guard file.sectorCount(in: byteCount) > 0 else { throw .empty(path: path) }
    self.init(
      path: path, options: options, file: file, byteCount: byteCount, zeroMemory: zeroMemory, mapping: mapping)
  }
}

/// What a name leads to.
enum FileKind {
  /// Whether the name leads to a block device; throws when it leads to nothing, or to neither that nor a regular file.
  static func check(path: String) throws(BlockError) -> Bool {
    var status = stat()
    guard unsafe stat(path, &status) == 0 else { throw OpenFailure.error(path: path, code: pv_errno()) }
    switch status.st_mode & S_IFMT {
    case S_IFREG: return false
    case S_IFBLK: return true
    case S_IFDIR: throw .notADisk(path: path, kind: "directory")
    case S_IFCHR: throw .notADisk(path: path, kind: "character device")
    case S_IFIFO: throw .notADisk(path: path, kind: "FIFO")
    case S_IFSOCK: throw .notADisk(path: path, kind: "socket")
    default: throw .notADisk(path: path, kind: "file of an unknown kind")
    }
  }
}

/// What a failed `open(2)` or `stat(2)` means.
enum OpenFailure {
  static func error(path: String, code: CInt) -> BlockError {
    switch code {
    case ENOENT, ENOTDIR: .notFound(path: path)
    case EACCES, EPERM: .permissionDenied(path: path)
    default: .system(call: "open", path: path, code: code)
    }
  }
}
