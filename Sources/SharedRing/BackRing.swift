// SPDX-License-Identifier: MIT

public import CLinux
public import GuestMemory
public import XenWire

/// The backend's end of a ring (ring.h `BACK_RING`): consumes requests, produces responses.
public struct BackRing: ~Copyable {
  /// The ring in shared memory.
  public let layout: RingLayout
  /// The next request to take.
  @inlinable public var requestConsumer: RingIndex { consumed }
  @usableFromInline var consumed: RingIndex
  /// The next response index to fill; published by ``publishResponses()``.
  @inlinable public var privateResponseProducer: RingIndex { produced }
  @usableFromInline var produced: RingIndex
  /// The response producer as this end last published it.
  @usableFromInline var publishedResponseProducer: RingIndex
  @usableFromInline var requestCursor: Int
  @usableFromInline var responseCursor: Int
  /// Bugs that a test has planted.
  public var faults = RingFaults()

  /// Attaches at the shared response producer, as Linux blkback does, so that requests which a former backend left
  /// unanswered are served again (ring.h `BACK_RING_ATTACH`).
  ///
  /// A ring whose count is no power of two must not have wrapped its index since it was new: then nothing in it tells
  /// where its cursors stand. Frontends make new rings for every connection.
  /// - Throws: ``RingViolation/requestProducerOverflow`` when more than a ring of requests seems to wait.
  public init(attachingTo region: SharedRegion, _ geometry: RingGeometry) throws(RingViolation) {
    layout = RingLayout(region: region, geometry: geometry)
    let start = RingIndex(rawValue: layout.responseProducer.loadAcquiring())
    consumed = start
    produced = start
    publishedResponseProducer = start
    requestCursor = layout.requestCursor(start)
    responseCursor = layout.responseCursor(start)
    _ = try unconsumedRequests()
  }

  /// Requests that may be taken, by one look at the producer (ring.h `RING_HAS_UNCONSUMED_REQUESTS`): never more than
  /// there are slots without a pending response.
  ///
  /// In split rings nothing but the front's own word says that a response's place is free; a front that asks for more
  /// than it has freed places for breaks the rules, and no response is ever written over one that was not read.
  /// - Throws: ``RingViolation/requestProducerOverflow`` when the producer is more than a ring ahead,
  ///   ``RingViolation/responseSpaceExceeded`` when more is asked than there is room to answer.
  @inlinable
  public func unconsumedRequests() throws(RingViolation) -> UInt32 {
    let producer = RingIndex(rawValue: layout.requestProducer.loadAcquiring())
    if privateResponseProducer.distance(to: producer) > layout.slotCount, !faults.has(.producerUnchecked) {
      throw .requestProducerOverflow
    }
    if layout.isSplit {
      let read = RingIndex(rawValue: layout.responseConsumer.loadRelaxed())
      if read.distance(to: publishedResponseProducer) > layout.slotCount
        || read.distance(to: producer) > layout.slotCount
      {
        throw .responseSpaceExceeded
      }
    }
    let waiting = requestConsumer.distance(to: producer)
    let room = layout.slotCount &- privateResponseProducer.distance(to: requestConsumer)
    return min(waiting, room)
  }

  /// Passes over requests that a former owner of this end had taken and not answered; the caller has them from elsewhere.
  public mutating func passOver(_ count: UInt32) throws(RingViolation) {
    let waiting = try unconsumedRequests()
    precondition(waiting >= count, "more requests than the ring has")
    consumed = consumed.advanced(by: count)
    requestCursor = layout.requestCursor(consumed)
  }

  /// Copies the next request into private memory, each byte fetched once, and consumes it (ring.h `RING_COPY_REQUEST`).
  @inlinable
  public mutating func copyRequest<Format: RingFormat>(into slot: inout RequestSlot<Format>) {
    let offset = requestCursor
    let stride = layout.requestStride
    let isVariable = Format.directSegments > BlockLimits.directSegments
    precondition(stride >= Format.slotSize || isVariable, "the ring of another format")
    // SAFETY: the cursor lies a whole slot before the end of `requests`.
    unsafe layout.requests.withUnsafeBytes { bytes in
      guard let base = bytes.baseAddress else { return }
      if isVariable || Format.protectionOffset >= Format.slotSize {
        unsafe slot.fill(fromShared: base + offset, stride: stride)
      } else {
        unsafe slot.fill(fromShared: base + offset)
      }
    }
    requestCursor = layout.nextRequest(offset)
    consumed = consumed.advanced(by: 1)
  }

  /// Fills the next response slot, field by field and padding zero.
  ///
  /// The peer does not see it before ``publishResponses()``.
  @inlinable
  public mutating func enqueue(_ response: BlockResponse) {
    precondition(
      privateResponseProducer.distance(to: requestConsumer) > 0, "a response without a consumed request")
    let offset = responseCursor
    layout.responses.store(response.id, at: offset)
    let status = UInt32(UInt16(bitPattern: response.status.rawValue)) << 16
    layout.responses.store(UInt32(response.operation.rawValue) | status, at: offset + 8)
    let padding: UInt32 = faults.has(.paddingUncleared) ? 0x0BAD_F00D : 0
    if layout.responseSize > 12 { layout.responses.store(padding, at: offset + 12) }
    responseCursor = layout.nextResponse(offset)
    produced = produced.advanced(by: 1)
  }

  /// Puts protection information into the slot of the response that is enqueued next.
  @inlinable
  public func protectNext(_ tuple: UInt64) {
    precondition(layout.responseProtectionOffset >= 0, "a ring without protection information")
    layout.responses.store(tuple, at: responseCursor + layout.responseProtectionOffset)
  }

  /// Whether responses wait to be published.
  @inlinable public var hasUnpublishedResponses: Bool { publishedResponseProducer != privateResponseProducer }

  /// Responses that wait to be published.
  @inlinable public var unpublishedResponses: UInt32 { publishedResponseProducer.distance(to: privateResponseProducer) }

  /// Shows the peer all enqueued responses and says whether it has to be woken
  /// (ring.h `RING_PUSH_RESPONSES_AND_CHECK_NOTIFY`).
  @inlinable
  public mutating func publishResponses() -> NotificationNeed {
    let old = publishedResponseProducer
    let new = privateResponseProducer
    if old == new { return .none }
    layout.responseProducer.storeReleasing(new.rawValue)
    publishedResponseProducer = new
    pv_full_barrier()
    let event = RingIndex(rawValue: layout.responseEvent.loadRelaxed())
    return RingIndex.mustNotify(from: old, to: new, event: event) ? .notify : .none
  }

  /// Asks to be woken at the next request, then looks again (ring.h `RING_FINAL_CHECK_FOR_REQUESTS`).
  /// - Returns: whether requests wait after all, so that the caller must not sleep.
  @inlinable
  public mutating func armAndRecheck() throws(RingViolation) -> Bool {
    if try unconsumedRequests() > 0 { return true }
    layout.requestEvent.storeRelaxed(requestConsumer.advanced(by: 1).rawValue)
    pv_full_barrier()
    return try unconsumedRequests() > 0
  }
}
