// SPDX-License-Identifier: MIT

public import BlockBack
public import BlockFront
public import BlockIO
import GuestMemory
import SharedRing
import Synchronization
public import XenBus
public import XenHypervisor
import XenStore
import XenWire

/// A disk behind the whole PV stack: itself a ``BlockDevice`` over another one.
///
/// Its control plane holds both ends' devices and listens to the store; its queues are made by whoever uses the disk, one a
/// thread. See ``Machine/attach(_:as:)``.
public final class AttachedDisk<Image: BlockDevice>: BlockDevice {
  /// The data plane: both ends, or the frontend's.
  public typealias Queue = StackQueue<Image.Queue>

  struct Control {
    var geometry: BlockGeometry
    var negotiation: Negotiation<EmulatedPlatform>?
    var mailboxes: [Int: QueueMailbox<Queue>] = [:]
    var threads: [Int: BackThread<Image.Queue>] = [:]
    var failure: MachineError?
  }

  /// The disk under the backend.
  public let image: Image
  /// How it is attached.
  public let configuration: DiskConfiguration
  /// The frontend's control plane.
  public let frontend: FrontendDevice<EmulatedPlatform>
  /// The backend's control plane.
  public let backend: BackendDevice<EmulatedPlatform>
  /// What the toolstack wrote.
  public let definition: DiskDefinition
  /// Each queue's counters, by ``FrontCounter`` and ``QueueCounter``.
  public let counters: [(front: CounterTable, back: CounterTable)]
  let machine: Machine
  let cpus: [Int]
  let control: Mutex<Control>

  init(
    machine: Machine, image: Image, configuration: DiskConfiguration, definition: DiskDefinition, cpus: [Int]
  ) throws(MachineError) {
    self.machine = machine
    self.image = image
    self.configuration = configuration
    self.definition = definition
    self.cpus = cpus
    let guest = machine.connectGuest()
    frontend = FrontendDevice(
      platform: EmulatedPlatform(hypervisor: machine.hypervisor, domain: machine.guest),
      folder: DeviceFolder(store: guest, path: definition.frontendPath), knobs: configuration.frontendKnobs,
      blockProtocol: configuration.blockProtocol)
    backend = BackendDevice(
      platform: EmulatedPlatform(hypervisor: machine.hypervisor, domain: machine.control),
      folder: DeviceFolder(store: machine.store.connect(as: .control), path: definition.backendPath),
      knobs: configuration.backendKnobs)
    var tables: [(front: CounterTable, back: CounterTable)] = []
    do throws(SystemError) {
      for _ in 0..<configuration.queues {
        tables.append(
          (try CounterTable(count: FrontCounter.allCases.count), try CounterTable(count: QueueCounter.allCases.count)))
      }
    } catch { throw .disk(.system(call: "\(error.call)", path: "", code: error.code)) }
    counters = tables
    control = Mutex(Control(geometry: image.geometry))
  }

  /// Size and abilities as the frontend learnt them.
  public var geometry: BlockGeometry { control.withLock { $0.geometry } }
  /// The queues that both ends agreed on.
  public var queueCount: Int { frontend.queueCount }
  /// Where data is, as the image under the stack tells it: the protocol itself has no such question.
  public func nextData(from offset: UInt64) -> UInt64? { image.nextData(from: offset) }
  /// Where holes are, as the image under the stack tells it.
  public func nextHole(from offset: UInt64) -> UInt64 { image.nextHole(from: offset) }

  // MARK: Handshake

  /// Lets both ends talk until they are connected.
  func connect() throws(MachineError) {
    do throws(HandshakeFailure) { try backend.probe() } catch { throw .backend(error) }
    writeHotplug()
    do throws(FrontendError) { try frontend.probe() } catch { throw .frontend(error) }
    var rounds = 0
    while frontend.handshakeState != .connected {
      handleEvents()
      if let failure = control.withLock({ $0.failure }) { throw failure }
      rounds += 1
      guard rounds < 100 else {
        throw .stalled("frontend \(frontend.handshakeState), backend \(backend.handshakeState)")
      }
    }
    listen()
  }

  /// What a hotplug script says when it has opened the disk.
  private func writeHotplug() {
    let folder = backend.folder
    if !configuration.params.isEmpty {
      try? folder.write(configuration.params, to: BackendKey.physicalDevicePath)
    }
    try? folder.write("connected", to: BackendKey.hotplugStatus)
  }

  /// From now on store events are handled on the machine's control thread.
  private func listen() {
    let loop = machine.loop
    let handle: @Sendable () -> Void = { [weak self] in
      guard let disk = self else { return }
      loop.enqueue { disk.handleEvents() }
    }
    frontend.folder.store.onEvents(handle)
    backend.folder.store.onEvents(handle)
  }

  private func handleEvents() {
    for event in backend.handleWatches() { handle(event) }
    for event in frontend.handleWatches() { handle(event) }
  }

  private func handle(_ event: BackendDevice<EmulatedPlatform>.Event) {
    switch event {
    case .frontendReady:
      do throws(HandshakeFailure) {
        let negotiation = try backend.connectRings()
        control.withLock { $0.negotiation = negotiation }
        try backend.announce(image.geometry)
      } catch { control.withLock { $0.failure = .backend(error) } }
    case .frontendClosed: backend.finishClosing()
    case .failed(let sentence): control.withLock { $0.failure = .backend(HandshakeFailure(sentence)) }
    case .frontendClosing, .frontendGone: break
    }
  }

  private func handle(_ event: FrontendDevice<EmulatedPlatform>.Event) {
    switch event {
    case .connected(let offer):
      // What the protocol has no words for: the image under the backend knows whether discarded sectors read as zeros.
      let leavesZeros = image.geometry.discard?.leavesZeros ?? false
      control.withLock {
        $0.geometry = offer.geometry
        $0.geometry.discard?.leavesZeros = leavesZeros
      }
    case .resized(let sectors): control.withLock { $0.geometry.sectorCount = sectors }
    case .failed(let error): control.withLock { $0.failure = .frontend(error) }
    case .closing: break
    }
  }
}
