// SPDX-License-Identifier: MIT

public import BlockBack
public import BlockFront
public import BlockIO
public import GuestMemory
import SharedRing
public import XenHypervisor
public import XenWire

/// One queue of a whole PV disk, as its user sees it: a frontend's end, and in `inline` placement the backend's end on the
/// same thread.
///
/// The two ends meet only in the ring, the grants and the event channel. In `inline` placement an event is delivered by a
/// look at the virtual CPU at the end of a batch; an end that armed its event runs again only when the event has arrived
/// (or its image has something), so a notification that went missing stops the disk here as it would anywhere. An end that
/// polls is looked at in every pass instead.
public struct StackQueue<Image: BlockQueue & ~Copyable>: BlockQueue, ~Copyable {
  @usableFromInline var back: BackQueue<EmulatedPlatform, Image>?
  @usableFromInline var front: FrontQueue<EmulatedPlatform>
  @usableFromInline let frontCPU: VirtualCPU
  @usableFromInline let backCPU: VirtualCPU
  @usableFromInline let mailbox: QueueMailbox<StackQueue>
  @usableFromInline var isBackAwake = true
  @usableFromInline var hasArmedSleep = false
  @usableFromInline var passes: UInt32 = 0
  @usableFromInline var spin: AdaptiveSpin
  /// Whose I/O travels through this queue's ring, if anybody's.
  @usableFromInline var visitors: Visitors?
  /// Through whose ring this queue's I/O travels, when it has none of its own.
  @usableFromInline var detour: Detour?
  /// This queue's I/Os that others carry, by their number in the frontend's table.
  var journeys: [Int: Visit] = [:]
  @usableFromInline let pollsFront: Bool
  @usableFromInline let pollsBack: Bool
  let wakeSet: WakeSet
  /// Readable when the queue has something to do.
  public let waitDescriptor: CInt
  private let onEnd: @Sendable () -> Void
  var stopBack: (@Sendable () -> Void)?

  init(
    front: consuming FrontQueue<EmulatedPlatform>, parts: QueueParts<Image>, frontCPU: VirtualCPU,
    backCPU: VirtualCPU, mailbox: QueueMailbox<StackQueue>, wakeSet: consuming WakeSet, spin: AdaptiveSpin,
    notify: (front: NotificationPolicy, back: NotificationPolicy), onEnd: @escaping @Sendable () -> Void
  ) {
    self.front = front
    back = parts.back.take()
    stopBack = parts.stopBack
    self.frontCPU = frontCPU
    self.backCPU = backCPU
    self.mailbox = mailbox
    self.spin = spin
    pollsFront = notify.front == .poll
    pollsBack = notify.back == .poll
    waitDescriptor = wakeSet.descriptor
    self.wakeSet = wakeSet
    self.onEnd = onEnd
  }

  /// The backend lets go of the pages before the frontend takes them back; what it carried for others and had not done
  /// goes back to them, what others carry for it is nobody's any more.
  deinit {
    stopBack?()
    var back = consume back
    var front = consume front
    for visit in journeys.values { visit.withdraw() }
    if let visitors { Self.farewell(visitors, &front, &back) }
    _ = consume back
    _ = consume front
    detour?.leave()
    onEnd()
  }

  /// The most requests in flight.
  @inlinable public var capacity: Int { front.capacity }
  /// Requests accepted and not handed back.
  @inlinable public var inFlight: Int { front.inFlight }
  /// A buffer whose pages the backend reads and writes in place.
  @inlinable public func buffer(_ index: Int) -> MemoryExtent { front.buffer(index) }
  /// Accepts a request.
  @inlinable public mutating func submit(_ request: IORequest) -> SubmitOutcome { front.submit(request) }
  /// Accepts a read or a write with its caller's own protection tuples (DIX), eight bytes for each 512-byte sector.
  /// - Parameter tuples: kept by the caller until completion; a write's are read, a read's written.
  public mutating func submit(_ request: IORequest, tuples: MemoryExtent) -> SubmitOutcome {
    front.submit(request, tuples: tuples)
  }
  /// Takes one finished request.
  @inlinable
  public mutating func nextCompletion() -> IOCompletion? {
    if visitors != nil { return nextOwnCompletion() }
    return front.nextCompletion()
  }

  /// Publishes what was submitted, lets the backend work if it is here, and takes the responses.
  @inlinable
  public mutating func advance() {
    if mailbox.hasWork { mailbox.run(on: &self) }
    if hasArmedSleep {
      hasArmedSleep = false
      frontCPU.didWake()
    }
    if visitors != nil || detour != nil { exchangeVisits() }
    repeat {
      front.issue()
      runBack()
      if frontCPU.hasPendingUpcall { frontCPU.takePendingPorts { _ in } }
      front.collect()
    } while front.hasMoreToIssue
  }

  @inlinable
  mutating func runBack() {
    if backCPU.hasPendingUpcall, back != nil {
      backCPU.takePendingPorts { _ in }
      isBackAwake = true
    }
    passes &+= 1
    if passes & 255 == 0 { back?.housekeep() }
    if isBackAwake || pollsBack || (back?.inFlight ?? 0) > 0 { back?.advance() }
  }

  /// Arms both ends; in `threads` placement looks for a while before it lets the thread sleep.
  @inlinable
  public mutating func prepareToWait() -> WaitReadiness {
    if pollsFront { return prepareByPolling() }
    if front.prepareToWait() == .workPending || mailbox.hasWork { return .workPending }
    if back != nil { return prepareInline() }
    if front.awaitsResponses {
      let cpu = frontCPU
      if spin.wait(until: { cpu.hasPendingUpcall }) { return .workPending }
    }
    return prepareToSleep()
  }

  /// The frontend polls: it looks first, and asks for a notification only before it really sleeps.
  ///
  /// Beside a backend on the same thread it need not ask at all.
  @usableFromInline
  mutating func prepareByPolling() -> WaitReadiness {
    if front.lookForWork() == .workPending || mailbox.hasWork { return .workPending }
    if back != nil { return prepareInline() }
    if front.awaitsResponses, let point = front.pollPoint, spin.wait(until: { point.hasMoved }) { return .workPending }
    if front.prepareToWait() == .workPending { return .workPending }
    return prepareToSleep()
  }

  @inlinable
  mutating func prepareToSleep() -> WaitReadiness {
    guard frontCPU.prepareToSleep() else { return .workPending }
    hasArmedSleep = true
    return .maySleep
  }

  @inlinable
  mutating func prepareInline() -> WaitReadiness {
    let readiness = pollsBack ? back?.lookForWork() : back?.prepareToWait()
    if readiness == .workPending {
      isBackAwake = true
      return .workPending
    }
    isBackAwake = false
    return frontCPU.hasPendingUpcall || backCPU.hasPendingUpcall ? .workPending : .maySleep
  }

  /// For work from the mailbox: the backend's end, where it is here.
  public mutating func withBack(_ body: (inout BackQueue<EmulatedPlatform, Image>) -> Void) {
    if var here = back.take() {
      body(&here)
      back = consume here
    }
  }
}
