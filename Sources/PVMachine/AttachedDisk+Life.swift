// SPDX-License-Identifier: MIT

public import BlockBack
import BlockFront
import BlockIO
import Glibc
import Synchronization
import XenBus
import XenHypervisor
import XenStore
import XenWire

/// What happens to a disk between its first handshake and its end.
///
/// The control plane runs on the machine's control thread. It reaches a queue by a letter, which the queue's own thread
/// carries out; what has to wait for all queues is a ``Gathering``. Nothing here waits for another thread.
extension AttachedDisk {
  // MARK: Events of the store

  func handle(_ event: BackendDevice<EmulatedPlatform>.Event) {
    switch event {
    case .frontendReady: connectBackend()
    case .frontendClosed, .frontendGone:
      guard phase == .connected else { return backend.finishClosing() }
      lose { $0.backend.finishClosing() }
    case .failed(let sentence): fail(.backend(HandshakeFailure(sentence)))
    case .frontendClosing: break
    }
  }

  private func connectBackend() {
    let backend = backend
    do throws(HandshakeFailure) {
      let negotiation = try backend.connectRings()
      control.withLock {
        $0.negotiation = negotiation
        $0.takenLinks = []
      }
      try backend.announce(shownGeometry)
    } catch { fail(.backend(error)) }
  }

  func handle(_ event: FrontendDevice<EmulatedPlatform>.Event) {
    switch event {
    case .connected(let offer):
      // What the protocol has no words for: the image under the backend knows whether discarded sectors read as zeros.
      let leavesZeros = image.geometry.discard?.leavesZeros ?? false
      control.withLock {
        $0.geometry = offer.geometry
        $0.geometry.discard?.leavesZeros = leavesZeros
        $0.failure = nil
      }
      reconnectQueues()
      settle(in: .connected)
    case .resized(let sectors): noteCapacity(sectors)
    case .failed(let error): fail(.frontend(error))
    case .closing:
      guard phase == .connected || phase == .connecting else { return }
      lose { $0.frontend.finishClosing() }
    }
  }

  /// The connection is over and nobody said that another follows: I/O fails from now on.
  private func lose(_ finish: @escaping @Sendable (AttachedDisk) -> Void) {
    control.withLock { $0.phase = .disconnecting }
    disconnectQueues(failing: true) { [self] in
      finish(self)
      settle(in: .gone)
    }
  }

  /// A handshake failed.
  private func fail(_ error: MachineError) {
    control.withLock { $0.failure = error }
  }

  // MARK: One change at a time

  /// Does something on the control thread, after a change that is under way.
  private func change(_ body: @escaping @Sendable () -> Void) {
    machine.loop.enqueue { [self] in
      let isMoving = control.withLock { state in
        let isMoving = state.phase == .disconnecting || state.phase == .connecting
        if isMoving { state.deferred.append(body) }
        return isMoving
      }
      if !isMoving { body() }
    }
  }

  /// A change has come to its end.
  private func settle(in phase: DiskPhase) {
    let next = control.withLock { state -> (@Sendable () -> Void)? in
      state.phase = phase
      return phase == .suspended || state.deferred.isEmpty ? nil : state.deferred.removeFirst()
    }
    if let next { change(next) }
  }

  // MARK: Letters to the queues

  /// Asks every queue to let go of its connection, and goes on once all have.
  /// - Parameter failing: whether I/O in hand ends with `EIO` instead of waiting for a backend.
  func disconnectQueues(failing: Bool, then next: @escaping @Sendable () -> Void) {
    let mailboxes = control.withLock { state in
      if !state.mailboxes.isEmpty {
        state.gatherings.append(Gathering(waiting: Set(state.mailboxes.keys), next: next))
      }
      return state.mailboxes
    }
    if mailboxes.isEmpty {
      releaseUnusedLinks()
      return next()
    }
    for (index, mailbox) in mailboxes {
      mailbox.post { [self] queue in
        queue.disconnect(failing: failing)
        _ = control.withLock { $0.threads.removeValue(forKey: index) }
        noteGathered(index)
      }
    }
  }

