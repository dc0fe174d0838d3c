// SPDX-License-Identifier: MIT

import GuestMemory

/// The answer to INIT: what of the kernel's offer is taken up.
///
/// Pure: bytes of struct fuse_init_in in, bytes of struct fuse_init_out out.
struct FuseNegotiation: Equatable, Sendable {
  /// The most bytes in one READ or WRITE.
  var maximumTransfer: Int
  /// Whether requests shall travel over io_uring.
  var wantsRing: Bool

  /// What came of it.
  enum Outcome: Equatable {
    /// The structure is in the answer area; the flags are those in force.
    case agreed(flags: UInt64)
    /// The kernel speaks a protocol that we do not.
    case refused
  }

  static let majorVersion: UInt32 = 7
  static let minorVersion: UInt32 = 38
  /// The oldest kernel protocol that has 1 MiB requests (Linux 4.20).
  static let oldestMinorVersion: UInt32 = 28
  /// Requests that the kernel sends without waiting for answers: asynchronous direct I/O is throttled by it.
  static let maximumBackground: UInt16 = 1024

  /// Reads the offer at `arguments` and writes the answer to `area`.
  func negotiate(offer arguments: SharedRegion, into area: SharedRegion) -> Outcome {
    let major = arguments.load(UInt32.self, at: 0)
    let minor = arguments.load(UInt32.self, at: 4)
    guard major > Self.majorVersion || (major == Self.majorVersion && minor >= Self.oldestMinorVersion) else {
      return .refused
    }
    var offered = UInt64(arguments.load(UInt32.self, at: 12))
    if offered & FuseInitFlags.extended != 0 { offered |= UInt64(arguments.load(UInt32.self, at: 16)) << 32 }
    var wanted =
      FuseInitFlags.asyncRead | FuseInitFlags.bigWrites | FuseInitFlags.asyncDirectIO | FuseInitFlags.maxPages
      | FuseInitFlags.parallelDirectoryOperations | FuseInitFlags.abortError | FuseInitFlags.extended
      | FuseInitFlags.readdirplus | FuseInitFlags.readdirplusAuto | FuseInitFlags.directIOAllowsMap
    if wantsRing { wanted |= FuseInitFlags.overRing }
    let flags = wanted & offered
    area.fill(0, at: 0, byteCount: FuseSize.initOut)
    area.store(Self.majorVersion, at: 0)
    area.store(min(Self.minorVersion, minor), at: 4)
    area.store(arguments.load(UInt32.self, at: 8), at: 8)
    area.store(UInt32(truncatingIfNeeded: flags), at: 12)
    area.store(Self.maximumBackground, at: 16)
    area.store(Self.maximumBackground / 4 * 3, at: 18)
    area.store(UInt32(maximumTransfer), at: 20)
    area.store(UInt32(1), at: 24)
    area.store(UInt16(clamping: PageGeometry.pages(for: maximumTransfer)), at: 28)
    area.store(UInt32(truncatingIfNeeded: flags >> 32), at: 32)
    return .agreed(flags: flags)
  }
}
