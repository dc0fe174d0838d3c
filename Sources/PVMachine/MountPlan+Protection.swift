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
    return try StackExport.make(protected, self, on: machine, imageFindings: protected.findings)
  }
}

extension ProtectionFindings {
  /// A sentence for each of the first violations, and for the last.
  var sentences: [String] {
    let first = violations.map(\.sentence)
    guard count > first.count, let last else { return first }
    return first + [last.sentence]
  }
}

extension AttachedDisk {
  /// Has what each end of the rings finds told in a sentence, on the queue's own thread.
  func tellFindings(to tell: (@Sendable (String) -> Void)?) {
    guard let tell else { return }
    findings.front.onViolation { tell("found by the frontend: \($0.sentence)") }
    findings.back.onViolation { tell("found by the backend: \($0.sentence)") }
  }

  /// What both ends of the rings have found.
  var findingSentences: [String] {
    findings.front.sentences.map { "found by the frontend: \($0)" }
      + findings.back.sentences.map { "found by the backend: \($0)" }
  }
}
