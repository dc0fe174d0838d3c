// SPDX-License-Identifier: MIT

import BlockIO
import CLinux
import Glibc
import GuestMemory

/// Finds out what an open file, its file system or its device can do; changes nothing in it.
struct ImageProbe {
  /// Bytes of zeros kept for writing.
  static let zeroByteCount = 64 << 10

  // linux/magic.h
  private static let ext4Type: Int64 = 0xEF53
  private static let tmpfsType: Int64 = 0x0102_1994

  let descriptor: CInt
  let path: String
  let isBlockDevice: Bool

  /// The logical sector size that holds: the one asked for, if the device and `O_DIRECT` allow it.
  func logicalSectorSize(options: ImageOptions) throws(BlockError) -> Int {
    var least = 512
    if isBlockDevice {
      var size: UInt32 = 0
      if unsafe pv_ioctl_u32(descriptor, pv_blksszget, &size) == 0 { least = max(least, Int(size)) }
      if options.cache != .none, let asked = options.logicalSectorSize { return asked }
    }
    if options.cache == .none {
      var memory: UInt32 = 0
      var offset: UInt32 = 0
      if unsafe pv_direct_io_alignment(descriptor, &memory, &offset) == 1 {
        guard offset > 0 else { throw .unsupported("\(path): no O_DIRECT here (cache mode none)") }
        least = max(least, Int(offset), Int(memory))
      }
    }
    guard least <= 4096 else { throw .unsupported("\(path): its sectors have \(least) bytes, more than 4096") }
    guard let asked = options.logicalSectorSize else { return least <= 512 ? 512 : 4096 }
    guard asked >= least else {
      throw .unsupported("\(path): O_DIRECT asks for sectors of \(least) bytes; use 4096, or another cache mode")
    }
    return asked
  }

  /// Bytes in a physical sector, or in a block of the file system, as far as a disk of 4096-byte sectors can tell.
  func physicalSectorSize() -> Int {
    guard isBlockDevice else { return 4096 }
    var size: UInt32 = 0
    return unsafe pv_ioctl_u32(descriptor, pv_blkpbszget, &size) == 0 ? max(512, Int(size)) : 512
  }

  /// How the page cache can be read without waiting.
  func cachedReads() -> CachedAccess {
    var byte: UInt8 = 0
    let count = unsafe withUnsafeMutableBytes(of: &byte) { bytes in
      // SAFETY: the vector names the one byte of `byte`, which outlives the call.
      var vector = unsafe iovec(iov_base: bytes.baseAddress, iov_len: 1)
      return unsafe pv_preadv2(descriptor, &vector, 1, 0, pv_rwf_nowait)
    }
    if count >= 0 || pv_errno() == EAGAIN { return .withoutWaiting }
    // Nothing is ever read from a device there.
    return pv_file_system_type(descriptor) == Self.tmpfsType ? .plain : .never
  }

  /// What discard can do, or nil.
  func discardAbility() -> DiscardAbility? {
    if isBlockDevice { return deviceDiscardAbility() }
    guard punchesHoles() else { return nil }
    let type = pv_file_system_type(descriptor)
    var status = stat()
    guard unsafe fstat(descriptor, &status) == 0 else { return nil }
    // Overwriting must reach the old blocks: file systems that write elsewhere (Btrfs, XFS with shared blocks, network
    // file systems) cannot promise that.
    let overwritesInPlace = type == Self.ext4Type || type == Self.tmpfsType
    return DiscardAbility(
      granularity: max(512, Int(status.st_blksize)), alignment: 0, isSecureSupported: overwritesInPlace,
      leavesZeros: true)
  }

  /// Asks a nameless file beside the image, so that the image keeps even its times.
  private func punchesHoles() -> Bool {
    let directory = path.lastIndex(of: "/").map { String(path[...$0]) } ?? "."
    let scratch = ImageSystemCalls.open(directory, flags: O_RDWR | pv_o_tmpfile, mode: 0o600)
    // Where no file can be made the answer comes with the first discard.
    guard scratch >= 0 else { return true }
    defer { _ = Glibc.close(scratch) }
    let mode = pv_falloc_punch_hole | pv_falloc_keep_size
    return pv_fallocate(scratch, mode, 0, 4096) == 0 || pv_errno() != EOPNOTSUPP
  }

  private func deviceDiscardAbility() -> DiscardAbility? {
    var status = stat()
    guard unsafe fstat(descriptor, &status) == 0 else { return nil }
    let device = "/sys/dev/block/\(pv_major(UInt64(status.st_rdev))):\(pv_minor(UInt64(status.st_rdev)))"
    // A partition's limits are in its disk's directory.
    for queue in ["\(device)/queue", "\(device)/../queue"] {
      guard let most = ProcText.number(in: "\(queue)/discard_max_bytes") else { continue }
      guard most > 0 else { return nil }
      let granularity = ProcText.number(in: "\(queue)/discard_granularity") ?? 512
      let alignment = ProcText.number(in: "\(device)/discard_alignment") ?? 0
      return DiscardAbility(granularity: max(512, granularity), alignment: alignment, isSecureSupported: false)
    }
    return nil
  }
}
