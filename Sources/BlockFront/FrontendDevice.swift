// SPDX-License-Identifier: MIT

import BlockIO
import GuestMemory
import Synchronization
public import XenBus
public import XenHypervisor
import XenStore
public import XenWire

/// The control plane of a frontend: its half of the conversation in the store, and the rings that come out of it
/// (blkfront's probe, `talk_to_blkback` and `blkfront_connect`).
///
/// Its folder's nodes and their order are those of Linux; a watch on the backend's `state` drives ``FrontendHandshake``.
/// Methods may be called from any thread, one at a time.
public final class FrontendDevice<Platform: FrontendPlatform & Sendable>: Sendable {
  /// What came of handling the backend's moves.
  public enum Event: Equatable, Sendable {
    /// Connected; ``FrontendDevice/connection(ofQueue:)`` has the rings.
    case connected(DiskOffer)
    /// The disk's capacity changed, in 512-byte sectors.
    case resized(UInt64)
    /// The backend closes; let go of the queues, then call ``FrontendDevice/finishClosing()``.
    case closing
    /// The device cannot be used.
    case failed(FrontendError)
  }

  /// One queue's ring and port.
  struct QueueLink: Sendable {
    var ring: GuestPages
    var references: [GrantReference]
    var port: EventPort
    /// Whether a queue has the port now, and closes it.
    var isTaken = false
  }

  struct State: Sendable {
    var handshake = FrontendHandshake()
    var backend: DeviceFolder?
    var backendDomain = DomainID.control
    var device: VirtualDevice?
    var isBackendTrusted = true
    var isPersistentOffered = false
    var links: [QueueLink] = []
    var plan = RingPlan()
    var offer: DiskOffer?
  }

  /// The hypervisor as the frontend's domain sees it.
  public let platform: Platform
  /// The frontend's folder in the store.
  public let folder: DeviceFolder
  /// What the administrator set.
  public let knobs: FrontendKnobs
  let blockProtocol: BlockProtocol
  let state = Mutex(State())

  /// Makes the control plane of the frontend whose folder is given; nothing happens before ``probe()``.
  public init(platform: Platform, folder: DeviceFolder, knobs: FrontendKnobs, blockProtocol: BlockProtocol) {
    self.platform = platform
    self.folder = folder
    self.knobs = knobs
    self.blockProtocol = blockProtocol
  }

  /// Where the frontend stands.
  public var handshakeState: XenbusState { state.withLock { $0.handshake.state } }
  /// The number of queues that were agreed on.
  public var queueCount: Int { state.withLock { $0.links.count } }
  /// Pages in each ring.
  public var ringPageCount: Int { plan.ringPages }
  /// The form of the rings that was agreed on.
  public var plan: RingPlan { state.withLock { $0.plan } }

  /// Reads what the toolstack wrote and starts to watch the backend.
  public func probe() throws(FrontendError) {
    guard
      let number = folder.read(FrontendKey.virtualDevice) ?? folder.read(FrontendKey.virtualDeviceExtended)
    else { throw .store("\(folder.path) has no virtual-device") }
    state.withLock { $0.device = VirtualDevice("\(number)") }
    try findBackend()
  }

  /// Handles the watch events that wait: looks at the backend's state and does what it calls for.
  public func handleWatches() -> [Event] {
    var hasMoved = false
    while folder.store.nextEvent() != nil { hasMoved = true }
    return hasMoved ? lookAtBackend() : []
  }

  /// Looks at the backend's state as if a watch had fired.
  public func lookAtBackend() -> [Event] {
    guard let backend = state.withLock({ $0.backend }) else { return [] }
    let action = state.withLock { $0.handshake.peerMoved(to: backend.state) }
    do {
      switch action {
      case .none: return []
      case .publishRings:
        try publishRings(backend)
        return []
      case .publishRingsAndConnect:
        try publishRings(backend)
        return try connect(backend)
      case .connect: return try connect(backend)
      case .readCapacity: return readCapacity(backend)
      case .close: return [.closing]
      }
    } catch {
      giveUp(error)
      return [.failed(error)]
    }
  }

  private func connect(_ backend: DeviceFolder) throws(FrontendError) -> [Event] {
    let (isPersistent, isTrusted, plan) = state.withLock { ($0.isPersistentOffered, $0.isBackendTrusted, $0.plan) }
    guard
      let offer = DiskOffer(
        backend: backend, knobs: knobs, plan: plan, isPersistent: isPersistent, isBackendTrusted: isTrusted)
    else { throw .backendFields("\(backend.path)") }
    state.withLock { $0.offer = offer }
    do { try folder.switchState(to: .connected) } catch { throw .store(error.wireName) }
    return [.connected(offer)]
  }

  private func readCapacity(_ backend: DeviceFolder) -> [Event] {
    guard let sectors = backend.read(BackendKey.sectors) else { return [] }
    let isNew = state.withLock { state in
      guard let known = state.offer?.geometry.sectorCount, known != sectors else { return false }
      state.offer?.geometry.sectorCount = sectors
      return true
    }
    return isNew ? [.resized(sectors)] : []
  }

  /// One queue's way to the backend, for the data plane; nil when there is no such queue or the device is not connected.
  ///
  /// Whoever takes it closes its port.
  public func connection(ofQueue index: Int) -> FrontConnection<Platform>? {
    state.withLock { state in
      guard let offer = state.offer, state.links.indices.contains(index), let device = state.device else { return nil }
      state.links[index].isTaken = true
      return FrontConnection(
        platform: platform, peer: state.backendDomain, port: state.links[index].port, ring: state.links[index].ring,
        plan: state.plan, handle: device.handle, abilities: offer.abilities)
    }
  }

  /// Says that the frontend is about to close: a driver that is unloaded, a guest that shuts down.
  public func startClosing() { try? folder.switchState(to: .closing) }

  /// Ends the grants of the rings and tells the backend.
  ///
  /// The queues must have been closed.
  /// - Returns: the ring pages that the backend still maps; they stay out of use.
  @discardableResult
  public func finishClosing() -> Int {
    let links = state.withLock { state in
      defer { state.links = [] }
      state.handshake.close()
      state.offer = nil
      return state.links
    }
    try? folder.switchState(to: .closed)
    return takeBack(links)
  }

  /// Ends access to ring pages whose backend has let go of them, and closes the ports that no queue took over.
  func takeBack(_ links: [QueueLink]) -> Int {
    var stuck = 0
    for link in links {
      if !link.isTaken { platform.close(link.port) }
      let ended = link.references.filter { platform.endAccess($0) }
      platform.freeReferences(ended)
      stuck += link.references.count - ended.count
      if ended.count == link.references.count { platform.freePages(link.ring) }
    }
    return stuck
  }
}
