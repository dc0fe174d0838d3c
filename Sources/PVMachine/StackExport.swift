// SPDX-License-Identifier: MIT

import BlockBack
import BlockIO
import DiskImages
import FuseExport
import Protection

/// A mount without the types of what it is made of.
protocol RunningExport: Sendable {
  var filePath: String { get }
  var geometry: BlockGeometry { get }
  var statistics: DiskStatistics { get }
  var agreement: RingAgreement { get }
  var phase: DiskPhase { get }
  var protectionErrors: [String] { get }
  func requestStop(_ urgency: StopUrgency)
  func waitUntilUnmounted() -> FuseOutcome
  func detach()
  func announceCapacity() throws(MachineError) -> Bool
  func writeParams(_ text: String)
  func suspend(then next: @escaping @Sendable () -> Void)
  func resume(with knobs: BackendKnobs?)
  func trace() -> DiskTrace
}

/// What lies under a mounted disk.
enum Medium: Sendable {
  case fixed(RawImage)
  case removable(RemovableDrive)

  /// The image, if there is one at this moment.
  var image: RawImage? {
    switch self {
    case .fixed(let image): image
    case .removable(let drive): drive.current
    }
  }

  /// Makes everything durable and lets go of the image.
  func close() throws(BlockError) {
    switch self {
    case .fixed(let image): try image.close()
    case .removable(let drive): drive.eject()
    }
  }
}

/// A mount of an attached disk.
struct StackExport<Image: BlockDevice>: RunningExport {
  let disk: AttachedDisk<Image>
  let mount: FuseMount<AttachedDisk<Image>>
  /// What the image's own protection information has found.
  let imageFindings: ProtectionFindings?

  /// Attaches and mounts.
  static func make(
    _ image: Image, _ plan: MountPlan, on machine: Machine, imageFindings: ProtectionFindings? = nil
  ) throws(MountError) -> StackExport {
    let disk: AttachedDisk<Image>
    do throws(MachineError) { disk = try machine.attach(image, as: plan.disk) } catch {
      if case .usage(let sentence) = error { throw .usage(sentence) }
      throw .environment(error.sentence)
    }
    disk.tellFindings(to: plan.onViolation)
    do throws(FuseError) {
      let mount = try FuseMount.mount(device: disk, options: plan.fuse)
      disk.onResize { [weak mount] in mount?.announceSize() }
      try mount.start()
      return StackExport(disk: disk, mount: mount, imageFindings: imageFindings)
    } catch {
      disk.detach()
      switch error {
      case .unknownOption, .invalidFileName: throw .usage(error.description)
      default: throw .environment(error.description)
      }
    }
  }

  var filePath: String { mount.filePath }
  var geometry: BlockGeometry { disk.geometry }
  var statistics: DiskStatistics { DiskStatistics(disk: disk, fuse: mount.statistics) }
  var agreement: RingAgreement { disk.agreement }
  var phase: DiskPhase { disk.phase }
  var protectionErrors: [String] { (imageFindings?.sentences ?? []) + disk.findingSentences }
  func requestStop(_ urgency: StopUrgency) { mount.requestStop(urgency) }
  func waitUntilUnmounted() -> FuseOutcome { mount.waitUntilUnmounted() }
  func detach() { disk.detach() }
  func trace() -> DiskTrace { disk.trace() }
  func announceCapacity() throws(MachineError) -> Bool { try disk.announceCapacity() }
  func writeParams(_ text: String) { disk.writeParams(text) }
  func suspend(then next: @escaping @Sendable () -> Void) { disk.suspend(then: next) }
  func resume(with knobs: BackendKnobs?) { disk.resume(with: knobs) }
}
