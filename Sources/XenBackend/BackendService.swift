// SPDX-License-Identifier: MIT

public import BlockBack
import CLinux
import Glibc
import Synchronization
import XenBus
public import XenPlatform
public import XenStore
import XenWire

/// A block backend in a real Xen's control or driver domain: serves every disk below `backend/<kind>/<domain>/<device>`
/// that a toolstack makes.
///
/// A disk that cannot be served gets an error node and is left alone; the others do not notice.
public final class BackendService: Sendable {
  private struct State {
    var isStopping = false
  }

  private let host: XenHost
  private let store: RemoteStore
  private let root: StorePath
  private let knobs: BackendKnobs
  private let log: @Sendable (String) -> Void
  private let state = Mutex(State())
  /// An eventfd: something may have happened.
  private let bell = eventfd(0, CInt(EFD_CLOEXEC))

  /// Makes a service; nothing happens before ``run(onReady:)``.
  /// - Parameters:
  ///   - store: A handle on the host's store, which the service shares among its disks.
  ///   - kind: The folder below `backend`.
  ///   - log: Takes one line for each event of a disk's life.
  public init(
    host: XenHost, store: RemoteStore, kind: String, knobs: BackendKnobs, log: @escaping @Sendable (String) -> Void
  ) {
    self.host = host
    self.store = store
    self.knobs = knobs
    self.log = log
    root = StorePath.home(of: store.domain) / "backend" / kind
  }

  deinit { close(bell) }

  /// Asks ``run(onReady:)`` to end; from any thread.
  public func stop() {
    state.withLock { $0.isStopping = true }
    ring()
  }

  private func ring() {
    var one: UInt64 = 1
    // SAFETY: the address is of a local value of eight bytes.
    _ = unsafe write(bell, &one, 8)
  }

  /// Serves until told to stop, or until the store goes away.
  ///
  /// Guests whose disks are connected keep them: a service that starts again takes up where this one ended.
  /// - Parameter onReady: Called once disks can be made.
  public func run(onReady: () -> Void) throws(StoreError) {
    store.onEvents { [weak self] in self?.ring() }
    try store.watch(root, token: "disks")
    onReady()
    var disks: [StorePath: ServedDisk] = [:]
    var refused: Set<StorePath> = []
    while !state.withLock({ $0.isStopping }), !store.isBroken {
      var count: UInt64 = 0
      // SAFETY: the address is of a local value of eight bytes.
      _ = unsafe read(bell, &count, 8)
      while store.nextEvent() != nil {}
      look(&disks, &refused)
    }
    for disk in disks.values { disk.drop("the service ends") }
    if !state.withLock({ $0.isStopping }) { throw .inputOutput }
  }

  /// Takes up new disks, lets every disk handle what its guest said, and forgets those that are over.
  private func look(_ disks: inout [StorePath: ServedDisk], _ refused: inout Set<StorePath>) {
    let found = folders()
    for path in found where disks[path] == nil && !refused.contains(path) {
      do throws(HandshakeFailure) {
        disks[path] = try ServedDisk(path, host: host, store: store, knobs: knobs, log: log) { [weak self] in
          self?.ring()
        }
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
