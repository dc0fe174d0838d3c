// SPDX-License-Identifier: MIT

import BlockIO
import GuestMemory
import Synchronization
public import XenBus
public import XenHypervisor
public import XenStore
public import XenWire

/// What a machine is made with.
public struct MachineConfiguration: Equatable, Sendable {
  /// How the backend reaches foreign pages.
  public var mapping = MappingStrategy.remap
  /// The guest's memory in bytes; sparse.
  public var guestMemoryByteCount = 128 << 30
  /// The guest's limits.
  public var guestLimits: DomainLimits
  /// The guest's number.
  public var guestDomain = DomainID(rawValue: 1)
  /// The guest's name in the store.
  public var guestName = "guest"
  /// How the guest's drivers reach the store.
  public var guestStore = GuestStoreTransport.direct

  /// The layout of the guest's grant entries: 1 or 2.
  public var grantVersion = 1
  /// Whether events travel by FIFO queues instead of two levels of bits.
  public var usesFIFOEvents = false

  /// The defaults: a guest with room for 64 disks of four queues of large buffers, each page of which has a reference of its own.
  ///
  /// Neither costs anything before it is used: memory and grant tables are sparse.
  public init() {
    var limits = DomainLimits.xenDefaults
    limits.grantFrames = 18_432
    guestLimits = limits
  }
}

/// How a guest's drivers reach the store.
public enum GuestStoreTransport: String, Sendable, CaseIterable {
  /// By function calls: the store is in the same process.
  case direct
  /// As in a real guest: messages through the ring page of grant reference 1, kicked through an event channel.
  case ring
}

/// A whole Xen machine in this process: a hypervisor, a store, a control domain with backends, and a guest with
/// frontends.
///
/// ```swift
/// let machine = try Machine()
/// let image = try RawImage.open(path: "disk.img")
/// let disk = try machine.attach(image, as: DiskConfiguration())
/// ```
///
/// The disk that `attach` answers is a ``BlockDevice`` like the image itself; every request to it travels through granted
/// pages, a shared ring and event channels.
public final class Machine: Sendable {
  /// The hypervisor.
  public let hypervisor: Hypervisor
  /// The store.
  public let store: StoreServer
  /// Where backends run.
  public let control: Domain
  /// Where frontends run.
  public let guest: Domain
  /// The control domain's own connection, as a toolstack uses it.
  public let toolstack: StoreConnection
  let loop: ControlLoop
  /// The guest's ring page, if its drivers use it.
  private let guestRing: GuestStoreRing?
  private let usedCPUs: Mutex<Set<Int>>
  private let usedDevices = Mutex<Set<UInt32>>([])

  /// Boots a machine without disks.
  public init(_ configuration: MachineConfiguration = MachineConfiguration()) throws(MachineError) {
    do throws(HypervisorError) {
      hypervisor = try Hypervisor(mapping: configuration.mapping)
      var controlLimits = DomainLimits.xenDefaults
      controlLimits.maptrackFrames = max(controlLimits.maptrackFrames, 4096)
      control = try hypervisor.createDomain(
        .control, memoryByteCount: 1 << 20, virtualCPUCount: Self.virtualCPUs, onlineCount: 1, limits: controlLimits)
      guest = try hypervisor.createDomain(
        configuration.guestDomain, memoryByteCount: configuration.guestMemoryByteCount,
        virtualCPUCount: Self.virtualCPUs, onlineCount: 1, limits: Self.limits(configuration))
    } catch { throw .hypervisor(error) }
    try Self.choose(configuration, guest: guest, control: control)
    store = StoreServer(quotas: Self.storeQuotas)
    toolstack = store.connect(as: .control)
    loop = ControlLoop()
    usedCPUs = Mutex(configuration.guestStore == .ring ? [Self.storeCPU] : [])
    do {
      try DomainDefinition.createControlDomain(in: toolstack)
      let definition = DomainDefinition(
        guest.id, name: configuration.guestName, memoryByteCount: configuration.guestMemoryByteCount)
      try definition.create(in: toolstack)
      guard configuration.guestStore == .ring else {
        guestRing = nil
        try store.introduce(guest.id)
        return
      }
      let ring = try GuestStoreRing(hypervisor: hypervisor, control: control, guest: guest, store: store)
      try definition.writeStoreRing(frame: ring.frame.rawValue, port: ring.port.rawValue, in: toolstack)
      guestRing = ring
      try store.introduce(guest.id)
    } catch let error as StoreError {
      throw .stalled("the store refused: \(error.wireName)")
    } catch let error as MachineError {
      throw error
    } catch { preconditionFailure("an error of no known kind: \(error)") }
  }

