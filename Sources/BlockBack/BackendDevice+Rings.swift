// SPDX-License-Identifier: MIT

public import BlockIO
import SharedRing
import Synchronization
import XenBus
public import XenHypervisor
import XenStore
public import XenWire

/// What a frontend asked for and a backend accepted: one link a queue.
public struct Negotiation<Platform: BackendPlatform>: @unchecked Sendable {
  // SAFETY: handed from the control plane to one queue's thread and not used by both.
  /// The form of the rings.
  public let plan: RingPlan
  /// Both ends keep grants.
  public let isPersistent: Bool
  /// The frontend's domain.
  public let peer: DomainID
  /// Each queue's ring and port.
  public let links: [(ring: ContiguousMapping, port: EventPort)]
}

extension BackendDevice {
  /// Reads what the frontend published, maps its rings and binds its ports (blkback's `connect_ring` and
  /// `read_per_ring_refs`).
  ///
  /// After a failure nothing stays mapped and the device is closing.
  public func connectRings() throws(HandshakeFailure) -> Negotiation<Platform> {
    do {
      return try mapRings()
    } catch {
      fail(error)
      throw error
    }
  }

  private func mapRings() throws(HandshakeFailure) -> Negotiation<Platform> {
    guard let frontend = state.withLock({ $0.frontend }) else { throw HandshakeFailure("not probed") }
    let peer = state.withLock { $0.domain }
    let name = frontend.value(FrontendKey.blockProtocol)
    guard let blockProtocol = BlockProtocol(rawValue: name) else {
      throw HandshakeFailure("unknown fe protocol \(name)", code: 38)
    }
    let plan = try plan(chosenBy: frontend, blockProtocol, ringPages: 1 << ringPageOrder(of: frontend))
    let isPersistent = frontend.value(FrontendKey.featurePersistent) && knobs.featurePersistent
    let queues = Int(frontend.value(FrontendKey.queueCount))
    guard queues > 0, queues <= knobs.maxQueues else {
      throw HandshakeFailure("guest requested \(queues) queues, exceeding the maximum of \(knobs.maxQueues).", code: 38)
    }
    var links: [(ring: ContiguousMapping, port: EventPort)] = []
    do {
      for index in 0..<queues {
        links.append(try mapRing(frontend, plan, queue: queues > 1 ? index : nil, peer: peer))
      }
    } catch {
      for link in links {
        platform.close(link.port)
        platform.unmap(link.ring)
      }
      throw error
    }
    return Negotiation(plan: plan, isPersistent: isPersistent, peer: peer, links: links)
  }

  private func mapRing(
    _ frontend: DeviceFolder, _ plan: RingPlan, queue: Int?, peer: DomainID
  ) throws(HandshakeFailure) -> (ring: ContiguousMapping, port: EventPort) {
    func place(_ key: NodeKey<UInt32>) -> NodeKey<UInt32> { queue.map(key.inQueue) ?? key }
    guard let remotePort = frontend.read(place(FrontendKey.eventChannel)) else {
      throw HandshakeFailure("reading \(frontend.path(of: place(FrontendKey.eventChannel)))")
    }
    let references = try ringReferences(frontend, plan, place)
    let ring: ContiguousMapping
    do { ring = try platform.mapContiguously(references, of: peer) } catch {
      throw HandshakeFailure("mapping ring-ref port \(remotePort)")
    }
    do {
      let port = try platform.bindInterdomain(remote: peer, port: EventPort(rawValue: remotePort))
      return (ring, port)
    } catch {
      platform.unmap(ring)
      throw HandshakeFailure("mapping ring-ref port \(remotePort)")
    }
  }

  /// log2 of the ring pages that a frontend asks for.
  private func ringPageOrder(of frontend: DeviceFolder) throws(HandshakeFailure) -> UInt32 {
    let order = frontend.read(FrontendKey.ringPageOrder) ?? deprecatedOrder(of: frontend)
    guard order <= UInt32(knobs.maxRingPageOrder) else {
      throw HandshakeFailure("requested ring page order \(order) exceed max:\(knobs.maxRingPageOrder)")
    }
    return order
  }

