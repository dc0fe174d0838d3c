// SPDX-License-Identifier: MIT

public import BlockFront
public import BlockIO
import CLinux
import Glibc
import GuestMemory
import PVMachine
import Synchronization
public import XenBus
import XenHypervisor
public import XenPlatform
import XenStore
import XenWire

/// A guest's disk, taken by this process in the place of the kernel's blkfront.
///
/// A thread of its own follows the backend. When the backend closes, I/O ends with `EIO` and ``onEnd(_:)`` is called; the
/// device is left so that the kernel's driver, or another process, can take it.
public final class GuestDisk<Platform: GuestPlatform>: BlockDevice {
  private struct State: Sendable {
    var geometry = BlockGeometry(sectorCount: 0)
    var isConnected = false
    var isClosing = false
    var failure: String?
    var mailboxes: [Int: QueueMailbox<GuestQueue<Platform>>] = [:]
    var onResize: (@Sendable () -> Void)?
    var onEnd: (@Sendable (String) -> Void)?
  }

  private let device: FrontendDevice<Platform>
  private let state = Mutex(State())
  private let counters: Mutex<[CounterTable]> = Mutex([])
  /// Opens when the frontend's folder says that it is closed.
  private let finished = DispatchGate()
  /// An eventfd: the backend may have moved, or a queue has ended.
  private let bell = eventfd(0, CInt(EFD_CLOEXEC) | CInt(EFD_NONBLOCK))

  /// Connects the frontend of a folder to its backend; returns when the disk can be used.
  /// - Parameters:
  ///   - folder: The frontend's folder, `device/vbd/<number>`.
  ///   - milliseconds: How long the backend may take.
  /// - Throws: ``BlockError/disconnected(_:)`` with the reason; the folder is then as it was.
  public init(
    platform: Platform, folder: DeviceFolder, knobs: FrontendKnobs, milliseconds: Int = 30_000
  ) throws(BlockError) {
    device = FrontendDevice(platform: platform, folder: folder, knobs: knobs, blockProtocol: .x86_64)
    let bell = self.bell
    folder.store.onEvents { Self.ring(bell) }
    guard folder.state == .initialising || folder.state == .closed else {
      throw .disconnected(
        "\(folder.path) is in state \(folder.state.rawValue): somebody else has the disk; unload xen-blkfront, or unbind the "
          + "device from it")
    }
    do throws(FrontendError) {
      if folder.state == .closed { device.reopen() }
      try device.probe()
    } catch { throw .disconnected(error.sentence) }
    do throws(BlockError) { try connect(within: milliseconds) } catch {
      folder.store.onEvents(nil)
      device.finishClosing()
      device.reopen()
      throw error
    }
    SystemThread.start(name: "pvdisk-frontend") { [self] in follow() }
  }

  deinit { Glibc.close(bell) }

  private static func ring(_ bell: CInt) {
    var one: UInt64 = 1
    // SAFETY: the address is of a local value of eight bytes.
    _ = unsafe write(bell, &one, 8)
  }

  private func wait(milliseconds: CInt) {
    var entry = pollfd(fd: bell, events: Int16(POLLIN), revents: 0)
    // SAFETY: one local entry, then a local value of eight bytes.
    _ = unsafe poll(&entry, 1, milliseconds)
    var value: UInt64 = 0
    _ = unsafe read(bell, &value, 8)
  }

  private func connect(within milliseconds: Int) throws(BlockError) {
    let end = pv_monotonic_nanoseconds() + UInt64(milliseconds) * 1_000_000
    var events = device.lookAtBackend()
    while true {
      for event in events { handle(event) }
      let (isConnected, failure) = state.withLock { ($0.isConnected, $0.failure) }
      if let failure { throw .disconnected(failure) }
      if isConnected { return }
      guard pv_monotonic_nanoseconds() < end else {
        throw .disconnected(
          "the backend of \(device.folder.path) did not answer in \(milliseconds / 1000) s; is it running?")
      }
      wait(milliseconds: 100)
      events = device.handleWatches()
    }
  }

  private func handle(_ event: FrontendDevice<Platform>.Event) {
    switch event {
    case .connected(let offer):
      state.withLock { state in
        state.geometry = offer.geometry
        state.isConnected = true
      }
    case .resized(let sectors):
      let handler = state.withLock { state in
        state.geometry.sectorCount = sectors
        return state.onResize
      }
      handler?()
    case .closing: end("the backend closed the disk")
    case .failed(let error): end(error.sentence)
    }
  }

  /// The disk is over: queues fail what they have, and the user is told once.
  private func end(_ why: String) {
    let (isFirst, mailboxes, handler) = state.withLock { state in
      let isFirst = !state.isClosing
      if isFirst {
        state.isClosing = true
        state.failure = why
      }
      return (isFirst, Array(state.mailboxes.values), state.onEnd)
    }
    guard isFirst else { return }
    for mailbox in mailboxes { mailbox.post { $0.abandon() } }
    handler?(why)
  }

