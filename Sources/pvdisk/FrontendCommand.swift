// SPDX-License-Identifier: MIT

import ArgumentParser
import BlockFront
import BlockIO
import CLinux
import FuseExport
import Glibc
import XenBus
import XenFrontend
import XenPlatform
import XenStore
import XenWire

/// `pvdisk frontend`: shows a guest's own disk as a file, in the place of the kernel's blkfront.
struct FrontendCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "frontend",
    abstract: "In a guest of a real Xen: show one of its disks as a file, without the kernel's blkfront.",
    discussion: """
      VDEV is a disk that the guest's toolstack has given it and that no driver has taken (xen-blkfront is not loaded, or the
      device is unbound from it). MOUNTPOINT is an empty directory, in which the disk appears under its name, or a regular
      file. Runs until unmounted, signalled, or until the backend takes the disk away. Needs root and the modules
      xen-gntalloc, xen-evtchn and fuse.
      """)

  @Argument(help: ArgumentHelp("The disk's name or number in the guest.", valueName: "vdev")) var vdev: String
  @Argument(help: ArgumentHelp("An empty directory, or a file.", valueName: "mountpoint")) var mountPoint: String

  @Flag(name: [.customShort("r"), .customLong("read-only")], help: "Refuse writes.") var isReadOnly = false
  @Option(help: ArgumentHelp("The most queues.", valueName: "N")) var queues = 1
  @Option(help: ArgumentHelp("The most pages of one ring: 1, 2, 4, 8 or 16.", valueName: "N")) var ringPages = 1
  @Option(help: ArgumentHelp("Pages that one request may name; 11 or less uses no descriptor pages.", valueName: "N"))
  var indirectSegments = 64
  @Option(help: ArgumentHelp("FUSE requests that each queue can hold.", valueName: "N")) var depth = 16
  @Option(help: ArgumentHelp("KiB in the largest FUSE request.", valueName: "N")) var transfer = 256
  @Option(help: ArgumentHelp("How long the backend may take to answer, in seconds.", valueName: "seconds"))
  var timeout = 30
  @Option(help: ArgumentHelp("The device by which the kernel shares its XenStore connection.", valueName: "path"))
  var store = "/dev/xen/xenbus"
  @Option(name: [.customShort("o")], help: ArgumentHelp("A FUSE mount option.", valueName: "option"))
  var fuseOptions: [String] = []
  @Flag(help: "Return when the disk is ready, and serve in the background.") var daemonize = false
  @Option(
    name: [.customShort("P"), .customLong("pid-file")],
    help: ArgumentHelp("Write the process number here when the disk is ready.", valueName: "file"))
  var pidFile: String?

  func validate() throws {
    guard (1...16).contains(queues) else { throw ValidationError("--queues must be 1 to 16, not \(queues)") }
    guard [1, 2, 4, 8, 16].contains(ringPages) else {
      throw ValidationError("--ring-pages must be 1, 2, 4, 8 or 16, not \(ringPages)")
    }
    guard (0...256).contains(indirectSegments) else {
      throw ValidationError("--indirect-segments must be 0 to 256, not \(indirectSegments)")
    }
    guard (1...256).contains(depth) else { throw ValidationError("--depth must be 1 to 256, not \(depth)") }
    guard (4...1024).contains(transfer), transfer % 4 == 0 else {
      throw ValidationError("--transfer must be 4 to 1024, a multiple of 4, not \(transfer)")
    }
    guard VirtualDevice(vdev) != nil else {
      throw ValidationError("'\(vdev)' is not a disk name; use xvda, xvdb, ... or a device number")
    }
  }

  func run() throws {
    guard let device = VirtualDevice(vdev) else { return }
    if let pidFile { try PIDFile.check(path: pidFile) }
    let ready = daemonize ? pv_daemonize_begin() : -1
    if daemonize, ready < 0 { throw Refusal("cannot go to the background: \(Refusal.reason)") }
    DaemonSignals.block()
    _ = pv_set_io_flusher()
    let guest: XenGuest
    do { guest = try XenGuest() } catch { throw Refusal("\(error)") }
    let disk = try connect(device, guest)
    let mount = try show(disk, device)
    let pid = try pidFile.map { path throws in try PIDFile(path: path) }
    say("pvdisk: \(device.name) is \(mount.filePath) (\(ByteSize.text(disk.geometry.byteCount))), \(disk.agreement)")
    if ready >= 0 { pv_daemonize_end(ready) }
    Background.start {
      while DaemonSignals.wait() == SIGHUP {}
      mount.requestStop(.orderly)
      while DaemonSignals.wait() == SIGHUP {}
      mount.requestStop(.immediate)
    }
    let outcome = mount.waitUntilUnmounted()
    disk.close()
    pid?.remove()
    let totals = disk.totals.filter { $0.value > 0 }.map { "\($0.name) \($0.value)" }.joined(separator: ", ")
    say("pvdisk: \(device.name) ended; \(totals); \(guest.pageCount) pages and \(guest.portCount) ports left")
    if let code = outcome.flushError {
      throw Refusal("\(device.name) could not be flushed (error \(code))", status: ExitStatus.flushFailed)
    }
  }

  /// Finds the disk in the guest's store and connects to its backend.
  private func connect(_ device: VirtualDevice, _ guest: XenGuest) throws -> GuestDisk<XenGuestPlatform> {
    let handle: RemoteStore
    do { handle = try RemoteStore(device: store) } catch {
      throw Refusal("cannot use the XenStore through \(store): \(error); run this as root in a guest of a Xen host")
    }
    let folder = DeviceFolder(store: handle, path: StorePath.home(of: handle.domain) / "device/vbd" / device.number)
    guard let backend = folder.read(FrontendKey.backendID) else {
      throw Refusal("this guest has no disk \(device.name); its toolstack has to attach one first")
    }
    let driver = "/sys/bus/xen/devices/vbd-\(device.number)/driver"
    guard unsafe access(driver, F_OK) != 0 else {
      throw Refusal(
        "the kernel's own driver has \(device.name); unload xen-blkfront, or write vbd-\(device.number) to "
          + "\(driver)/unbind")
    }
    var knobs = FrontendKnobs()
    knobs.maxQueues = queues
    knobs.maxRingPageOrder = ringPages.trailingZeroBitCount
    knobs.maxIndirectSegments = indirectSegments
    XenGuest.raiseLimit(by: queues * (FrontArena.bouncePages + FrontArena.zeroPages + 8192))
    let platform = XenGuestPlatform(guest, peer: DomainID(rawValue: UInt16(truncatingIfNeeded: backend)))
    do throws(BlockError) {
      return try GuestDisk(platform: platform, folder: folder, knobs: knobs, milliseconds: timeout * 1000)
    } catch { throw Refusal(error.sentence) }
  }

  private func show(
    _ disk: GuestDisk<XenGuestPlatform>, _ device: VirtualDevice
  ) throws -> FuseMount<GuestDisk<XenGuestPlatform>> {
    var options = FuseOptions(mountPoint: mountPoint)
    options.fileName = device.name
    options.fileSystemName = "pvdisk:\(device.name)"
    options.isReadOnly = isReadOnly
    options.mountOptions = fuseOptions
    options.depth = depth
    options.maximumTransfer = transfer << 10
    do throws(FuseError) {
      let mount = try FuseMount.mount(device: disk, options: options)
      disk.onResize { [weak mount] in mount?.announceSize() }
      disk.onEnd { [weak mount] why in
        say("pvdisk: \(why)")
        mount?.requestStop(.immediate)
      }
      try mount.start()
      return mount
    } catch {
      disk.close()
      throw Refusal(error.description)
    }
  }
}
