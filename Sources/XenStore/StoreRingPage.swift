// SPDX-License-Identifier: MIT

public import GuestMemory
public import XenWire

/// The page through which a guest and the store exchange messages, as seen from one end (``StoreRingLayout``).
///
/// Two byte streams of 1024 bytes each. Each end writes only its own producer and consumer; the other end's index is
/// fetched once, judged, and then trusted. A producer that is more than a ring ahead of its consumer is refused.
///
/// **Assumptions.** One thread at a time at each end.
public struct StoreRingPage: Sendable {
  /// The page.
  public let region: SharedRegion
  /// Bugs that a test has planted.
  var faults = StoreFaults()
  private let ring: (incoming: Int, incomingProducer: Int, incomingConsumer: Int)
  private let outgoing: (ring: Int, producer: Int, consumer: Int)

  /// Which end of the page.
  public enum End: Sendable {
    /// The store's.
    case server
    /// The guest's.
    case client
  }

  /// Looks at a page from one end.
  public init(_ region: SharedRegion, as end: End) {
    precondition(region.byteCount >= StoreRingLayout.byteCount, "a XenStore ring needs a page")
    self.region = region
    let requests = (StoreRingLayout.requests, StoreRingLayout.requestProducer, StoreRingLayout.requestConsumer)
    let replies = (StoreRingLayout.replies, StoreRingLayout.replyProducer, StoreRingLayout.replyConsumer)
    ring = end == .server ? requests : replies
    outgoing = end == .server ? replies : requests
  }

  /// The features that the store offers.
  public var features: StoreFeatures {
    get { StoreFeatures(rawValue: region.load(UInt32.self, at: StoreRingLayout.features)) }
    nonmutating set { region.store(newValue.rawValue, at: StoreRingLayout.features) }
  }

  /// The connection field: see ``StoreRingState``.
  public var connection: UInt32 {
    get { region.word32(at: StoreRingLayout.connection).loadAcquiring() }
    nonmutating set { region.word32(at: StoreRingLayout.connection).storeReleasing(newValue) }
  }

  /// Why the store has given the guest up; an unknown number counts as a protocol violation.
  public var error: StoreRingError {
    get { StoreRingError(rawValue: region.load(UInt32.self, at: StoreRingLayout.error)) ?? .protocolViolation }
    nonmutating set { region.store(newValue.rawValue, at: StoreRingLayout.error) }
  }

  /// How many bytes wait to be received.
  /// - Throws: ``StoreRingError/ringIndex``.
  public func incomingByteCount() throws(StoreRingError) -> Int {
    try distance(producer: ring.incomingProducer, consumer: ring.incomingConsumer)
  }

  /// How many bytes can be sent.
  /// - Throws: ``StoreRingError/ringIndex``.
  public func outgoingRoom() throws(StoreRingError) -> Int {
    StoreRingLayout.ringByteCount - (try distance(producer: outgoing.producer, consumer: outgoing.consumer))
  }

  private func distance(producer: Int, consumer: Int) throws(StoreRingError) -> Int {
    let ahead = region.word32(at: producer).loadAcquiring() &- region.word32(at: consumer).loadAcquiring()
    guard ahead <= UInt32(StoreRingLayout.ringByteCount) || faults.has(.ringDistanceUnchecked) else { throw .ringIndex }
    return min(Int(ahead), StoreRingLayout.ringByteCount)
  }

  /// Takes the bytes that wait, at most `limit`.
  public func receive(limit: Int = .max) throws(StoreRingError) -> [UInt8] {
    let count = min(try incomingByteCount(), limit)
    guard count > 0 else { return [] }
    let consumer = region.word32(at: ring.incomingConsumer)
    let index = consumer.loadRelaxed()
    let offset = Int(index) % StoreRingLayout.ringByteCount
    let first = min(count, StoreRingLayout.ringByteCount - offset)
    var bytes = copyOut(at: ring.incoming + offset, count: first)
    if count > first { bytes += copyOut(at: ring.incoming, count: count - first) }
    consumer.storeReleasing(index &+ UInt32(count))
    return bytes
  }

  private func copyOut(at offset: Int, count: Int) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: count)
    var span = bytes.mutableSpan
    // SAFETY: bytes of every value are bytes.
    var raw = unsafe span.mutableBytes
    region.copyOut(at: offset, into: &raw)
    return bytes
  }

  /// Sends as many bytes as there is room for, and answers how many.
  public func send(_ bytes: ArraySlice<UInt8>) throws(StoreRingError) -> Int {
    let count = min(try outgoingRoom(), bytes.count)
    guard count > 0 else { return 0 }
    let producer = region.word32(at: outgoing.producer)
    let index = producer.loadRelaxed()
    let offset = Int(index) % StoreRingLayout.ringByteCount
    let first = min(count, StoreRingLayout.ringByteCount - offset)
    // SAFETY: bytes have no padding.
    let span = unsafe bytes.span.bytes
    region.copyIn(span.extracting(first: first), at: outgoing.ring + offset)
    if count > first { region.copyIn(span.extracting(first..<count), at: outgoing.ring) }
    producer.storeReleasing(index &+ UInt32(count))
    return count
  }

  /// Empties both rings: all four indices become 0.
  ///
  /// Only the server may, while the client waits for it.
  public func clear() {
    for index in [
      StoreRingLayout.requestConsumer, StoreRingLayout.requestProducer, StoreRingLayout.replyConsumer,
      StoreRingLayout.replyProducer,
    ] {
      region.word32(at: index).storeReleasing(0)
    }
  }
}
