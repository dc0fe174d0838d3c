// SPDX-License-Identifier: MIT

public import CLinux
public import GuestMemory
public import XenWire

/// The frontend's end of a ring (ring.h `FRONT_RING`): produces requests, consumes responses.
///
/// Private indices never leave this end; what the peer can write is read once a pass and checked.
public struct FrontRing: ~Copyable {
  /// The ring in shared memory.
  public let layout: RingLayout
  /// The next request index to fill; published by ``publishRequests()``.
  @inlinable public var privateRequestProducer: RingIndex { produced }
  @usableFromInline var produced: RingIndex
  /// The request producer as this end last published it.
  @usableFromInline var publishedRequestProducer: RingIndex
  /// The next response to take.
  @inlinable public var responseConsumer: RingIndex { consumed }
  @usableFromInline var consumed: RingIndex
  @usableFromInline var requestCursor: Int
  @usableFromInline var responseCursor: Int
  /// Bugs that a test has planted.
  public var faults = RingFaults()

  /// Initialises the shared pages before they are granted: indices 0 and events 1, as `SHARED_RING_INIT`.
  /// - Parameter start: where the free-running indices begin; not 0 only in tests of their wrap.
  public static func initialise(
    _ region: SharedRegion, _ geometry: RingGeometry, start: RingIndex = RingIndex(rawValue: 0)
  ) {
    let layout = RingLayout(region: region, geometry: geometry)
    region.fill(0)
    if layout.isSplit { layout.responseConsumer.storeRelaxed(start.rawValue) }
    layout.requestProducer.storeRelaxed(start.rawValue)
    layout.requestEvent.storeRelaxed(start.advanced(by: 1).rawValue)
    layout.responseProducer.storeRelaxed(start.rawValue)
    layout.responseEvent.storeReleasing(start.advanced(by: 1).rawValue)
  }

  /// Attaches to a ring that this end has initialised and not used yet.
  public init(
    attachingTo region: SharedRegion, _ geometry: RingGeometry, start: RingIndex = RingIndex(rawValue: 0)
  ) {
    layout = RingLayout(region: region, geometry: geometry)
    produced = start
    publishedRequestProducer = start
    consumed = start
    requestCursor = layout.requestCursor(start)
    responseCursor = layout.responseCursor(start)
  }

  /// Slots that can take a request now (ring.h `RING_FREE_REQUESTS`).
  @inlinable
  public var freeSlots: UInt32 {
    layout.slotCount &- responseConsumer.distance(to: privateRequestProducer)
  }

  /// Whether no slot is free (ring.h `RING_FULL`).
  @inlinable public var isFull: Bool { freeSlots == 0 }

  /// Whether published requests wait for their responses.
  @inlinable public var hasOutstandingRequests: Bool { responseConsumer != privateRequestProducer }

  /// Whether requests wait to be published.
  @inlinable public var hasUnpublishedRequests: Bool { publishedRequestProducer != produced }

  /// Requests that wait to be published.
  @inlinable public var unpublishedRequests: UInt32 { publishedRequestProducer.distance(to: produced) }
  /// Requests that were published and not answered, as far as responses were taken.
  @inlinable public var requestsWithPeer: UInt32 { consumed.distance(to: publishedRequestProducer) }

  /// Copies a request into the next slot.
  ///
  /// The peer does not see it before ``publishRequests()``.
  @inlinable
  public mutating func enqueue<Format: RingFormat>(_ request: borrowing RequestSlot<Format>, byteCount: Int) {
    precondition(!isFull && byteCount <= layout.requestStride, "enqueue on a full ring, or more than a slot")
    let offset = requestCursor
    // SAFETY: the cursor lies a whole slot before the end of `requests`.
    unsafe layout.requests.withUnsafeBytes { bytes in
      guard let base = bytes.baseAddress else { return }
      unsafe request.spill(toShared: base + offset, count: byteCount)
    }
    requestCursor = layout.nextRequest(offset)
    produced = produced.advanced(by: 1)
  }

  /// Shows the peer all enqueued requests and says whether it has to be woken
  /// (ring.h `RING_PUSH_REQUESTS_AND_CHECK_NOTIFY`): slots, barrier, producer, full barrier, event.
  @inlinable
  public mutating func publishRequests() -> NotificationNeed {
    let old = publishedRequestProducer
    let new = privateRequestProducer
    if old == new { return .none }
    // Before the producer: who sees these requests also sees that their responses have a place.
    if layout.isSplit { layout.responseConsumer.storeRelaxed(consumed.rawValue) }
    layout.requestProducer.storeReleasing(new.rawValue)
    publishedRequestProducer = new
    pv_full_barrier()
    let event = RingIndex(rawValue: layout.requestEvent.loadRelaxed())
    return RingIndex.mustNotify(from: old, to: new, event: event) ? .notify : .none
  }

  /// Responses that wait, by one look at the producer (ring.h `RING_HAS_UNCONSUMED_RESPONSES`).
  /// - Throws: ``RingViolation/responseProducerOverflow`` when the peer claims more than was asked of it.
  @inlinable
  public func unconsumedResponses() throws(RingViolation) -> UInt32 {
    let producer = RingIndex(rawValue: layout.responseProducer.loadAcquiring())
    let count = responseConsumer.distance(to: producer)
    let isAhead = count > responseConsumer.distance(to: publishedRequestProducer)
    if isAhead, !faults.has(.producerUnchecked) { throw .responseProducerOverflow }
    return count
  }

  /// Copies the next response out and frees its slot; the caller has seen it by ``unconsumedResponses()``.
  @inlinable
  public mutating func takeResponse() -> BlockResponse {
    let offset = responseCursor
    responseCursor = layout.nextResponse(offset)
    consumed = consumed.advanced(by: 1)
    let id = layout.responses.load(UInt64.self, at: offset)
    let rest = layout.responses.load(UInt32.self, at: offset + 8)
    return BlockResponse(
      id: id, operation: BlockOperation(rawValue: UInt8(truncatingIfNeeded: rest)),
      status: BlockStatus(rawValue: Int16(truncatingIfNeeded: Int32(bitPattern: rest) >> 16)))
  }

  /// The protection information of the response that is taken next; copied once.
  @inlinable
  public var nextProtection: UInt64 {
    precondition(layout.responseProtectionOffset >= 0, "a ring without protection information")
    return layout.responses.load(UInt64.self, at: responseCursor + layout.responseProtectionOffset)
  }

  /// Asks to be woken at the next response, then looks again (ring.h `RING_FINAL_CHECK_FOR_RESPONSES`).
  /// - Returns: whether responses wait after all, so that the caller must not sleep.
  @inlinable
  public mutating func armAndRecheck() throws(RingViolation) -> Bool {
    if try unconsumedResponses() > 0 { return true }
    layout.responseEvent.storeRelaxed(responseConsumer.advanced(by: 1).rawValue)
    pv_full_barrier()
    return try unconsumedResponses() > 0
  }
}