  /// A queue has let go: the oldest gathering that waits for it has one less to wait for.
  private func noteGathered(_ index: Int) {
    let isComplete = control.withLock { state in
      guard let place = state.gatherings.firstIndex(where: { $0.waiting.contains(index) }) else { return false }
      state.gatherings[place].waiting.remove(index)
      return state.gatherings[0].waiting.isEmpty
    }
    if isComplete { machine.loop.enqueue { [self] in finishGatherings() } }
  }

  private func finishGatherings() {
    while true {
      let next = control.withLock { state -> (@Sendable () -> Void)? in
        guard let first = state.gatherings.first, first.waiting.isEmpty else { return nil }
        return state.gatherings.removeFirst().next
      }
      guard let next else { return }
      releaseUnusedLinks()
      next()
    }
  }

  /// A queue was destroyed by its user; if it carried others' I/O, the rings are handed out anew.
  func queueEnded(_ index: Int) {
    let (isComplete, door) = control.withLock { state in
      state.mailboxes[index] = nil
      state.threads[index] = nil
      state.buffers[index] = nil
      for place in state.gatherings.indices { state.gatherings[place].waiting.remove(index) }
      return (state.gatherings.first?.waiting.isEmpty ?? false, state.doors.removeValue(forKey: index))
    }
    if isComplete { machine.loop.enqueue { [self] in finishGatherings() } }
    if let door, door.shut() { replaceBackend(with: backend.knobs) }
  }

  /// Hands out the rings of a new connection: one for each living queue, as far as there are enough; the others' I/O
  /// travels through those that have one.
  private func reconnectQueues() {
    let mailboxes = control.withLock { $0.mailboxes }
    let indices = mailboxes.keys.sorted()
    let rings = min(frontend.queueCount, indices.count)
    var doors: [Int: Detour] = [:]
    for place in 0..<rings where place + rings < indices.count {
      guard let mailbox = mailboxes[indices[place]] else { continue }
      let door = Detour { mailbox.post { _ in } }
      for _ in stride(from: place + rings, to: indices.count, by: rings) { door.join() }
      doors[indices[place]] = door
    }
    // A queue may have ended since its mailbox was looked up: nobody would answer behind its door.
    let lost = control.withLock { state in
      state.doors = doors.filter { state.mailboxes[$0.key] != nil }
      return doors.keys.filter { state.mailboxes[$0] == nil }
    }
    for (place, index) in indices.enumerated() {
      guard let mailbox = mailboxes[index] else { continue }
      let door = rings > 0 ? doors[indices[place % rings]] : nil
      if place < rings {
        mailbox.post { [self] queue in reconnect(&queue, index: index, link: place, detour: door) }
      } else if let door {
        mailbox.post { queue in queue.travel(through: door) }
      }
    }
    for index in lost where doors[index]?.shut() == true { replaceBackend(with: backend.knobs) }
  }

  private func reconnect(_ queue: inout Queue, index: Int, link: Int, detour: Detour?) {
    do throws(BlockError) {
      let parts = try makeParts(queue: index, link: link)
      let references = try makeReferences(for: parts.connection, arenaPages: queue.arenaPageCount)
      queue.reconnect(parts, references: references, detour: detour)
    } catch {
      queue.disconnect(failing: true)
      // Who relies on this queue's ring would wait for ever.
      detour?.shut(EIO)
      fail(.disk(error))
    }
  }

  // MARK: The backend goes and comes

  /// Lets the backend go in mid-I/O, as at the beginning of a migration or when a driver domain dies: its mappings are
  /// gone, its responses are lost, the frontend keeps every I/O that was not answered.
  public func suspend(then next: @escaping @Sendable () -> Void = {}) {
    change { [self] in
      guard phase != .suspended, phase != .detaching else { return next() }
      control.withLock { $0.phase = .disconnecting }
      backend.folder.store.onEvents(nil)
      disconnectQueues(failing: false) { [self] in
        settle(in: .suspended)
        next()
      }
    }
  }

  /// Gives a suspended disk another backend, perhaps one that offers less; the I/O in hand is issued to it.
  /// - Parameter knobs: what the backend's administrator set there; the configuration's unless given.
  public func resume(with knobs: BackendKnobs? = nil) {
    machine.loop.enqueue { [self] in start(knobs) }
  }

