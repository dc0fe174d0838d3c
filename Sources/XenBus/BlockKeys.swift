// SPDX-License-Identifier: MIT

import XenWire

/// The nodes of a frontend's folder, `device/vbd/<number>` (blkif.h "Frontend XenBus Nodes").
public enum FrontendKey {
  /// The backend's folder; written by the toolstack.
  public static let backend = NodeKey<String>("backend")
  /// The backend's domain; written by the toolstack.
  public static let backendID = NodeKey<UInt32>("backend-id")
  /// Where the frontend stands.
  public static let state = NodeKey<XenbusState>("state", absent: .unknown)
  /// The virtual-device number; written by the toolstack.
  public static let virtualDevice = NodeKey<UInt32>("virtual-device")
  /// Older name of the same.
  public static let virtualDeviceExtended = NodeKey<UInt32>("virtual-device-ext")
  /// `disk` or `cdrom`; written by the toolstack.
  public static let deviceType = NodeKey<String>("device-type", absent: "disk")
  /// Whether the backend may see more of a page than a request names; written by the toolstack.
  public static let trusted = NodeKey<Bool>("trusted", absent: true)
  /// The ring's reference, when it has one page.
  public static let ringReference = NodeKey<UInt32>("ring-ref")
  /// The reference of one of several ring pages.
  public static func ringReference(_ index: Int) -> NodeKey<UInt32> { NodeKey("ring-ref\(index)") }
  /// log2 of the ring's pages; written only when there are several.
  public static let ringPageOrder = NodeKey<UInt32>("ring-page-order")
  /// Deprecated twin of ``ringPageOrder``: the pages themselves.
  public static let ringPageCount = NodeKey<UInt32>("num-ring-pages")
  /// The port that the backend binds to.
  public static let eventChannel = NodeKey<UInt32>("event-channel")
  /// The ring's ABI.
  ///
  /// A missing key means x86_32 to Linux's x86 backend.
  public static let blockProtocol = NodeKey<String>("protocol", absent: BlockProtocol.x86_32.rawValue)
  /// Whether the frontend reuses its grants.
  public static let featurePersistent = NodeKey<Bool>("feature-persistent", absent: false)
  /// The number of queues; written only when there are several.
  public static let queueCount = NodeKey<UInt32>("multi-queue-num-queues", absent: 1)
}

/// The nodes of a backend's folder, `backend/vbd/<domain>/<number>` (blkif.h "Backend XenBus Nodes").
public enum BackendKey {
  /// The frontend's folder; written by the toolstack.
  public static let frontend = NodeKey<String>("frontend")
  /// The frontend's domain; written by the toolstack.
  public static let frontendID = NodeKey<UInt32>("frontend-id")
  /// Where the backend stands.
  public static let state = NodeKey<XenbusState>("state", absent: .unknown)
  /// Whether the device is to stay when it closes; written by the toolstack.
  public static let online = NodeKey<Bool>("online", absent: false)
  /// What to serve; written by the toolstack.
  public static let params = NodeKey<String>("params")
  /// The hotplug script; written by the toolstack.
  public static let script = NodeKey<String>("script")
  /// Whether the medium can be removed; written by the toolstack.
  public static let removable = NodeKey<Bool>("removable", absent: false)
  /// Always 1; written by the toolstack.
  public static let bootable = NodeKey<Bool>("bootable", absent: true)
  /// The disk's name; written by the toolstack.
  public static let dev = NodeKey<String>("dev")
  /// `phy`, `file`, `tap` or `qdisk`; written by the toolstack.
  public static let type = NodeKey<String>("type")
  /// A `w` in it allows writing; written by the toolstack.
  public static let mode = NodeKey<String>("mode", absent: "r")
  /// `disk`, `cdrom` or `floppy`; written by the toolstack.
  public static let deviceType = NodeKey<String>("device-type", absent: "disk")
  /// Whether discard may be offered; written by the toolstack.
  public static let discardEnable = NodeKey<Bool>("discard-enable", absent: true)
  /// `xen`; written by the toolstack.
  public static let specification = NodeKey<String>("specification")
  /// `MAJOR:MINOR` in hexadecimal; written by the hotplug script.
  public static let physicalDevice = NodeKey<String>("physical-device")
  /// What the script opened; written by the hotplug script.
  public static let physicalDevicePath = NodeKey<String>("physical-device-path")
  /// `connected`, `error` or `busy`; written by the hotplug script.
  public static let hotplugStatus = NodeKey<String>("hotplug-status")
  /// Why it is `error`; written by the hotplug script.
  public static let hotplugError = NodeKey<String>("hotplug-error")
  /// Whether opcode 2 is served.
  public static let featureBarrier = NodeKey<Bool>("feature-barrier", absent: false)
  /// Whether opcode 3 is served.
  public static let featureFlushCache = NodeKey<Bool>("feature-flush-cache", absent: false)
  /// Whether opcode 5 is served.
  public static let featureDiscard = NodeKey<Bool>("feature-discard", absent: false)
  /// Bytes.
  public static let discardGranularity = NodeKey<UInt32>("discard-granularity")
  /// Bytes.
  public static let discardAlignment = NodeKey<UInt32>("discard-alignment", absent: 0)
  /// Whether the secure flag is honoured.
  public static let discardSecure = NodeKey<Bool>("discard-secure", absent: false)
  /// Whether the backend keeps grants mapped.
  public static let featurePersistent = NodeKey<Bool>("feature-persistent", absent: false)
  /// Segments of an indirect request; 0: opcode 6 is not served.
  public static let maxIndirectSegments = NodeKey<UInt32>("feature-max-indirect-segments", absent: 0)
  /// log2 of the most ring pages.
  public static let maxRingPageOrder = NodeKey<UInt32>("max-ring-page-order", absent: 0)
  /// Deprecated twin of ``maxRingPageOrder``: the pages themselves.
  public static let maxRingPages = NodeKey<UInt32>("max-ring-pages", absent: 1)
  /// The most queues.
  public static let maxQueues = NodeKey<UInt32>("multi-queue-max-queues", absent: 1)
  /// Capacity in 512-byte sectors.
  public static let sectors = NodeKey<UInt64>("sectors")
  /// Bytes in a logical sector.
  public static let sectorSize = NodeKey<UInt32>("sector-size")
  /// Bytes in a physical sector; the logical size when missing.
  public static let physicalSectorSize = NodeKey<UInt32>("physical-sector-size")
  /// ``DiskInfoFlags``.
  public static let info = NodeKey<UInt32>("info")
}