  private static func limits(_ configuration: MachineConfiguration) -> DomainLimits {
    var limits = configuration.guestLimits
    limits.grantTableVersion = max(limits.grantTableVersion, configuration.grantVersion)
    return limits
  }

  /// What a kernel does early: all ports masked, the layout of its grants, and the interface of its events.
  private static func choose(
    _ configuration: MachineConfiguration, guest: Domain, control: Domain
  ) throws(MachineError) {
    for domain in [guest, control] { domain.eventChannels.startPortsMasked() }
    do {
      if configuration.grantVersion != 1 { try guest.grantTable.setVersion(configuration.grantVersion) }
      guard configuration.usesFIFOEvents else { return }
      for domain in [guest, control] { try domain.eventChannels.useFIFO() }
    } catch { throw .stalled("the machine refuses its grants' or events' layout: \(error)") }
  }

  deinit {
    stopServingStore()
    guestRing?.close()
    loop.stop()
  }

  private let storeSocket = Mutex<StoreSocketServer?>(nil)

  /// Serves the store on a Unix socket, for stock clients, until ``stopServingStore()``.
  func serveStore(at path: String) throws(StoreSocketError) {
    let server = try StoreSocketServer(server: store, path: path)
    storeSocket.withLock { $0 = server }
  }

  /// Ends what ``serveStore(at:)`` began.
  public func stopServingStore() {
    storeSocket.withLock { socket in
      socket?.stop()
      socket = nil
    }
  }

  /// A handle of the guest's on the store, for one of its drivers.
  func connectGuest() -> any StoreHandle { guestRing?.connect() ?? store.connect(as: guest.id) }

  /// One for each queue of all disks together.
  static let virtualCPUs = SharedInfo.virtualCPULimit
  /// The virtual CPU of both domains that takes the events of the guest's store page, if there is one.
  static let storeCPU = virtualCPUs - 1

  /// xenstored's limits, with room for as many disks as there are virtual CPUs: each queue of 16 ring pages is 18 nodes.
  private static let storeQuotas: StoreQuotas = {
    var quotas = StoreQuotas.xenstored
    quotas[.nodes] = 64 * virtualCPUs
    quotas[.watches] = 4 * virtualCPUs
    quotas[.memory] = 8 * quotas[.memory]
    return quotas
  }()

  /// Takes virtual CPUs, the same numbers in both domains, one for each queue.
  func takeCPUs(_ count: Int) throws(MachineError) -> [Int] {
    let taken = usedCPUs.withLock { used -> [Int]? in
      let free = (0..<Self.virtualCPUs).filter { !used.contains($0) }.prefix(count)
      guard free.count == count else { return nil }
      used.formUnion(free)
      return Array(free)
    }
    guard let taken else {
      throw .usage("the machine has \(Self.virtualCPUs) queues in all and too few are free; use fewer --queues")
    }
    do throws(SystemError) {
      for cpu in taken {
        try control.virtualCPUs[cpu].bringUp()
        try guest.virtualCPUs[cpu].bringUp()
      }
    } catch {
      giveBackCPUs(taken)
      throw .disk(.system(call: "\(error.call)", path: "", code: error.code))
    }
    return taken
  }

  func giveBackCPUs(_ cpus: [Int]) { usedCPUs.withLock { $0.subtract(cpus) } }

  /// Takes a device number for a disk: two disks of one number would share their folders in the store.
  func take(_ device: VirtualDevice) throws(MachineError) {
    let isNew = usedDevices.withLock { $0.insert(device.number).inserted }
    guard isNew else {
      throw .usage("the machine has a disk \(device.name) (number \(device.number)) already; choose another --vdev")
    }
  }

  func giveBack(_ device: VirtualDevice) { _ = usedDevices.withLock { $0.remove(device.number) } }

  /// The first whole disk from xvda on whose number no disk of the machine has; it is taken by attaching it.
  /// - Parameter claimed: numbers that are spoken for, too.
  public func freeDevice(besides claimed: Set<UInt32> = []) -> VirtualDevice {
    let used = usedDevices.withLock { $0 }.union(claimed)
    for disk in UInt32(0)... {
      guard let device = VirtualDevice(disk: disk) else { break }
      if !used.contains(device.number) { return device }
    }
    preconditionFailure("more disks than numbers")
  }

  /// Puts the machine's clock forward, for those who do not want to wait: what is due every second is done as often.
  public func advanceClock(seconds: Int) {
    hypervisor.advanceClock(nanoseconds: UInt64(seconds) * 1_000_000_000)
    loop.pass(seconds: seconds)
  }

  /// What all domains hold of the hypervisor at this moment; equal before a disk came and after it went.
  public var ledger: ResourceLedger { hypervisor.ledger }
}
