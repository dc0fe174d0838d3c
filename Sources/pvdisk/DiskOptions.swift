// SPDX-License-Identifier: MIT

public import ArgumentParser
import BlockBack
import CLinux
import DiskImages
import FuseExport
import Glibc
public import PVMachine
import XenHypervisor
import XenWire

/// The options that `mount` and `run` share.
struct DiskOptions: ParsableArguments {
  @Flag(name: [.customShort("r"), .customLong("read-only")], help: "Refuse writes; several may mount an image so.")
  var isReadOnly = false

  @Option(
    help: ArgumentHelp("Queues, each with a thread of its own (default: one for each CPU, at most 4).", valueName: "N"))
  var queues: Int?

  @Option(help: ArgumentHelp("Pages in each ring: 1, 2, 4, 8 or 16.", valueName: "N"))
  var ringPages = 4

  @Option(help: ArgumentHelp("Pages that one request may name; 11 or less uses no descriptor pages.", valueName: "N"))
  var indirectSegments = 256

  @Flag(inversion: .prefixedNo, help: "Keep grants and mappings between requests.")
  var persistent = true

  @Option(
    help: ArgumentHelp(
      "Pages that the backend keeps mapped for each queue, as Linux's parameter (1056 there).", valueName: "N"))
  var maxPersistentGrants = 16_384

  @OptionGroup var rings: RingArguments

  @Option(help: ArgumentHelp("inline: both ends on one thread; threads: each on its own.", valueName: "where"))
  var placement = Placement.usual

  @Option(help: ArgumentHelp("Bytes in a logical sector: 512 or 4096.", valueName: "bytes"))
  var sectorSize: Int?

  @Option(
    help: ArgumentHelp("Bytes in a physical sector that the disk tells of, whatever it lies on.", valueName: "bytes"))
  var physicalSectorSize: Int?

  @Option(
    help: ArgumentHelp("The disk's name or number in the guest (xvda, or the next that is free).", valueName: "name"))
  var vdev: String?

  @Flag(help: "A CD-ROM drive: read-only, and 'pvdisk eject' and 'pvdisk insert' change its medium.")
  var cdrom = false

  @Option(
    help: ArgumentHelp("writeback: the page cache; none: O_DIRECT; unsafe: flushes do nothing.", valueName: "mode"))
  var cache = Cache.writeback

  @Flag(
    inversion: .prefixedNo,
    help: "Copy all reads, or none, from a mapping of the image; without either those that are in the page cache.")
  var mapImage: Bool?

  @Option(
    name: [.customShort("o")], help: ArgumentHelp("A FUSE mount option, such as allow_other.", valueName: "option"))
  var fuseOptions: [String] = []

  @Option(help: ArgumentHelp("How backend pages are reached: remap (real mappings) or alias.", valueName: "how"))
  var mapping = Mapping.remap

  @Option(
    help: ArgumentHelp(
      "dev: /dev/fuse; uring: io_uring, faster; auto: uring where the kernel offers it (the default).",
      valueName: "how"))
  var fuseTransport = Transport.usual

  @Option(help: ArgumentHelp("Serve the machine's XenStore on this Unix socket, for stock clients.", valueName: "path"))
  var xenstoreSocket: String?

  @Option(
    help: ArgumentHelp(
      "How the guest's driver reaches the store: direct (function calls) or ring (a guest's ring page).",
      valueName: "how"))
  var guestStore = GuestStoreTransport.direct

  @Flag(help: "Keep protection information of every sector in IMAGE.dif, and check every read against it.")
  var protectImage = false

  @Flag(name: [.short, .long], help: "Show the conversation in the store as it happens.")
  var verbose = false

  /// What `--map-image`, `--no-map-image` or neither of them asks for.
  static func mappedReads(_ choice: Bool?) -> ImageOptions.MappedReads {
    choice.map { $0 ? .always : .never } ?? .whenCached
  }

  enum Cache: String, ExpressibleByArgument, CaseIterable {
    case writeback, none, unsafe
  }

  enum Mapping: String, ExpressibleByArgument, CaseIterable {
    case remap, alias
  }

  enum Transport: String, ExpressibleByArgument, CaseIterable {
    case auto, dev, uring

    /// What `PVDISK_FUSE_TRANSPORT` says, or what the kernel offers (docs/decisions/0030-fuse-over-io-uring.md).
    static var usual: Transport {
      unsafe getenv("PVDISK_FUSE_TRANSPORT").flatMap { unsafe Self(rawValue: String(cString: $0)) } ?? .auto
    }
  }

  /// What the options ask for.
  func plan(image: String, mountPoint: String) throws -> MountPlan {
    try plan(image: image, mountPoint: mountPoint, vdev: vdev ?? "xvda")
  }

  /// What the options ask for, under a name.
  func plan(image: String, mountPoint: String, vdev: String) throws -> MountPlan {
    var plan = MountPlan(image: image, at: mountPoint)
    plan.image.access = isReadOnly ? .readOnly : .readWrite
    plan.image.cache = cache == .writeback ? .writeback : cache == .none ? .none : .unsafe
    plan.image.mappedReads = Self.mappedReads(mapImage)
    if mapImage == true, cache == .none {
      throw ValidationError("--map-image reads the page cache, which --cache none leaves out")
    }
    if let sectorSize {
      guard sectorSize == 512 || sectorSize == 4096 else {
        throw ValidationError("--sector-size must be 512 or 4096, not \(sectorSize)")
      }
      plan.image.logicalSectorSize = sectorSize
    }
    plan.disk.device = vdev
    plan.disk.queues = queues ?? min(max(Int(pv_cpu_count()), 1), 4)
    plan.disk.ringPages = ringPages
    plan.disk.indirectSegments = indirectSegments
    plan.disk.frontPersistent = persistent
    plan.disk.backPersistent = persistent
    plan.disk.maxPersistentGrants = maxPersistentGrants
    try rings.apply(to: &plan.disk)
    plan.disk.isReadOnly = isReadOnly
    plan.disk.isRemovable = cdrom
    plan.disk.physicalSectorSize = physicalSectorSize
    plan.disk.placement = placement
    plan.machine.mapping = mapping == .remap ? .remap : .alias
    plan.machine.guestStore = guestStore
    plan.fuse.fileName = vdev
    plan.fuse.fileSystemName = "pvdisk:\(image)"
    plan.fuse.isReadOnly = isReadOnly
    plan.fuse.mountOptions = fuseOptions
    plan.fuse.transport = fuseTransport == .auto ? .automatic : fuseTransport == .dev ? .device : .ring
    if let complaint = plan.disk.complaint { throw ValidationError(complaint) }
    plan.storeSocketPath = xenstoreSocket
    if protectImage { plan.tagPath = plan.tagPathBesideImage }
    plan.onViolation = { say("pvdisk: \(image): \($0)") }
    if verbose { plan.onStore = { StoreNarrator.start($0) } }
    return plan
  }
}

extension Placement: ExpressibleByArgument {
  /// What `PVDISK_PLACEMENT` says, or both ends on one thread.
  static var usual: Placement {
    unsafe getenv("PVDISK_PLACEMENT").flatMap { unsafe Self(rawValue: String(cString: $0)) } ?? .inline
  }
}
extension GuestStoreTransport: ExpressibleByArgument {}
