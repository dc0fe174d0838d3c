// SPDX-License-Identifier: MIT

public import BlockIO
public import CLinux
public import GuestMemory

/// One thread's share of a mount: takes requests from a transport, gives them to its device queue, answers.
///
///     +--> take a bounded batch of requests ---> queue.submit
///     |    queue.advance                    ---> completions, answered at once
///     |    nothing left: prepareToWait      ---> sleep in transport.wait
///     +-------------------------------------------'
///
/// **Assumptions.** One thread calls it. Nothing on the way of a READ or a WRITE of whole sectors allocates, locks or
/// counts references; generic over the device and the transport, and inlinable, so that both are known where it is
/// built.
@usableFromInline
struct FuseReactor<Device: BlockDevice, Transport: FuseTransport & ~Copyable>: ~Copyable {
  /// The number that marks a request which the reactor waits for on the spot.
  @inlinable static var ownTag: UInt64 { UInt64.max }
  /// Sleeps in a row without two requests at once before the reactor counts on the next to be so, too.
  @inlinable static var singlesBeforeTrust: Int { 4 }
  /// Writes next to one another that are taken before the device is asked to move.
  @inlinable static var neighbourLimit: Int { 16 }
  /// Bytes taken before the device is asked to move: what still fits a core's cache.
  @inlinable static var batchBytes: Int { 256 << 10 }

  @usableFromInline let device: Device
  @usableFromInline var queue: Device.Queue
  @usableFromInline var transport: Transport
  @usableFromInline let namespace: FuseNamespace
  @usableFromInline let counters: ReactorCounters
  @usableFromInline let writeCounts: SharedRegion
  @usableFromInline var gate: WriteGate
  @usableFromInline let table: SlotTable
  @usableFromInline var deferred: SlotQueue
  /// The reactor's own buffer and the number of its extent list.
  @usableFromInline let scratch: Int
  @usableFromInline let maximumTransfer: Int
  @usableFromInline let spinNanoseconds: UInt64
  /// The device's geometry as this reactor last saw it: bytes in whole logical sectors, sector size minus one.
  @usableFromInline var diskByteCount: UInt64
  @usableFromInline let sectorMask: UInt64
  @usableFromInline let isReadOnly: Bool
  @usableFromInline let discardLeavesZeros: Bool
  /// What became of the request marked with ``ownTag``.
  @usableFromInline var ownResult: CInt?
  /// The most requests that the current batch takes.
  @usableFromInline var batchLimit = 1
  /// Where the last write ended, in bytes; none at first.
  @usableFromInline var writeEnd = UInt64.max
  /// Bytes in the requests of the current batch.
  @usableFromInline var batchedBytes = 0
  /// Sleeps in a row that were followed by requests, and never by two at once.
  @usableFromInline var singles = 0
  /// Requests taken since the last sleep, and the most of them in one batch.
  @usableFromInline var takenAwake = 0
  @usableFromInline var mostAtOnce = 0
  @usableFromInline var isStopping = false

  @inlinable
  init(
    device: Device, queue: consuming Device.Queue, transport: consuming Transport, settings: ReactorSettings
  ) {
    let geometry = device.geometry
    self.device = device
    self.queue = queue
    self.transport = transport
    namespace = settings.namespace
    counters = settings.counters
    writeCounts = settings.writeCounts
    gate = settings.gate
    table = SlotTable(count: settings.slotCount + 1 + settings.guestCount)
    deferred = SlotQueue(capacity: settings.slotCount + settings.guestCount)
    scratch = settings.slotCount
    maximumTransfer = settings.maximumTransfer
    spinNanoseconds = settings.spinNanoseconds
    sectorMask = UInt64(geometry.logicalSectorSize - 1)
    diskByteCount = geometry.byteCount & ~UInt64(geometry.logicalSectorSize - 1)
    isReadOnly = geometry.isReadOnly || settings.isReadOnly
    discardLeavesZeros = geometry.discard?.leavesZeros ?? false
  }

  /// Serves until the file system is gone or a stop is asked for, then finishes what is under way.
  @inlinable
  mutating func run() {
    while !isStopping {
      if takeBatch() { rest() }
    }
    while queue.inFlight > 0 || deferred.count > 0 {
      progress()
      if queue.inFlight > 0 { waitForProgress() }
    }
    transport.publish()
  }

