// SPDX-License-Identifier: MIT

public import BlockBack
import CLinux
import Glibc
import Synchronization
import XenBus
import XenHypervisor
public import XenPlatform
public import XenStore
import XenWire

/// A block backend in a real Xen's control or driver domain: serves every disk below `backend/<kind>/<domain>/<device>`
/// that a toolstack makes.
///
/// A disk that cannot be served gets an error node and is left alone; the others do not notice.
public final class BackendService<Platform: HostPlatform>: Sendable {
  /// What a service is made with.
  public struct Settings: Sendable {
    /// The folder below `backend`.
    public var kind = "pvdisk"
    /// What every disk is offered.
    public var knobs = BackendKnobs()
    /// What one guest may have.
    public var limits = GuestLimits()

    /// The defaults.
    public init() {}
  }

  private struct State {
    var isStopping = false
    var work: [@Sendable () -> Void] = []
  }

  private let platform: Platform
  private let store: RemoteStore
  private let root: StorePath
  private let settings: Settings
  private let notes: NotesFolder
  private let log: @Sendable (String) -> Void
  private let state = Mutex(State())
  /// An eventfd: something may have happened.
  private let bell = eventfd(0, CInt(EFD_CLOEXEC) | CInt(EFD_NONBLOCK))

  /// Makes a service; nothing happens before ``run(onReady:onTurn:)``.
  /// - Parameters:
  ///   - store: A handle on the host's store, which the service shares among its disks.
  ///   - notes: Where queues note what they have taken.
  ///   - log: Takes one line for each event of a disk's life.
  public init(
    platform: Platform, store: RemoteStore, settings: Settings, notes: NotesFolder,
    log: @escaping @Sendable (String) -> Void
  ) {
    self.platform = platform
    self.store = store
    self.settings = settings
    self.notes = notes
    self.log = log
    root = StorePath.home(of: store.domain) / "backend" / settings.kind
  }

  deinit { close(bell) }

  /// Asks ``run(onReady:onTurn:)`` to end; from any thread.
  public func stop() {
    state.withLock { $0.isStopping = true }
    ring()
  }

  private func ring() {
    var one: UInt64 = 1
    // SAFETY: the address is of a local value of eight bytes.
    _ = unsafe write(bell, &one, 8)
  }

  private var isStopping: Bool { state.withLock { $0.isStopping } }

  /// Serves until told to stop, or until the store goes away.
  ///
  /// Guests whose disks are connected keep them: a service that starts again takes up where this one ended.
  /// - Parameters:
  ///   - onReady: Called once disks can be made, with the number of those that are there already.
  ///   - onTurn: Called at least once a second, with the number of disks.
  public func run(onReady: (Int) -> Void, onTurn: (Int) -> Void = { _ in }) throws(StoreError) {
    store.onEvents { [weak self] in self?.ring() }
    try store.watch(root, token: "disks")
    var disks: [StorePath: ServedDisk<Platform>] = [:]
    var refused: Set<StorePath> = []
    look(&disks, &refused)
    notes.sweep(prefix: settings.kind + "-", keeping: Set(disks.values.flatMap(\.notesInUse)))
    onReady(disks.count)
    while !isStopping, !store.isBroken {
      let isTick = !wait()
      while store.nextEvent() != nil {}
      for piece in takeWork() { piece() }
      look(&disks, &refused)
      if isTick { for disk in disks.values { disk.followImage() } }
      onTurn(disks.count)
    }
    for disk in disks.values { disk.drop("the service ends") }
    if !isStopping { throw .inputOutput }
  }

  /// Waits for something to happen, for a second at most; false when nothing did.
  private func wait() -> Bool {
    var entry = pollfd(fd: bell, events: Int16(POLLIN), revents: 0)
    // SAFETY: one local entry, then a local value of eight bytes.
    let count = unsafe poll(&entry, 1, 1000)
    var value: UInt64 = 0
    _ = unsafe read(bell, &value, 8)
    return count != 0
  }

  private func takeWork() -> [@Sendable () -> Void] {
    state.withLock { state in
      defer { state.work = [] }
      return state.work
    }
  }

  /// Takes up new disks, lets every disk handle what its guest said, and forgets those that are over.
  private func look(_ disks: inout [StorePath: ServedDisk<Platform>], _ refused: inout Set<StorePath>) {
    let found = folders()
    for path in found where disks[path] == nil && !refused.contains(path) {
      do throws(HandshakeFailure) {
        disks[path] = try ServedDisk(path, in: try surroundings(for: path, beside: disks))
      } catch {
        refuse(path, error)
        refused.insert(path)
      }
    }
    for (path, disk) in disks {
      disk.handleWatches()
      if !found.contains(path) { disk.drop("removed") }
      guard disk.isOver else { continue }
      disks[path] = nil
      refused.insert(path)
    }
    refused.formIntersection(found)
  }

  /// What a new disk gets, as far as its guest's share goes.
  private func surroundings(
    for path: StorePath, beside disks: [StorePath: ServedDisk<Platform>]
  ) throws(HandshakeFailure) -> DiskSurroundings<Platform> {
    let others = disks.values.filter { $0.path.parent == path.parent }
    let domain = path.parent.map { $0.string.split(separator: "/").last ?? "" } ?? ""
    guard others.count < settings.limits.disks else {
      throw HandshakeFailure("domain \(domain) has \(others.count) disks, and may have no more", code: 28)
    }
    var knobs = settings.knobs
    let queues = others.reduce(0) { $0 + max(1, $1.queueCount) }
    knobs.maxQueues = min(knobs.maxQueues, settings.limits.queues - queues)
    guard knobs.maxQueues > 0 else {
      throw HandshakeFailure("domain \(domain) has \(queues) queues, and may have no more", code: 28)
    }
    return DiskSurroundings(
      platform: platform, store: store, knobs: knobs, notes: notes, log: log, wake: { [weak self] in self?.ring() },
      enqueue: { [weak self] work in
        self?.state.withLock { $0.work.append(work) }
        self?.ring()
      })
  }

  private func refuse(_ path: StorePath, _ failure: HandshakeFailure) {
    log("\(path): \(failure.sentence)")
    let folder = DeviceFolder(store: store, path: path)
    folder.reportError(code: failure.code, failure.sentence)
    try? folder.switchState(to: .closed)
  }

  /// The folders of all disks that are complete: those with a frontend.
  private func folders() -> Set<StorePath> {
    var found: Set<StorePath> = []
    for domain in (try? store.directory(root)) ?? [] {
      guard let folder = root.appending(domain) else { continue }
      for device in (try? store.directory(folder)) ?? [] {
        guard let path = folder.appending(device), (try? store.exists(path / "frontend")) == true else { continue }
        found.insert(path)
      }
    }
    return found
  }
}
