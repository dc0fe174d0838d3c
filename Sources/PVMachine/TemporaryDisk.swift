// SPDX-License-Identifier: MIT

import BlockIO
import DiskImages
import FuseExport
import Glibc

/// A mounted disk for a test: an empty image and a mount point in a folder of their own, which goes with the object.
///
/// ```swift
/// let disk = try TemporaryDisk(byteCount: 64 << 20)
/// // ... use disk.path: a file that is the disk ...
/// let outcome = disk.close()
/// ```
public final class TemporaryDisk {
  /// The file that is the disk.
  public var path: String { mounted.filePath }
  /// The image under the stack.
  public let imagePath: String
  /// The mount, with its counters and its machine.
  public let mounted: MountedDisk
  private let folder: String
  private var outcome: MountOutcome?

  /// Makes a sparse image and mounts it.
  /// - Parameters:
  ///   - byteCount: the disk's size, a whole number of sectors.
  ///   - change: what is different from the defaults.
  /// - Throws: ``MountError``; nothing is left behind.
  public init(byteCount: UInt64, _ change: (inout MountPlan) -> Void = { _ in }) throws(MountError) {
    let folder = try Self.makeFolder()
    self.folder = folder
    imagePath = "\(folder)/disk.img"
    do throws(MountError) {
      do throws(BlockError) { try RawImage.create(path: imagePath, byteCount: byteCount) } catch {
        throw .image(error.sentence)
      }
      var plan = MountPlan(image: imagePath, at: "\(folder)/mount")
      change(&plan)
      mounted = try MountedDisk.mount(plan)
    } catch {
      Self.remove(folder)
      throw error
    }
  }

  deinit { _ = close() }

  /// Unmounts and removes everything; closing twice is one closing.
  @discardableResult
  public func close() -> MountOutcome {
    if let outcome { return outcome }
    mounted.requestStop()
    let outcome = mounted.waitUntilUnmounted()
    self.outcome = outcome
    Self.remove(folder)
    return outcome
  }

  private static func makeFolder() throws(MountError) -> String {
    let base = unsafe getenv("TMPDIR").map { unsafe String(cString: $0) } ?? "/tmp"
    var template = Array("\(base)/pvdisk-XXXXXX".utf8CString)
    guard unsafe mkdtemp(&template) != nil else { throw .environment("cannot make a folder in \(base)") }
    let folder = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
    guard unsafe mkdir("\(folder)/mount", 0o700) == 0 else { throw .environment("cannot make a folder in \(folder)") }
    return folder
  }

  private static func remove(_ folder: String) {
    _ = unsafe unlink("\(folder)/disk.img")
    _ = unsafe rmdir("\(folder)/mount")
    _ = unsafe rmdir(folder)
  }
}