  /// Ends together with the others: closes the transport when nobody asks anything of it any more, and lets go of the queue and
  /// its buffers when nobody's transport reaches into them.
  @inlinable
  consuming func part(from parting: Parting) {
    parting.leave()
    while !parting.haveAllLeft {
      // Others may have I/O under way in this queue.
      queue.advance()
      finishCompletions()
      parting.pause()
    }
    _ = consume transport
    parting.close()
    while !parting.haveAllClosed { parting.pause() }
  }

  /// Takes a batch, lets the device move and answers what it has finished; whether there is nothing more to do now.
  ///
  /// The first request after a sleep is answered before another is taken: its asker may have no more than that under way.
  @inlinable
  mutating func takeBatch() -> Bool {
    let taken = takeRequests(takenAwake == 0 ? 1 : Transport.batchRequests)
    takenAwake &+= taken
    mostAtOnce = max(mostAtOnce, taken)
    if taken > 0 || queue.inFlight > 0 { progress() }
    return taken < batchLimit || expectsSingles
  }

  /// Whether looking for a second request is likely to be a wasted system call: after the last sleeps there were never two at
  /// once.
  ///
  /// Every sixteenth time it looks all the same, or it would never learn better.
  @inlinable var expectsSingles: Bool { singles >= Self.singlesBeforeTrust && singles & 15 != 0 }

  /// Takes requests until there are none, or enough for one batch; answers how many.
  @inlinable
  mutating func takeRequests(_ limit: Int) -> Int {
    var taken = 0
    batchLimit = limit
    batchedBytes = 0
    while taken < batchLimit && batchedBytes < Self.batchBytes && deferred.count == 0 {
      switch transport.nextRequest() {
      case .request(let slot, let payloadByteCount):
        handle(slot, payloadByteCount: payloadByteCount)
        taken &+= 1
      case .none, .saturated: return taken
      case .unmounted:
        isStopping = true
        return taken
      }
    }
    return batchedBytes < Self.batchBytes ? taken : batchLimit
  }

  /// Takes note of a write, and lets more be taken with one that goes on where the last one ended: a device may make one of them.
  @inlinable
  mutating func noteNeighbour(from start: UInt64, to end: UInt64) {
    if start == writeEnd { batchLimit = max(batchLimit, Self.neighbourLimit) }
    writeEnd = end
  }

  /// Lets the device move and answers what it has finished.
  @inlinable
  mutating func progress() {
    queue.advance()
    finishCompletions()
    transport.publishBatch()
  }

  /// Sleeps until there is something to do.
  @inlinable
  mutating func rest() {
    guard !isStopping else { return }
    // A device may have work of its own, such as an event that came before the first request.
    guard queue.prepareToWait() == .maySleep else {
      transport.publish()
      return progress()
    }
    guard deferred.count == 0 else { return transport.waitForDevice() }
    singles = mostAtOnce == 1 ? singles &+ 1 : 0
    takenAwake = 0
    mostAtOnce = 0
    if spinNanoseconds > 0 && spin() { return }
    let reason = transport.wait(expectsOne: singles >= Self.singlesBeforeTrust && queue.inFlight == 0)
    if reason.contains(.stop) { isStopping = true }
    guard reason.contains(.device) else { return }
    // A device that has something to say between requests is not one to sleep apart from.
    singles = 0
    progress()
  }

  /// Looks for a request for a while instead of sleeping; answers whether there was one.
  @inlinable
  mutating func spin() -> Bool {
    transport.publish()
    let end = pv_monotonic_nanoseconds() &+ spinNanoseconds
    repeat {
      takenAwake = takeRequests(1)
      mostAtOnce = takenAwake
      if takenAwake > 0 || queue.inFlight > 0 { progress() }
      if takenAwake > 0 || isStopping { return true }
      pv_cpu_relax()
    } while pv_monotonic_nanoseconds() < end
    return queue.prepareToWait() != .maySleep
  }
}

/// What a reactor is made with, beside its device and its transport.
@usableFromInline
struct ReactorSettings {
  @usableFromInline let namespace: FuseNamespace
  @usableFromInline let counters: ReactorCounters
  /// A word for each reactor: the writes that it has completed.
  @usableFromInline let writeCounts: SharedRegion
  @usableFromInline let gate: WriteGate
  /// Slots, each with the device buffer of its number; the device has one buffer more, the scratch buffer.
  @usableFromInline let slotCount: Int
  /// Slots of a neighbour, numbered behind the scratch buffer.
  @usableFromInline let guestCount: Int
  @usableFromInline let maximumTransfer: Int
  @usableFromInline let spinNanoseconds: UInt64
  @usableFromInline let isReadOnly: Bool
}
