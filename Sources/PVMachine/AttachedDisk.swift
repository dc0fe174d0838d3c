// SPDX-License-Identifier: MIT

public import BlockBack
public import BlockFront
public import BlockIO
import GuestMemory
public import Protection
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
    var backend: BackendDevice<EmulatedPlatform>
    var negotiation: Negotiation<EmulatedPlatform>?
    /// Rings that a queue has taken over, by number.
    var takenLinks: Set<Int> = []
    /// The ways to the living queues.
    var mailboxes: [Int: QueueMailbox<Queue>] = [:]
    var threads: [Int: BackThread<Image.Queue>] = [:]
    /// The pages of living queues.
    var buffers: [Int: BufferPages<EmulatedPlatform>] = [:]
    /// The doors of queues that carry others' I/O.
    var doors: [Int: Detour] = [:]
    /// What waits for queues to let go.
    var gatherings: [Gathering] = []
    var phase = DiskPhase.connecting
    /// What was asked for during a change, for its end.
    var deferred: [@Sendable () -> Void] = []
    var failure: MachineError?
    /// Each queue's responses when it was last looked at, and the seconds since they changed.
    var idle: [Int: (responses: UInt64, seconds: Int)] = [:]
    var tick = 0
    var onResize: (@Sendable () -> Void)?
  }

  /// Something to do once queues have let go of their connection.
  struct Gathering {
    var waiting: Set<Int>
    let next: @Sendable () -> Void
  }

  /// The disk under the backend.
  public let image: Image
  /// How it is attached.
  public let configuration: DiskConfiguration
  /// The frontend's control plane.
  public let frontend: FrontendDevice<EmulatedPlatform>
  /// The backend's control plane; another one after the backend was replaced.
  public var backend: BackendDevice<EmulatedPlatform> { control.withLock { $0.backend } }
  /// What the toolstack wrote.
  public let definition: DiskDefinition
  /// Each queue's times from the ring to the answer.
  public let latencies: [LatencyTable]
  /// Each queue's counters, by ``FrontCounter`` and ``QueueCounter``.
  public let counters: [(front: CounterTable, back: CounterTable)]
  /// Data on the rings that its protection information did not vouch for, as each end found it.
  public let findings = (front: ProtectionFindings(), back: ProtectionFindings())
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
    let backend = Self.makeBackend(machine, definition, configuration.backendKnobs)
    var tables: [(front: CounterTable, back: CounterTable)] = []
    var latencies: [LatencyTable] = []
    do throws(SystemError) {
      for _ in 0..<configuration.queues {
        latencies.append(try LatencyTable())
        tables.append(
          (try CounterTable(count: FrontCounter.allCases.count), try CounterTable(count: QueueCounter.allCases.count)))
      }
    } catch { throw .disk(.system(call: "\(error.call)", path: "", code: error.code)) }
    counters = tables
    self.latencies = latencies
    control = Mutex(Control(geometry: image.geometry, backend: backend))
  }

  /// Size and abilities as the frontend learnt them.
  public var geometry: BlockGeometry { control.withLock { $0.geometry } }
  /// The queues that both ends agreed on.
  public var queueCount: Int { frontend.queueCount }
  /// Where data is, as the image under the stack tells it: the protocol itself has no such question.
  public func nextData(from offset: UInt64) -> UInt64? { image.nextData(from: offset) }
  /// Where holes are, as the image under the stack tells it.
  public func nextHole(from offset: UInt64) -> UInt64 { image.nextHole(from: offset) }

  /// Where the disk stands.
  public var phase: DiskPhase { control.withLock { $0.phase } }
  /// Why the last handshake failed, if it did.
  public var failure: MachineError? { control.withLock { $0.failure } }

  // MARK: Handshake

  static func makeBackend(
    _ machine: Machine, _ definition: DiskDefinition, _ knobs: BackendKnobs
  ) -> BackendDevice<EmulatedPlatform> {
    BackendDevice(
      platform: EmulatedPlatform(hypervisor: machine.hypervisor, domain: machine.control),
      folder: DeviceFolder(store: machine.store.connect(as: .control), path: definition.backendPath), knobs: knobs)
  }

  /// Lets both ends talk until they are connected.
  func connect() throws(MachineError) {
    do throws(HandshakeFailure) { try backend.probe() } catch { throw .backend(error) }
    writeHotplug()
    do throws(FrontendError) { try frontend.probe() } catch { throw .frontend(error) }
    var rounds = 0
    while frontend.handshakeState != .connected {
      handleEvents()
      if let failure { throw failure }
      rounds += 1
      guard rounds < 100 else {
        throw .stalled("frontend \(frontend.handshakeState), backend \(backend.handshakeState)")
      }
    }
    listen(to: frontend.folder.store)
    listen(to: backend.folder.store)
    let tick = machine.loop.addTick { [weak self] in self?.lookForIdleQueues() }
    control.withLock { $0.tick = tick }
  }

  /// What a hotplug script says when it has opened the disk.
  func writeHotplug() {
    let folder = backend.folder
    if !configuration.params.isEmpty {
      try? folder.write(configuration.params, to: BackendKey.physicalDevicePath)
    }
    try? folder.write("connected", to: BackendKey.hotplugStatus)
  }

  /// From now on an end's store events are handled on the machine's control thread.
  func listen(to store: any StoreHandle) {
    let loop = machine.loop
    store.onEvents { [weak self] in
      loop.enqueue { [weak self] in self?.handleEvents() }
    }
  }

  func handleEvents() {
    guard phase != .detaching else { return }
    for event in backend.handleWatches() { handle(event) }
    for event in frontend.handleWatches() { handle(event) }
  }
}
