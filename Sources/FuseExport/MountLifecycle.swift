// SPDX-License-Identifier: MIT

import CLinux
import Glibc
import GuestMemory
import Synchronization

/// How a mount ended.
public struct FuseOutcome: Equatable, Sendable {
  /// The `errno` of the last flush, or nil when everything that was written is durable.
  public var flushError: CInt?
  /// Whether somebody still had the disk open when a stop was asked for, so that the mount went on, out of sight, until
  /// they closed it or the stop was asked for again.
  public var wasBusy: Bool

  /// Describes an end.
  public init(flushError: CInt? = nil, wasBusy: Bool = false) {
    self.flushError = flushError
    self.wasBusy = wasBusy
  }
}

/// How a stop treats those who still have the disk open.
public enum StopUrgency: Sendable {
  /// Unmounts; who has the disk open may go on until he closes it.
  case orderly
  /// Finishes the requests under way and flushes; later requests fail with `ENOTCONN`.
  case immediate
}

/// One mapping that holds what reactors share.
final class SharedArea: @unchecked Sendable {
  // SAFETY: the mapping is only reached through regions, which check bounds, and lives as long as this object.
  let memory: MappedMemory
  init(byteCount: Int) throws(SystemError) { memory = try MappedMemory(anonymousByteCount: byteCount) }
}

/// The life of a mount, from start to flush: everything that does not depend on the kind of device.
@usableFromInline
final class MountLifecycle: Sendable {
  let session: FuseSession
  @usableFromInline let namespace: FuseNamespace
  @usableFromInline let options: FuseOptions
  @usableFromInline let reactorCount: Int
  let isReadOnly: Bool
  /// The rings, once the kernel has agreed to them.
  let rings = Mutex<RingSet?>(nil)
  /// The bell for reactors over /dev/fuse; a mount over io_uring has none.
  let doorbell = Mutex<Doorbell?>(nil)
  /// Where reactors over rings part.
  @usableFromInline let parting: Parting
  /// Counters, gate and write counts of the reactors, each in its own place.
  private let shared: SharedArea
  /// Each readable once for every reactor that has started, or failed to.
  private let startedEvent: CInt
  /// Readable for ever once reactors are to stop at once.
  @usableFromInline let stopEvent: CInt
  /// Readable when a stop was asked for, or when the last reactor has ended.
  private let attentionEvent: CInt
  private let state: Mutex<State>

  struct State: Sendable {
    var threads: [ReactorThread] = []
    var startFailure: FuseError?
    var running = 0
    var flushError: CInt?
    var orderlyStopAsked = false
  }

  init(options: FuseOptions, reactorCount: Int, isReadOnly: Bool) throws(FuseError) {
    self.options = options
    self.reactorCount = reactorCount
    parting = Parting(count: reactorCount)
    self.isReadOnly = isReadOnly
    let gateBytes = WriteGate.byteCount(seatCount: reactorCount)
    let bytes =
      gateBytes + reactorCount * (ReactorCounters.byteCount + 128) + Doorbell.byteCount(seatCount: reactorCount)
    do {
      shared = try SharedArea(byteCount: (bytes + 4095) & ~4095)
    } catch {
      throw .system(call: "\(error.call)", code: error.code)
    }
    startedEvent = eventfd(0, CInt(EFD_CLOEXEC | EFD_SEMAPHORE))
    stopEvent = eventfd(0, CInt(EFD_CLOEXEC | EFD_NONBLOCK))
    attentionEvent = eventfd(0, CInt(EFD_CLOEXEC | EFD_NONBLOCK))
    guard startedEvent >= 0, stopEvent >= 0, attentionEvent >= 0 else { throw .system(call: "eventfd", code: errno) }
    state = Mutex(State())
    session = try FuseSession(options: options, isReadOnly: isReadOnly)
    namespace = FuseNamespace(
      shape: session.mountPoint.shape, fileName: options.fileName, isReadOnly: isReadOnly, user: getuid(),
      group: getgid(),
      negotiation: FuseNegotiation(maximumTransfer: options.maximumTransfer, wantsRing: false))
  }

  deinit {
    for descriptor in [startedEvent, stopEvent, attentionEvent] { close(descriptor) }
  }

  /// What reactor `index` is made with.
  @usableFromInline
  func settings(for index: Int, slotCount: Int) -> ReactorSettings {
    let region = shared.memory.region
    let gateBytes = WriteGate.byteCount(seatCount: reactorCount)
    return ReactorSettings(
      namespace: namespace, counters: counters(of: index),
      writeCounts: region.slice(
        at: gateBytes + reactorCount * ReactorCounters.byteCount, byteCount: reactorCount * 128),
      gate: WriteGate(memory: region, seat: index, seatCount: reactorCount), slotCount: slotCount,
      guestCount: rings.withLock { $0?.slots(of: index).guestCount ?? 0 },
      maximumTransfer: options.maximumTransfer, spinNanoseconds: options.spinNanoseconds, isReadOnly: isReadOnly)
  }

