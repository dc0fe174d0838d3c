// SPDX-License-Identifier: MIT

public import BlockBack
import BlockIO
import DiskImages

/// What can be done to a disk while it is mounted.
extension MountedDisk {
  /// Where the disk's two ends stand.
  public var phase: DiskPhase { export.phase }
  /// The image's path; nil when the drive is empty.
  public var imagePath: String? { medium.image?.path }

  /// Gives the image another size, or looks whether it has one, and tells both ends and the file.
  /// - Parameter byteCount: the new size; nil only looks.
  /// - Returns: the disk's size from now on.
  /// - Throws: ``MountError``; the disk is then as it was.
  @discardableResult
  public func resize(to byteCount: UInt64? = nil, allowsShrinking: Bool = false) throws(MountError) -> UInt64 {
    guard plan.tagPath == nil else {
      throw .usage("\(filePath) has protection information of a fixed size; unmount it and make both anew")
    }
    let (medium, export) = (medium, export)
    let result = machine.loop.perform { () -> Result<UInt64, MountError> in
      Result { () throws(MountError) -> UInt64 in
        if let byteCount {
          guard let image = medium.image else { throw .image("there is no medium in the drive") }
          do throws(BlockError) { try image.resize(to: byteCount, allowsShrinking: allowsShrinking) } catch {
            throw .image(error.sentence)
          }
        }
        return try Self.followImage(medium, export)
      }
    }
    return try result.get()
  }

  /// Looks at the image's size and tells of a new one; on the control thread.
  static func followImage(_ medium: Medium, _ export: any RunningExport) throws(MountError) -> UInt64 {
    do throws(BlockError) { try medium.image?.refreshGeometry() } catch { throw .image(error.sentence) }
    do throws(MachineError) { _ = try export.announceCapacity() } catch { throw .environment(error.sentence) }
    guard let image = medium.image else { return 0 }
    return image.geometry.byteCount
  }

  /// Takes the medium out of a CD-ROM drive: the file is empty then, and what is read fails.
  /// - Returns: whether there was one.
  public func eject() throws(MountError) -> Bool {
    try changeMedium { (drive) throws(MountError) in drive.eject() }
  }

  /// Puts a medium into a CD-ROM drive, in the place of what is there.
  public func insert(_ path: String) throws(MountError) {
    var options = plan.image
    options.access = .readOnly
    options.logicalSectorSize = medium.image?.geometry.logicalSectorSize ?? options.logicalSectorSize
    let image: RawImage
    do throws(BlockError) { image = try RawImage.open(path: path, options: options) } catch {
      throw .image(error.sentence)
    }
    _ = try changeMedium { (drive) throws(MountError) in
      do throws(BlockError) { try drive.insert(image) } catch { throw .image(error.sentence) }
      return true
    }
  }

  private func changeMedium(
    _ change: @escaping @Sendable (RemovableDrive) throws(MountError) -> Bool
  ) throws(MountError) -> Bool {
    guard case .removable(let drive) = medium else {
      throw .usage("\(filePath) is not a CD-ROM drive; mount it with --cdrom to change its medium")
    }
    let (medium, export) = (medium, export)
    let result = machine.loop.perform { () -> Result<Bool, MountError> in
      Result { () throws(MountError) -> Bool in
        let hasChanged = try change(drive)
        export.writeParams(drive.current?.path ?? "")
        _ = try Self.followImage(medium, export)
        return hasChanged
      }
    }
    return try result.get()
  }

  /// Lets the backend go in mid-I/O: what is under way and what comes waits for ``resume(with:)``.
  ///
  /// Returns when the backend has let go.
  public func suspend() {
    let gate = DispatchGate()
    export.suspend { gate.open() }
    gate.wait()
  }

  /// Gives the disk a backend again, with settings of its own if given.
  public func resume(with knobs: BackendKnobs? = nil) { export.resume(with: knobs) }

  /// The settings of a backend that is like this disk's, for a change before ``resume(with:)``.
  public var backendKnobs: BackendKnobs { plan.disk.backendKnobs }
}
