// SPDX-License-Identifier: MIT

public import BlockFront
public import BlockIO
public import GuestMemory
public import PVMachine
import XenHypervisor
public import XenPlatform
public import XenWire

/// One queue of a frontend whose backend is in another machine's memory: issues, sleeps on the port's descriptor, collects.
public struct GuestQueue<Platform: GuestPlatform>: BlockQueue, ~Copyable {
  @usableFromInline var front: FrontQueue<Platform>
  @usableFromInline let platform: Platform
  @usableFromInline let port: EventPort
  @usableFromInline let mailbox: QueueMailbox<GuestQueue>
  @usableFromInline var hasArmed = false
  private let wakeSet: WakeSet
  private let onEnd: @Sendable () -> Void
  /// Readable when the backend has signalled, or the control plane has something to say.
  public let waitDescriptor: CInt

  init(
    front: consuming FrontQueue<Platform>, platform: Platform, mailbox: QueueMailbox<GuestQueue>,
    wakeSet: consuming WakeSet, onEnd: @escaping @Sendable () -> Void
  ) {
    port = front.port
    self.front = front
    self.platform = platform
    self.mailbox = mailbox
    waitDescriptor = wakeSet.descriptor
    self.wakeSet = wakeSet
    self.onEnd = onEnd
  }

  /// The queue's pages and port go first, then the disk hears of it.
  deinit {
    _ = consume front
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
  /// Takes one finished request.
  @inlinable public mutating func nextCompletion() -> IOCompletion? { front.nextCompletion() }

  /// Publishes what was submitted, and takes the responses that are there.
  @inlinable
  public mutating func advance() {
    if mailbox.hasWork { mailbox.run(on: &self) }
    if hasArmed {
      hasArmed = false
      platform.takeEvents(of: port)
    }
    repeat {
      front.issue()
      front.collect()
    } while front.hasMoreToIssue
  }

  /// Asks for an event at the next response, then looks again.
  @inlinable
  public mutating func prepareToWait() -> WaitReadiness {
    if front.prepareToWait() == .workPending || mailbox.hasWork { return .workPending }
    hasArmed = true
    return .maySleep
  }

  /// The disk is gone: what is in hand, and what comes, ends with `EIO`.
  mutating func abandon() {
    front.suspend()
    front.abandon()
  }
}
