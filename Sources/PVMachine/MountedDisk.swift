// SPDX-License-Identifier: MIT

public import BlockIO
public import DiskImages
public import FuseExport
import Synchronization
import XenHypervisor
public import XenStore
import XenWire

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
  private let image: RawImage
  private let storeSocket: StoreSocketServer?
  private let export: any RunningExport

  private init(
    plan: MountPlan, machine: Machine, image: RawImage, storeSocket: StoreSocketServer?, export: any RunningExport
  ) {
    self.plan = plan
    self.storeSocket = storeSocket
    self.machine = machine
    self.image = image
    self.export = export
    filePath = export.filePath
    ignoredTailByteCount = image.ignoredTailByteCount
  }

  /// Opens the image, boots a machine, attaches the disk and shows it; returns when the file can be used.
  public static func mount(_ plan: MountPlan) throws(MountError) -> MountedDisk {
    var plan = plan
    if let complaint = plan.disk.complaint { throw .usage(complaint) }
    plan.image.queueCount = plan.disk.queues
    if plan.disk.isReadOnly { plan.image.access = .readOnly }
    if plan.disk.params.isEmpty { plan.disk.params = plan.imagePath }
    let image: RawImage
    do throws(BlockError) { image = try RawImage.open(path: plan.imagePath, options: plan.image) } catch {
      throw .image(error.sentence)
    }
    do throws(MountError) {
      let machine = try boot(plan)
      let socket = try plan.storeSocketPath.map { (path) throws(MountError) in try serve(machine.store, at: path) }
      do throws(MountError) {
        let export = try plan.export(image, on: machine)
        return MountedDisk(plan: plan, machine: machine, image: image, storeSocket: socket, export: export)
      } catch {
        socket?.stop()
        throw error
      }
    } catch {
      try? image.close()
      throw error
    }
  }

  private static func boot(_ plan: MountPlan) throws(MountError) -> Machine {
    do throws(MachineError) {
      let machine = try Machine(plan.machine)
      plan.onStore?(machine.store)
      return machine
    } catch { throw .environment(error.sentence) }
  }

  private static func serve(_ store: StoreServer, at path: String) throws(MountError) -> StoreSocketServer {
    do throws(StoreSocketError) { return try StoreSocketServer(server: store, path: path) } catch {
      throw .environment("\(error)")
    }
  }

  /// Asks the mount to end; from any thread.
  public func requestStop(_ urgency: StopUrgency = .orderly) { export.requestStop(urgency) }

  /// Waits for the end, takes the disk off the machine, and closes the image.
  public func waitUntilUnmounted() -> MountOutcome {
    let fuse = export.waitUntilUnmounted()
    export.detach()
    storeSocket?.stop()
    var outcome = MountOutcome(wasBusy: fuse.wasBusy)
    if let code = fuse.flushError {
      outcome.flushFailure = BlockError.system(call: "flush", path: plan.imagePath, code: code).sentence
    }
    do throws(BlockError) { try image.close() } catch {
      outcome.flushFailure = outcome.flushFailure ?? error.sentence
    }
    return outcome
  }

  /// The disk's size and abilities.
  public var geometry: BlockGeometry { export.geometry }

  /// What the two ends agreed on.
  public var agreement: RingAgreement { export.agreement }

  /// What both ends and the file have done so far.
  public var statistics: DiskStatistics { export.statistics }
}

/// A mount without the types of what it is made of.
protocol RunningExport: Sendable {
  var filePath: String { get }
  var geometry: BlockGeometry { get }
  var agreement: RingAgreement { get }
  var statistics: DiskStatistics { get }
  func requestStop(_ urgency: StopUrgency)
  func waitUntilUnmounted() -> FuseOutcome
  func detach()
}

/// A mount of an attached disk.
private struct StackExport<Image: BlockDevice>: RunningExport {
  let disk: AttachedDisk<Image>
  let mount: FuseMount<AttachedDisk<Image>>

  var filePath: String { mount.filePath }
  var geometry: BlockGeometry { disk.geometry }
  var agreement: RingAgreement { disk.agreement }
  var statistics: DiskStatistics { DiskStatistics(disk: disk, fuse: mount.statistics) }
  func requestStop(_ urgency: StopUrgency) { mount.requestStop(urgency) }
  func waitUntilUnmounted() -> FuseOutcome { mount.waitUntilUnmounted() }
  func detach() { disk.detach() }
}

extension DiskConfiguration {
  /// Attaches and mounts.
  func export<Image: BlockDevice>(
    _ image: Image, on machine: Machine, _ fuse: FuseOptions
  ) throws(MountError) -> any RunningExport {
    let disk: AttachedDisk<Image>
    do throws(MachineError) { disk = try machine.attach(image, as: self) } catch {
      if case .usage(let sentence) = error { throw .usage(sentence) }
      throw .environment(error.sentence)
    }
    do throws(FuseError) {
      let mount = try FuseMount.mount(device: disk, options: fuse)
      try mount.start()
      return StackExport(disk: disk, mount: mount)
    } catch {
      disk.detach()
      switch error {
      case .unknownOption, .invalidFileName: throw .usage(error.description)
      default: throw .environment(error.description)
      }
    }
  }
}