  /// log2 of the deprecated `num-ring-pages`, for a frontend that writes nothing else.
  private func deprecatedOrder(of frontend: DeviceFolder) -> UInt32 {
    let pages = max(1, frontend.read(FrontendKey.ringPageCount) ?? 1)
    return UInt32(pages.bitWidth - 1 - pages.leadingZeroBitCount)
  }

  /// As blkback reads them: a `ring-page-order`, even 0, means `ring-ref0` and so on; none means `ring-ref`.
  private func ringReferences(
    _ frontend: DeviceFolder, _ plan: RingPlan, _ place: (NodeKey<UInt32>) -> NodeKey<UInt32>
  ) throws(HandshakeFailure) -> [GrantReference] {
    var references: [GrantReference] = []
    let isNumbered = frontend.read(FrontendKey.ringPageOrder) != nil || plan.ringPages > 1
    for key in plan.referenceKeys(isNumbered: isNumbered) {
      guard let reference = frontend.read(place(key)) else {
        throw HandshakeFailure("reading \(frontend.path(of: place(key)))")
      }
      references.append(GrantReference(rawValue: reference))
    }
    return references
  }

  /// What the toolstack said at the beginning; with the bug of XSA-142, what the frontend says now.
  private var isReadOnlyNow: Bool {
    let (faults, frontend) = state.withLock { ($0.faults, $0.frontend) }
    guard faults.has(.frontendDecidesMode), let frontend else { return isReadOnly }
    return !frontend.value(BackendKey.mode).contains("w")
  }

  private var isDiscardAllowed: Bool { state.withLock { $0.isDiscardEnabled } }

  /// What this backend offers for a disk.
  public func abilities(for geometry: BlockGeometry, isPersistent: Bool) -> BackAbilities {
    let isWriteCached = geometry.hasVolatileCache
    let canDiscard = geometry.discard != nil && isDiscardAllowed
    return BackAbilities(
      isPersistent: isPersistent, maxIndirectSegments: knobs.maxIndirectSegments, canFlush: isWriteCached,
      canBarrier: isWriteCached, canDiscard: canDiscard,
      canDiscardSecurely: canDiscard && geometry.discard?.isSecureSupported == true,
      isReadOnly: isReadOnlyNow || geometry.isReadOnly)
  }

  /// Tells the frontend what the disk is and can, and goes to ``XenbusState/connected`` (blkback's `connect`).
  public func announce(_ geometry: BlockGeometry) throws(HandshakeFailure) {
    let abilities = abilities(for: geometry, isPersistent: knobs.featurePersistent)
    do {
      try folder.store.transaction { (transaction) throws(StoreError) in
        try announce(geometry, abilities, in: transaction)
      }
      try folder.switchState(to: .connected)
    } catch { throw HandshakeFailure(error.wireName) }
    state.withLock { $0.handshake.connected() }
  }

  private func announce(
    _ geometry: BlockGeometry, _ abilities: BackAbilities, in transaction: TransactionID
  ) throws(StoreError) {
    func write<Value>(_ value: Value, _ key: NodeKey<Value>) throws(StoreError) {
      try folder.write(value, to: key, in: transaction)
    }
    try write(abilities.canFlush, BackendKey.featureFlushCache)
    if let discard = geometry.discard, abilities.canDiscard {
      try write(UInt32(discard.granularity), BackendKey.discardGranularity)
      try write(UInt32(discard.alignment), BackendKey.discardAlignment)
      try write(discard.isSecureSupported, BackendKey.discardSecure)
    }
    // A toolstack that forbids discard hears nothing of it.
    if isDiscardAllowed { try write(abilities.canDiscard, BackendKey.featureDiscard) }
    try write(abilities.canBarrier, BackendKey.featureBarrier)
    try write(abilities.isPersistent, BackendKey.featurePersistent)
    try write(geometry.sectorCount, BackendKey.sectors)
    var flags: DiskInfoFlags = []
    if abilities.isReadOnly { flags.insert(.readOnly) }
    if folder.value(BackendKey.deviceType) == "cdrom" { flags.insert(.cdrom) }
    try write(flags.rawValue, BackendKey.info)
    try write(UInt32(geometry.logicalSectorSize), BackendKey.sectorSize)
    try write(UInt32(geometry.physicalSectorSize), BackendKey.physicalSectorSize)
  }
}
