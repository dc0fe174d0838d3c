// SPDX-License-Identifier: MIT

public import BlockIO
public import DiskImages
public import FuseExport
import Synchronization
public import XenStore

/// Everything that a mounted disk is made of.
public struct MountPlan: Sendable {
  /// The image file or block device.
  public var imagePath: String
  /// How the image is opened.
  public var image: ImageOptions
  /// How the disk is attached to the machine.
  public var disk: DiskConfiguration
  /// How it is shown.
  public var fuse: FuseOptions
  /// The machine.
  public var machine = MachineConfiguration()
  /// Where the machine's store is served for stock clients, if anywhere.
  public var storeSocketPath: String?
  /// The file with the protection information of the image's sectors; nil keeps none.
  public var tagPath: String?
  /// Called with a sentence for each sector of the image that its protection information does not vouch for, on the queue's
  /// thread.
  public var onViolation: (@Sendable (String) -> Void)?
  /// Called with the machine's store before the disk is attached: for those who want to watch the handshake.
  public var onStore: (@Sendable (StoreServer) -> Void)?

  /// Plans a mount with everything else at its default.
  public init(image: String, at mountPoint: String) {
    imagePath = image
    self.image = ImageOptions(access: .readWrite)
    disk = DiskConfiguration()
    fuse = FuseOptions(mountPoint: mountPoint)
  }
}

/// Why a disk could not be mounted.
public enum MountError: Error, Sendable {
  /// A parameter makes no sense.
  case usage(String)
  /// The machine it runs on lacks something.
  case environment(String)
  /// The image cannot be used.
  case image(String)
}

/// How a mount ended.
public struct MountOutcome: Equatable, Sendable {
  /// The sentence about a flush that failed, or nil when every write is durable.
  public var flushFailure: String?
  /// Whether somebody still had the disk open when it was unmounted.
  public var wasBusy = false
}

/// A disk image that is mounted as a file through a whole Xen machine in this process.
///
/// ```swift
/// let mounted = try MountedDisk.mount(MountPlan(image: "disk.img", at: "/tmp/point"))
/// // ... use mounted.filePath ...
/// mounted.requestStop()
/// let outcome = mounted.waitUntilUnmounted()
/// ```
public final class MountedDisk: Sendable {
  /// The plan, as it was carried out.
  public let plan: MountPlan
  /// The machine.
  public let machine: Machine
  /// The file that is the disk.
  public let filePath: String
  /// Bytes behind the image's last whole sector, which are not part of the disk.
  public let ignoredTailByteCount: Int
  let medium: Medium
  let export: any RunningExport
  private let ownsMachine: Bool
  private let tick: Int

  private init(plan: MountPlan, machine: Machine, medium: Medium, export: any RunningExport, ownsMachine: Bool) {
    self.plan = plan
    self.machine = machine
    self.medium = medium
    self.export = export
    self.ownsMachine = ownsMachine
    filePath = export.filePath
    ignoredTailByteCount = medium.image?.ignoredTailByteCount ?? 0
    let isFixed = plan.tagPath != nil
    tick = machine.loop.addTick { if !isFixed { _ = try? Self.followImage(medium, export) } }
  }

  /// Opens the image, boots a machine for it, attaches the disk and shows it; returns when the file can be used.
  public static func mount(_ plan: MountPlan) throws(MountError) -> MountedDisk {
    let machine = try boot(plan)
    do throws(MountError) { return try mount(plan, on: machine, ownsMachine: true) } catch {
      machine.stopServingStore()
      throw error
    }
  }

  /// Opens an image, attaches it to a machine that may have other disks, and shows it.
  public static func mount(_ plan: MountPlan, on machine: Machine) throws(MountError) -> MountedDisk {
    try mount(plan, on: machine, ownsMachine: false)
  }

  /// Boots the machine that a plan asks for, and serves its store if that is asked for too.
  public static func boot(_ plan: MountPlan) throws(MountError) -> Machine {
    if let complaint = plan.disk.complaint { throw .usage(complaint) }
    let machine: Machine
    do throws(MachineError) { machine = try Machine(plan.machine) } catch { throw .environment(error.sentence) }
    plan.onStore?(machine.store)
    if let path = plan.storeSocketPath {
      do throws(StoreSocketError) { try machine.serveStore(at: path) } catch { throw .environment("\(error)") }
    }
    return machine
  }

  private static func mount(
    _ plan: MountPlan, on machine: Machine, ownsMachine: Bool
  ) throws(MountError) -> MountedDisk {
    var plan = plan
    if let complaint = plan.disk.complaint { throw .usage(complaint) }
    if plan.disk.isRemovable {
      plan.disk.isReadOnly = true
      plan.fuse.isReadOnly = true
    }
    plan.image.queueCount = plan.disk.queues
    if plan.disk.isReadOnly { plan.image.access = .readOnly }
    if plan.disk.params.isEmpty { plan.disk.params = plan.imagePath }
    let image: RawImage
    do throws(BlockError) { image = try RawImage.open(path: plan.imagePath, options: plan.image) } catch {
      throw .image(error.sentence)
    }
    do throws(MountError) {
      guard plan.disk.isRemovable else {
        let export = try plan.export(image, on: machine)
        return MountedDisk(
          plan: plan, machine: machine, medium: .fixed(image), export: export, ownsMachine: ownsMachine)
      }
      let drive = RemovableDrive(image)
      let export = try StackExport.make(drive, plan, on: machine)
      return MountedDisk(
        plan: plan, machine: machine, medium: .removable(drive), export: export, ownsMachine: ownsMachine)
    } catch {
      if !plan.disk.isRemovable { try? image.close() }
      throw error
    }
  }

  /// Asks the mount to end; from any thread.
  public func requestStop(_ urgency: StopUrgency = .orderly) { export.requestStop(urgency) }

  /// Waits for the end, takes the disk off the machine, and closes the image.
  public func waitUntilUnmounted() -> MountOutcome {
    let fuse = export.waitUntilUnmounted()
    machine.loop.endTick(tick)
    export.detach()
    if ownsMachine { machine.stopServingStore() }
    var outcome = MountOutcome(wasBusy: fuse.wasBusy)
    if let code = fuse.flushError {
      outcome.flushFailure = BlockError.system(call: "flush", path: plan.imagePath, code: code).sentence
    }
    do throws(BlockError) { try medium.close() } catch {
      outcome.flushFailure = outcome.flushFailure ?? error.sentence
    }
    return outcome
  }

  /// The disk's size and abilities.
  public var geometry: BlockGeometry { export.geometry }

  /// Begins to write down what happens to each request; ends when the answer is let go.
  public func trace() -> DiskTrace { export.trace() }

  /// What the two ends agreed on.
  public var agreement: RingAgreement { export.agreement }

  /// A sentence for each sector that its protection information did not vouch for, on the rings or in the image: the first
  /// ones, and the last.
  public var protectionErrors: [String] { export.protectionErrors }

  /// What both ends and the file have done so far.
  public var statistics: DiskStatistics { export.statistics }
}