  func counters(of index: Int) -> ReactorCounters {
    let start = WriteGate.byteCount(seatCount: reactorCount) + index * ReactorCounters.byteCount
    return ReactorCounters(memory: shared.memory.region.slice(at: start, byteCount: ReactorCounters.byteCount))
  }

  /// Starts the reactors and waits until each of them serves.
  /// - Throws: what made the first of them fail, after all have ended and the mount is undone.
  @usableFromInline
  func start(_ body: @escaping @Sendable (Int) -> Void) throws(FuseError) {
    precondition(state.withLock { $0.threads.isEmpty }, "a mount is started once")
    do throws(FuseError) {
      try agreeOnRings()
      if !isOverRing { try hangBell() }
    } catch {
      session.disconnect()
      throw error
    }
    var failure: FuseError?
    for index in 0..<reactorCount {
      let cpu = cpu(of: index)
      do {
        let thread = try ReactorThread(name: "pvdisk-q\(index)", cpu: cpu) { body(index) }
        state.withLock { $0.threads.append(thread) }
      } catch {
        failure = error
        break
      }
    }
    let started = state.withLock { $0.threads.count }
    for _ in started..<reactorCount { parting.miss() }
    for _ in 0..<started { waitFor(startedEvent) }
    failure = failure ?? state.withLock { $0.startFailure }
    guard let failure else { return }
    requestStop(.immediate)
    join()
    session.disconnect()
    throw failure
  }

  private func hangBell() throws(FuseError) {
    let bell = try Doorbell(seatCount: reactorCount, memory: bellMemory, stopDescriptor: stopEvent)
    doorbell.withLock { $0 = bell }
  }

  /// Memory for the reactors' seats at the bell.
  var bellMemory: SharedRegion {
    let byteCount = Doorbell.byteCount(seatCount: reactorCount)
    let start = WriteGate.byteCount(seatCount: reactorCount) + reactorCount * (ReactorCounters.byteCount + 128)
    return shared.memory.region.slice(at: start, byteCount: byteCount)
  }

  /// Says that a reactor serves, or why it cannot.
  @usableFromInline
  func reportStart(_ failure: FuseError?) {
    state.withLock { state in
      if let failure {
        state.startFailure = state.startFailure ?? failure
      } else {
        state.running += 1
      }
    }
    if failure != nil { parting.miss() }
    signal(startedEvent)
  }

  /// Says that a reactor has finished its requests; answers whether it is the last, which flushes.
  @usableFromInline
  func reportEnd() -> Bool {
    state.withLock { state in
      state.running -= 1
      return state.running == 0
    }
  }

  /// Says how the last flush went.
  @usableFromInline
  func reportFlush(_ error: CInt) {
    if error != 0 { state.withLock { $0.flushError = error } }
    signal(attentionEvent)
  }

  /// Asks the mount to end; may be called from a signal handler.
  func requestStop(_ urgency: StopUrgency) {
    switch urgency {
    case .orderly: signal(attentionEvent)
    case .immediate: signal(stopEvent)
    }
  }

  /// Waits for the end, and brings it about when a stop was asked for.
  func waitUntilUnmounted() -> FuseOutcome {
    var outcome = FuseOutcome()
    while state.withLock({ $0.running > 0 }) {
      waitFor(attentionEvent)
      guard state.withLock({ $0.running > 0 }) else { break }
      guard session.unmountIfIdle() else {
        outcome.wasBusy = true
        session.close()
        continue
      }
    }
    join()
    session.disconnect()
    outcome.flushError = state.withLock { $0.flushError }
    return outcome
  }

  private func join() {
    let threads = state.withLock { state in
      defer { state.threads = [] }
      return state.threads
    }
    for thread in threads { thread.join() }
  }

  private func signal(_ event: CInt) {
    // SAFETY: write(2) of eight local bytes, which an eventfd takes whole.
    _ = eventfd_write(event, 1)
  }

  private func waitFor(_ event: CInt) {
    var entry = pollfd(fd: event, events: Int16(POLLIN), revents: 0)
    // SAFETY: one local entry, then eight local bytes.
    while unsafe poll(&entry, 1, -1) < 0 && errno == EINTR {}
    var value: eventfd_t = 0
    unsafe _ = eventfd_read(event, &value)
  }

  /// The sum of the reactors' counters.
  func statistics() -> FuseStatistics {
    var sum = FuseStatistics()
    for index in 0..<reactorCount { counters(of: index).accumulate(into: &sum) }
    return sum
  }
}
