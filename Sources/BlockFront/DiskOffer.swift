// SPDX-License-Identifier: MIT

public import BlockIO
public import XenBus
public import XenWire

/// What a backend says of its disk when it is connected (blkfront's `blkfront_connect` and `blkfront_gather_backend_features`).
public struct DiskOffer: Equatable, Sendable {
  /// Size, sector sizes and abilities.
  public var geometry: BlockGeometry
  /// The medium's properties.
  public var flags: DiskInfoFlags
  /// What requests may use.
  public var abilities: FrontAbilities

  /// Reads the backend's folder; nil when a node that must be there is missing or senseless.
  public init?(
    backend: DeviceFolder, knobs: FrontendKnobs, plan: RingPlan = RingPlan(), isPersistent: Bool, isBackendTrusted: Bool
  ) {
    guard let sectors = backend.read(BackendKey.sectors), let sectorSize = backend.read(BackendKey.sectorSize),
      let info = backend.read(BackendKey.info), sectorSize >= 512, sectorSize & (sectorSize - 1) == 0
    else { return nil }
    let physical = backend.read(BackendKey.physicalSectorSize) ?? sectorSize
    flags = DiskInfoFlags(rawValue: info)
    let canDiscard = backend.value(BackendKey.featureDiscard)
    let canFlush = backend.value(BackendKey.featureFlushCache)
    let canBarrier = backend.value(BackendKey.featureBarrier)
    let offered = Int(backend.value(BackendKey.maxIndirectSegments))
    abilities = FrontAbilities(
      isPersistent: isPersistent && backend.value(BackendKey.featurePersistent),
      maxSegments: plan.segmentLimit(offered: min(offered, knobs.maxIndirectSegments)), canFlush: canFlush,
      canBarrier: canBarrier,
      canDiscard: canDiscard, canDiscardSecurely: backend.value(BackendKey.discardSecure),
      isBackendTrusted: isBackendTrusted)
    geometry = BlockGeometry(
      sectorCount: sectors, logicalSectorSize: Int(sectorSize), physicalSectorSize: Int(physical),
      isReadOnly: flags.contains(.readOnly), hasVolatileCache: canFlush || canBarrier)
    if canDiscard {
      geometry.discard = DiscardAbility(
        granularity: Int(backend.read(BackendKey.discardGranularity) ?? physical),
        alignment: Int(backend.value(BackendKey.discardAlignment)), isSecureSupported: abilities.canDiscardSecurely)
    }
  }
}
