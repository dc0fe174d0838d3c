// SPDX-License-Identifier: MIT

public import SharedRing
import Synchronization
public import XenBus
public import XenHypervisor
import XenStore
public import XenWire

/// The control plane of a backend: its half of the conversation in the store, and the mapped rings that come out of it
/// (blkback's probe, `connect_ring` and `connect`).
///
/// A watch on the frontend's `state` drives ``BackendHandshake``; what that calls for is handed to the owner as an
/// ``Event``, because only the owner has the queues and the disk. Methods may be called from any thread, one at a time.
public final class BackendDevice<Platform: BackendPlatform & Sendable>: Sendable {
  /// What the frontend's move calls for.
  public enum Event: Equatable, Sendable {
    /// Close what queues there are, call ``BackendDevice/connectRings()``, make the queues, call
    /// ``BackendDevice/announce(_:)``.
    case frontendReady
    /// The frontend is about to close.
    case frontendClosing
    /// Close the queues, then call ``BackendDevice/finishClosing()``; the device stays if it is online.
    case frontendClosed(isOnline: Bool)
    /// The frontend's folder is gone: close the queues and forget the device.
    case frontendGone
    /// The frontend broke the rules of the handshake; the device is closing.
    case failed(String)
  }

  struct State: Sendable {
    var handshake = BackendHandshake()
    var frontend: DeviceFolder?
    var domain = DomainID(rawValue: 0)
    var isReadOnly = false
    var isDiscardEnabled = true
    var faults = RingFaults()
  }

  /// The hypervisor as the backend's domain sees it.
  public let platform: Platform
  /// The backend's folder in the store.
  public let folder: DeviceFolder
  /// What the administrator set.
  public let knobs: BackendKnobs
  let state = Mutex(State())

  /// Makes the control plane of the backend whose folder is given; nothing happens before ``probe()``.
  public init(platform: Platform, folder: DeviceFolder, knobs: BackendKnobs) {
    self.platform = platform
    self.folder = folder
    self.knobs = knobs
  }

  /// Where the backend stands.
  public var handshakeState: XenbusState { state.withLock { $0.handshake.state } }
  /// Whether the toolstack forbids writing; latched at ``probe()``, since the frontend must not be able to change it.
  public var isReadOnly: Bool { state.withLock { $0.isReadOnly } }

  /// Plants bugs, for a test that wants to see them noticed; a release build has none.
  public func plant(_ faults: RingFaults) { state.withLock { $0.faults = faults } }
  /// Bugs that a test has planted; queues have them too.
  public var faults: RingFaults { state.withLock { $0.faults } }

  /// Reads what the toolstack wrote, offers what does not depend on the disk, and starts to watch the frontend.
  public func probe() throws(HandshakeFailure) {
    guard let domain = folder.read(BackendKey.frontendID), let path = folder.read(BackendKey.frontend),
      let frontendPath = StorePath(path)
    else { throw HandshakeFailure("\(folder.path) has no frontend") }
    let frontend = DeviceFolder(store: folder.store, path: frontendPath)
    state.withLock {
      $0.frontend = frontend
      $0.domain = DomainID(rawValue: UInt16(truncatingIfNeeded: domain))
      $0.isReadOnly = !folder.value(BackendKey.mode).contains("w")
      $0.isDiscardEnabled = folder.value(BackendKey.discardEnable)
      $0.handshake.probed()
    }
    do {
      try folder.write(UInt32(knobs.maxIndirectSegments), to: BackendKey.maxIndirectSegments)
      try folder.write(UInt32(knobs.maxQueues), to: BackendKey.maxQueues)
      try folder.write(UInt32(knobs.maxRingPageOrder), to: BackendKey.maxRingPageOrder)
      try knobs.rings.write(to: folder)
      try folder.switchState(to: .initWait)
      try folder.store.watch(frontend.path(of: FrontendKey.state), token: "frontend-state")
    } catch { throw HandshakeFailure(error.wireName) }
  }

  /// Handles the watch events that wait: looks at the frontend's state and says what it calls for.
  public func handleWatches() -> [Event] {
    var hasMoved = false
    while folder.store.nextEvent() != nil { hasMoved = true }
    return hasMoved ? lookAtFrontend() : []
  }

  /// Looks at the frontend's state as if a watch had fired.
  public func lookAtFrontend() -> [Event] {
    guard let frontend = state.withLock({ $0.frontend }) else { return [] }
    let action = state.withLock { $0.handshake.peerMoved(to: frontend.state) }
    switch action {
    case .none: return []
    case .awaitReconnect:
      try? folder.switchState(to: .initWait)
      return []
    case .connect: return [.frontendReady]
    case .startClosing:
      try? folder.switchState(to: .closing)
      return [.frontendClosing]
    case .close: return [.frontendClosed(isOnline: folder.value(BackendKey.online))]
    case .unregister: return [.frontendGone]
    case .refuse(let peer):
      let sentence = "saw state \(peer.rawValue) at frontend"
      fail(HandshakeFailure(sentence, code: 22))
      return [.failed(sentence)]
    }
  }

  /// Gives the device up: an error node, and ``XenbusState/closing`` (Linux `xenbus_dev_fatal`).
  public func fail(_ failure: HandshakeFailure) {
    folder.reportError(code: failure.code, failure.sentence)
    state.withLock { $0.handshake.fail() }
    try? folder.switchState(to: .closing)
  }

  /// The queues are closed: tells the frontend.
  public func finishClosing() { try? folder.switchState(to: .closed) }

  /// Takes an offer back that the disk cannot keep, while the connection lives: only a frontend that comes later reads it.
  public func withdraw(_ operation: BlockOperation) {
    switch operation {
    case .flushDiskCache: try? folder.write(false, to: BackendKey.featureFlushCache)
    case .writeBarrier: try? folder.write(false, to: BackendKey.featureBarrier)
    default: break
    }
  }

  /// Tells the frontend of a new capacity: `sectors`, and the same state once more, in one transaction.
  public func announceCapacity(_ sectors: UInt64) throws(HandshakeFailure) {
    do {
      try folder.store.transaction { (transaction) throws(StoreError) in
        try folder.write(sectors, to: BackendKey.sectors, in: transaction)
        try folder.write(.connected, to: BackendKey.state, in: transaction)
      }
    } catch { throw HandshakeFailure(error.wireName) }
  }
}

/// Why two ends did not come together, in one sentence.
public struct HandshakeFailure: Error, Equatable, Sendable {
  /// The sentence.
  public let sentence: String
  /// The positive `errno` of the error node.
  public let code: Int32

  /// Makes a failure; `EINVAL` unless said otherwise.
  public init(_ sentence: String, code: Int32 = 22) {
    self.sentence = sentence
    self.code = code
  }
}
