// SPDX-License-Identifier: MIT

import GuestMemory
import SharedRing
import Synchronization
import XenBus
import XenHypervisor
import XenStore
import XenWire

extension FrontendDevice {
  /// Reads the backend's limits, makes the rings, and publishes them in one transaction (blkfront's `talk_to_blkback`).
  ///
  /// Rings that were published before and that no queue has taken are given back: a backend that was refused may say once more
  /// that it is connected, as often as it likes.
  func publishRings(_ backend: DeviceFolder) throws(FrontendError) {
    let unused = state.withLock { state in
      defer { state.links.removeAll { !$0.isTaken } }
      return state.links.filter { !$0.isTaken }
    }
    _ = takeBack(unused)
    let trusted = folder.value(FrontendKey.trusted) && knobs.trusted
    let order = min(ringPageOrder(offeredBy: backend), knobs.maxRingPageOrder)
    let plan = plan(offeredBy: backend, ringPages: 1 << order)
    let queues = max(1, min(Int(backend.value(BackendKey.maxQueues)), knobs.maxQueues))
    let domain = state.withLock { $0.backendDomain }
    var links: [QueueLink] = []
    do {
      for _ in 0..<queues { links.append(try makeLink(plan, backend: domain)) }
      let made = links
      try folder.store.transaction { (transaction) throws(StoreError) in
        try publish(made, plan, in: transaction)
      }
      state.withLock {
        $0.links = made
        $0.plan = plan
        $0.isBackendTrusted = trusted
        $0.isPersistentOffered = knobs.featurePersistent
      }
      try folder.switchState(to: .initialised)
    } catch let error as FrontendError {
      undo(links)
      throw error
    } catch let error as StoreError {
      undo(links)
      throw .store(error.wireName)
    } catch {
      preconditionFailure("an error of no known kind: \(error)")
    }
  }

  /// The order that the backend takes, from the key or its deprecated twin.
  private func ringPageOrder(offeredBy backend: DeviceFolder) -> Int {
    if let order = backend.read(BackendKey.maxRingPageOrder) { return Int(order) }
    let pages = max(1, backend.value(BackendKey.maxRingPages))
    return pages.bitWidth - 1 - pages.leadingZeroBitCount
  }

  /// Makes and grants one ring and takes a port for it.
  private func makeLink(_ plan: RingPlan, backend: DomainID) throws(FrontendError) -> QueueLink {
    let geometry = RingGeometry(plan)
    let pages = geometry.pageCount
    let ring: GuestPages
    do { ring = try platform.allocatePages(pages) } catch { throw .grant(.pages) }
    FrontRing.initialise(ring.region, geometry)
    let references: [GrantReference]
    do { references = try platform.allocateReferences(for: ring) } catch {
      platform.freePages(ring)
      throw .grant(.references)
    }
    for (page, reference) in references.enumerated() {
      let frame = FrameNumber(rawValue: ring.firstFrame.rawValue + UInt64(page))
      platform.grantAccess(reference, to: backend, frame: frame, isReadOnly: false)
    }
    do {
      return QueueLink(ring: ring, references: references, port: try platform.allocateUnbound(remote: backend))
    } catch {
      for reference in references { _ = platform.endAccess(reference) }
      platform.freeReferences(references)
      platform.freePages(ring)
      throw .event("\(error)")
    }
  }

  private func undo(_ links: [QueueLink]) {
    state.withLock { $0.links = [] }
    _ = takeBack(links)
  }

  /// One queue writes its nodes into the folder itself, several into `queue-N`; one page is `ring-ref`, several are
  /// `ring-ref0`, `ring-ref1` ...
  private func publish(_ links: [QueueLink], _ plan: RingPlan, in transaction: TransactionID) throws(StoreError) {
    let order = plan.ringPages.trailingZeroBitCount
    try publishChoice(plan, in: transaction)
    if order > 0 { try folder.write(UInt32(order), to: FrontendKey.ringPageOrder, in: transaction) }
    if links.count > 1 { try folder.write(UInt32(links.count), to: FrontendKey.queueCount, in: transaction) }
    for (index, link) in links.enumerated() {
      func place(_ key: NodeKey<UInt32>) -> NodeKey<UInt32> { links.count > 1 ? key.inQueue(index) : key }
      for (key, reference) in zip(plan.referenceKeys(isNumbered: order > 0), link.references) {
        try folder.write(reference.rawValue, to: place(key), in: transaction)
      }
      try folder.write(link.port.rawValue, to: place(FrontendKey.eventChannel), in: transaction)
    }
    try folder.write(blockProtocol.rawValue, to: FrontendKey.blockProtocol, in: transaction)
    try folder.write(knobs.featurePersistent, to: FrontendKey.featurePersistent, in: transaction)
  }
}
