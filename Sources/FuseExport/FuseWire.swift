// SPDX-License-Identifier: MIT

/// What the kernel may ask for (linux/fuse.h, enum fuse_opcode); the rest is answered with `ENOSYS`.
@usableFromInline
enum FuseOpcode {
  @usableFromInline static let lookup: UInt32 = 1
  @usableFromInline static let forget: UInt32 = 2
  @usableFromInline static let getattr: UInt32 = 3
  @usableFromInline static let setattr: UInt32 = 4
  @usableFromInline static let symlink: UInt32 = 6
  @usableFromInline static let mknod: UInt32 = 8
  @usableFromInline static let mkdir: UInt32 = 9
  @usableFromInline static let unlink: UInt32 = 10
  @usableFromInline static let rmdir: UInt32 = 11
  @usableFromInline static let rename: UInt32 = 12
  @usableFromInline static let link: UInt32 = 13
  @usableFromInline static let open: UInt32 = 14
  @inlinable static var read: UInt32 { 15 }
  @inlinable static var write: UInt32 { 16 }
  @usableFromInline static let statfs: UInt32 = 17
  @usableFromInline static let release: UInt32 = 18
  @usableFromInline static let fsync: UInt32 = 20
  @usableFromInline static let initialise: UInt32 = 26
  @usableFromInline static let opendir: UInt32 = 27
  @usableFromInline static let readdir: UInt32 = 28
  @usableFromInline static let releasedir: UInt32 = 29
  @usableFromInline static let create: UInt32 = 35
  @usableFromInline static let interrupt: UInt32 = 36
  @usableFromInline static let destroy: UInt32 = 38
  @usableFromInline static let batchForget: UInt32 = 42
  @usableFromInline static let fallocate: UInt32 = 43
  @usableFromInline static let readdirplus: UInt32 = 44
  @usableFromInline static let rename2: UInt32 = 45
  @usableFromInline static let lseek: UInt32 = 46
  @usableFromInline static let tmpfile: UInt32 = 51
}

/// Sizes of the protocol's structures in bytes (linux/fuse.h); all integers are little-endian, as the machine is.
@usableFromInline
enum FuseSize {
  /// struct fuse_out_header.
  @inlinable static var outHeader: Int { 16 }
  /// struct fuse_read_in, and struct fuse_write_in.
  @inlinable static var transferIn: Int { 40 }
  /// The most that an operation's own structure takes (struct fuse_uring_req_header has as much room).
  @inlinable static var argumentCapacity: Int { 128 }
  /// struct fuse_setattr_in.
  @usableFromInline static let setattrIn = 88
  /// struct fuse_attr.
  @usableFromInline static let attributes = 88
  /// struct fuse_attr_out.
  @usableFromInline static let attributesOut = 104
  /// struct fuse_entry_out.
  @usableFromInline static let entryOut = 128
  /// struct fuse_open_out.
  @usableFromInline static let openOut = 16
  /// struct fuse_write_out.
  @inlinable static var writeOut: Int { 8 }
  /// struct fuse_statfs_out.
  @usableFromInline static let statfsOut = 80
  /// struct fuse_init_out.
  @usableFromInline static let initOut = 64
  /// struct fuse_lseek_out.
  @usableFromInline static let lseekOut = 8
  /// struct fuse_dirent before its name.
  @usableFromInline static let directoryEntry = 24
}

/// Offsets in struct fuse_in_header.
@usableFromInline
enum FuseHeader {
  @inlinable static var byteCount: Int { 40 }
  @inlinable static var opcode: Int { 4 }
  @inlinable static var unique: Int { 8 }
  @inlinable static var node: Int { 16 }
  @inlinable static var process: Int { 32 }
}

/// Flags of INIT (linux/fuse.h, kernel 6.18), as one 64-bit word: bits 32 to 63 travel in `flags2`.
enum FuseInitFlags {
  static let asyncRead: UInt64 = 1 << 0
  static let atomicTruncate: UInt64 = 1 << 3
  static let bigWrites: UInt64 = 1 << 5
  static let readdirplus: UInt64 = 1 << 13
  static let readdirplusAuto: UInt64 = 1 << 14
  static let asyncDirectIO: UInt64 = 1 << 15
  static let parallelDirectoryOperations: UInt64 = 1 << 18
  static let abortError: UInt64 = 1 << 21
  static let maxPages: UInt64 = 1 << 22
  static let extended: UInt64 = 1 << 30
  static let directIOAllowsMap: UInt64 = 1 << 36
  static let overRing: UInt64 = 1 << 41
}

/// Flags of the answer to OPEN.
enum FuseOpenFlags {
  /// FOPEN_DIRECT_IO: every read and write comes here, as on a disk.
  static let directIO: UInt32 = 1 << 0
  /// FOPEN_PARALLEL_DIRECT_WRITES: writers of one file do not wait for each other.
  static let parallelDirectWrites: UInt32 = 1 << 6
}

/// `valid` bits of SETATTR.
enum FuseSetattrBits {
  static let mode: UInt32 = 1 << 0
  static let user: UInt32 = 1 << 1
  static let group: UInt32 = 1 << 2
  static let size: UInt32 = 1 << 3
  static let accessTime: UInt32 = 1 << 4
  static let modificationTime: UInt32 = 1 << 5
  static let fileHandle: UInt32 = 1 << 6
  static let accessTimeNow: UInt32 = 1 << 7
  static let modificationTimeNow: UInt32 = 1 << 8
}

/// Mode bits of FALLOCATE.
@usableFromInline
enum FuseFallocateBits {
  @usableFromInline static let keepSize: UInt32 = 0x01
  @usableFromInline static let punchHole: UInt32 = 0x02
  @usableFromInline static let zeroRange: UInt32 = 0x10
}

/// `errno` values that answers use, positive.
@usableFromInline
enum FuseErrno {
  @usableFromInline static let notPermitted: CInt = 1
  @usableFromInline static let noEntry: CInt = 2
  @inlinable static var inputOutput: CInt { 5 }
  @usableFromInline static let noSuchAddress: CInt = 6
  @usableFromInline static let again: CInt = 11
  @usableFromInline static let noDevice: CInt = 19
  @usableFromInline static let notADirectory: CInt = 20
  @usableFromInline static let isADirectory: CInt = 21
  @inlinable static var invalid: CInt { 22 }
  @inlinable static var noSpace: CInt { 28 }
  @inlinable static var readOnly: CInt { 30 }
  @usableFromInline static let notImplemented: CInt = 38
  @usableFromInline static let notSupported: CInt = 95
  @usableFromInline static let connectionAborted: CInt = 103
}
