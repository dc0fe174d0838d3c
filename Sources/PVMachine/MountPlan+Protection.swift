// SPDX-License-Identifier: MIT

import BlockIO
import DiskImages
import Protection

extension MountPlan {
  /// Where an image's protection information is kept unless something else is said: `IMAGE.dif`.
  public var tagPathBesideImage: String { TagFile.path(besides: imagePath) }

  /// Attaches and mounts an image, behind its protection information if there is to be one.
  func export(_ image: RawImage, on machine: Machine) throws(MountError) -> any RunningExport {
    guard let tagPath else { return try StackExport.make(image, self, on: machine) }
    let tags: TagFile
    do throws(BlockError) {
      let geometry = image.geometry
      tags = try TagFile(
        path: tagPath, form: ProtectionForm(intervalByteCount: geometry.logicalSectorSize > 512 ? 4096 : 512),
        sectorCount: geometry.sectorCount, isReadOnly: geometry.isReadOnly)
    } catch { throw .image(error.sentence) }
    let protected = ProtectedDisk(image, tags: tags)
    if let onViolation { protected.findings.onViolation { onViolation($0.sentence) } }
    return try StackExport.make(protected, self, on: machine)
  }
}