  /// Follows the backend until the disk is closed and its queues are gone.
  private func follow() {
    while true {
      wait(milliseconds: 1000)
      for event in device.handleWatches() { handle(event) }
      guard state.withLock({ $0.isClosing && $0.mailboxes.isEmpty }) else { continue }
      device.finishClosing()
      device.folder.store.onEvents(nil)
      return finished.open()
    }
  }

  /// Lets go of the disk, whose queues must have ended, and makes it ready for the next who takes it.
  public func close() {
    // The thread that follows says "closed" once `isClosing` is set, so "closing" has to be said before that.
    state.withLock { state in
      if !state.isClosing { device.startClosing() }
      state.isClosing = true
    }
    Self.ring(bell)
    finished.wait()
    // A backend that stays waits for a frontend again.
    guard state.withLock({ $0.failure == nil }) else { return }
    for _ in 0..<1500 where !hasBackendClosed { usleep(20_000) }
    device.reopen()
  }

  private var hasBackendClosed: Bool {
    guard let path = device.folder.read(FrontendKey.backend).flatMap(StorePath.init) else { return true }
    let state = DeviceFolder(store: device.folder.store, path: path).state
    return state == .closed || state == .unknown || state == .initWait
  }

  /// Calls `handler` whenever the disk has another size.
  public func onResize(_ handler: (@Sendable () -> Void)?) { state.withLock { $0.onResize = handler } }

  /// Calls `handler` once, with a sentence, when the backend takes the disk away; at once when it has.
  public func onEnd(_ handler: @escaping @Sendable (String) -> Void) {
    let failure = state.withLock { state in
      state.onEnd = handler
      return state.isClosing ? state.failure : nil
    }
    if let failure { handler(failure) }
  }

  /// What the two ends agreed on, in a line.
  public var agreement: String {
    let pages = device.ringPageCount
    return "queues: \(device.queueCount), pages in each ring: \(pages)"
  }

  // MARK: BlockDevice

  /// Size, sector sizes and abilities.
  public var geometry: BlockGeometry { state.withLock { $0.geometry } }
  /// The queues that were agreed on.
  public var queueCount: Int { device.queueCount }

  /// Makes a queue, and takes the pages that it needs.
  public func makeQueue(_ index: Int, buffers: BufferDemand) throws(BlockError) -> GuestQueue<Platform> {
    guard var connection = device.connection(ofQueue: index) else { throw .disconnected("there is no queue \(index)") }
    // The kernel grants a page for as long as it exists, so grants are always kept, whatever the backend does with them.
    connection.abilities.isPersistent = true
    let platform = device.platform.specialised(for: connection.port)
    let count = FrontArena.pageCount(
      demand: buffers, descriptorPages: FrontQueue<Platform>.descriptorPages(connection))
    let pages: GuestPages
    let references: [GrantReference]
    do throws(GrantStatus) {
      pages = try platform.allocatePages(count)
      references = try platform.allocateReferences(for: pages)
    } catch {
      platform.close(connection.port)
      throw .unsupported(
        "the guest has no room for \(count) shared pages of queue \(index); use fewer queues or a smaller depth, or raise "
          + "xen_gntalloc's parameter 'limit'")
    }
    let mailbox = QueueMailbox<GuestQueue<Platform>>()
    do {
      let table = try CounterTable(count: FrontCounter.allCases.count)
      let wakeSet = try WakeSet([mailbox.descriptor, platform.waitDescriptor(of: connection.port)])
      counters.withLock { $0.append(table) }
      state.withLock { $0.mailboxes[index] = mailbox }
      let front = FrontQueue(
        connection: connection.on(platform), arena: FrontArena(pages: pages, demand: buffers), references: references,
        counters: table.writer)
      return GuestQueue(front: front, platform: platform, mailbox: mailbox, wakeSet: wakeSet) { [self] in
        _ = state.withLock { $0.mailboxes.removeValue(forKey: index) }
        Self.ring(bell)
      }
    } catch {
      platform.freePages(pages)
      platform.close(connection.port)
      throw .unsupported("no room for a queue (\(error))")
    }
  }

  /// What the queues have done, by counter.
  public var totals: [(name: String, value: UInt64)] {
    let tables = counters.withLock { $0 }
    return FrontCounter.allCases.map { counter in
      (counter.name, tables.reduce(0) { $0 + $1[counter.rawValue] })
    }
  }
}

extension FrontConnection {
  /// The same connection on another view of the same hypervisor.
  func on(_ platform: Platform) -> FrontConnection {
    FrontConnection(
      platform: platform, peer: peer, port: port, ring: ring, plan: plan, handle: handle, abilities: abilities)
  }
}