  /// Replaces the backend in mid-I/O.
  public func replaceBackend(with knobs: BackendKnobs? = nil) {
    suspend { [self] in start(knobs) }
  }

  private func start(_ knobs: BackendKnobs?) {
    guard phase == .suspended else { return }
    control.withLock { $0.phase = .connecting }
    do throws(MachineError) {
      try startBackend(knobs ?? configuration.backendKnobs)
      handleEvents()
    } catch {
      fail(error)
      lose { _ in }
    }
  }

  /// A toolstack's folders anew, a backend's probe, the frontend's resume.
  private func startBackend(_ knobs: BackendKnobs) throws(MachineError) {
    do throws(StoreError) { try definition.create(in: machine.toolstack) } catch {
      throw .stalled("the store refused: \(error.wireName)")
    }
    let backend = Self.makeBackend(machine, definition, knobs)
    control.withLock { $0.backend = backend }
    do throws(HandshakeFailure) { try backend.probe() } catch { throw .backend(error) }
    writeHotplug()
    listen(to: backend.folder.store)
    do throws(FrontendError) { try frontend.resume() } catch { throw .frontend(error) }
  }

  // MARK: The frontend closes and comes back

  /// Closes from the frontend's side, as a driver that is unloaded: I/O fails until ``reopen()``.
  public func closeFrontend() {
    change { [self] in
      guard phase == .connected else { return }
      frontend.startClosing()
      handleEvents()
    }
  }

  /// Takes the driver away from the disk, as by its `unbind` file: closed at once, without closing first; I/O fails until
  /// ``reopen()``.
  public func unbindFrontend() {
    change { [self] in
      guard phase == .connected else { return }
      lose { $0.frontend.finishClosing() }
    }
  }

  /// Lets the frontend come back after ``closeFrontend()``.
  public func reopen() {
    change { [self] in
      guard phase == .gone else { return }
      control.withLock { $0.phase = .connecting }
      frontend.reopen()
      handleEvents()
    }
  }

  // MARK: Once a second

  /// Lets idle queues drop mappings that nobody used for `persistent_grant_unused_seconds`: blkback's threads wake every
  /// 100 ms for that, ours sleep until they are told.
  func lookForIdleQueues() {
    let limit = backend.knobs.persistentGrantUnusedSeconds
    guard limit > 0, phase == .connected else { return }
    for (index, tables) in counters.enumerated() {
      let responses = tables.back[QueueCounter.responses.rawValue]
      let isHolding = tables.back[QueueCounter.grants_persistent.rawValue] > 0
      let letter = control.withLock { state -> (QueueMailbox<Queue>?, BackThread<Image.Queue>?)? in
        let last = state.idle[index]
        guard isHolding, let last, last.responses == responses else {
          state.idle[index] = (responses, 0)
          return nil
        }
        state.idle[index] = (responses, last.seconds + 1)
        return last.seconds > limit ? (state.mailboxes[index], state.threads[index]) : nil
      }
      guard let (mailbox, thread) = letter else { continue }
      if let thread {
        thread.mailbox.post { $0.housekeep() }
      } else {
        mailbox?.post { queue in queue.withBack { $0.housekeep() } }
      }
    }
  }

  /// Memory is short: no ring of the backend keeps free pages for a while (blkback's `reclaim_memory`).
  public func squeezeBuffers() {
    let (mailboxes, threads) = control.withLock { ($0.mailboxes, $0.threads) }
    for (index, mailbox) in mailboxes {
      if let thread = threads[index] {
        thread.mailbox.post { $0.squeeze() }
      } else {
        mailbox.post { queue in queue.withBack { $0.squeeze() } }
      }
    }
  }

  /// Rings that no queue was made for are still the control plane's to unmap.
  func releaseUnusedLinks() {
    let (links, taken) = control.withLock { state in
      defer {
        state.negotiation = nil
        state.takenLinks = []
      }
      return (state.negotiation?.links ?? [], state.takenLinks)
    }
    let platform = backend.platform
    for (index, link) in links.enumerated() where !taken.contains(index) {
      platform.close(link.port)
      platform.unmap(link.ring)
      if let connection = frontend.connection(ofQueue: index) { frontend.platform.close(connection.port) }
    }
  }
}
