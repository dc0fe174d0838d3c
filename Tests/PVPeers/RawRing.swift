// SPDX-License-Identifier: MIT

public import GuestMemory
public import XenWire

extension RingFormat {
  /// The plan of a shared ring of a classic format.
  public static func plan(ringPages: Int = 1) -> RingPlan {
    RingPlan(BlockProtocol(rawValue: name) ?? .x86_64, ringPages: ringPages)
  }
}

extension RingFormat {
  /// Whether a plan's slots are in this format; the Arm ABI has the numbers of the 64-bit one.
  static func isOf(_ plan: RingPlan) -> Bool {
    let numbers = plan.format.numbers
    return numbers.slotSize == slotSize && numbers.segmentsOffset == segmentsOffset
      && numbers.directSegments == directSegments && numbers.indirectSegments == indirectSegments
  }
}

/// A queue's ring memory as plain words and bytes: what a peer that keeps to no rules can write and read.
@frozen
public struct RawRing<ABI: RingFormat>: Sendable {
  /// The pages.
  public let region: SharedRegion
  /// Where everything is.
  public let geometry: RingGeometry
  /// The number of slots.
  @inlinable public var slotCount: UInt32 { geometry.depth }

  /// Looks at ring memory.
  @inlinable
  public init(_ region: SharedRegion, _ geometry: RingGeometry) {
    self.region = region
    self.geometry = geometry
  }

  /// The shared `req_prod`.
  @inlinable
  public var requestProducer: UInt32 {
    get { region.word32(at: geometry.requestProducerOffset).loadAcquiring() }
    nonmutating set { region.word32(at: geometry.requestProducerOffset).storeReleasing(newValue) }
  }
  /// The shared `req_event`.
  @inlinable
  public var requestEvent: UInt32 {
    get { region.word32(at: geometry.requestEventOffset).loadAcquiring() }
    nonmutating set { region.word32(at: geometry.requestEventOffset).storeReleasing(newValue) }
  }
  /// The shared `rsp_prod`.
  @inlinable
  public var responseProducer: UInt32 {
    get { region.word32(at: geometry.responseProducerOffset).loadAcquiring() }
    nonmutating set { region.word32(at: geometry.responseProducerOffset).storeReleasing(newValue) }
  }
  /// The shared `rsp_event`.
  @inlinable
  public var responseEvent: UInt32 {
    get { region.word32(at: geometry.responseEventOffset).loadAcquiring() }
    nonmutating set { region.word32(at: geometry.responseEventOffset).storeReleasing(newValue) }
  }
  /// The shared response consumer of split rings; 0 and nowhere in a shared ring.
  @inlinable
  public var responseConsumer: UInt32 {
    get { geometry.responseConsumerOffset.map { region.word32(at: $0).loadAcquiring() } ?? 0 }
    nonmutating set {
      if let offset = geometry.responseConsumerOffset { region.word32(at: offset).storeReleasing(newValue) }
    }
  }

  /// A request slot's memory, by free-running index.
  @inlinable
  public func slot(_ index: UInt32) -> SharedRegion {
    let place = Int(index % geometry.requestCount)
    return region.slice(
      at: geometry.requestsOffset + place * geometry.requestStride, byteCount: geometry.requestStride)
  }

  /// A response's memory, by free-running index.
  @inlinable
  public func responseSlot(_ index: UInt32) -> SharedRegion {
    let place = Int(index % geometry.responseCount)
    return region.slice(
      at: geometry.responsesOffset + place * geometry.responseStride, byteCount: geometry.responseStride)
  }

  /// A slot's bytes.
  @inlinable
  public func bytes(_ index: UInt32) -> [UInt8] {
    (0..<geometry.requestStride).map { slot(index).load(UInt8.self, at: $0) }
  }

  /// Writes bytes into a slot.
  @inlinable
  public func write(_ bytes: [UInt8], to index: UInt32) {
    for (offset, byte) in bytes.enumerated() { slot(index).store(byte, at: offset) }
  }

  /// Reads a slot as a response.
  @inlinable
  public func response(_ index: UInt32) -> BlockResponse {
    let slot = responseSlot(index)
    return BlockResponse(
      id: slot.load(UInt64.self, at: 0), operation: BlockOperation(rawValue: slot.load(UInt8.self, at: 8)),
      status: BlockStatus(rawValue: slot.load(Int16.self, at: 10)))
  }

  /// Writes a response into a slot.
  @inlinable
  public func write(_ response: BlockResponse, to index: UInt32) {
    let slot = responseSlot(index)
    slot.store(response.id, at: 0)
    slot.store(response.operation.rawValue, at: 8)
    slot.store(response.status.rawValue, at: 10)
  }

  /// Copies a slot as a request.
  @inlinable
  public func request(_ index: UInt32) -> RequestSlot<ABI> {
    var copy = RequestSlot<ABI>()
    // SAFETY: the region is a whole slot.
    unsafe slot(index).withUnsafeBytes { bytes in
      if let base = bytes.baseAddress {
        unsafe copy.fill(fromShared: UnsafeRawPointer(base), stride: geometry.requestStride)
      }
    }
    return copy
  }

  /// Writes a request into a slot.
  @inlinable
  public func write(_ request: borrowing RequestSlot<ABI>, to index: UInt32) {
    // SAFETY: the region is a whole slot.
    unsafe slot(index).withUnsafeBytes { bytes in
      if let base = bytes.baseAddress { unsafe request.spill(toShared: base, count: geometry.requestStride) }
    }
  }
}

/// A page of the guest with its grant.
public struct GrantedPage: Sendable {
  /// The grant.
  public let reference: GrantReference
  /// The frame.
  public let frame: FrameNumber
  /// The bytes as the guest sees them.
  public let region: SharedRegion

  /// A segment of the page.
  public func segment(_ first: UInt8 = 0, _ last: UInt8 = 7) -> Segment {
    Segment(reference: reference, firstSector: first, lastSector: last)
  }

  /// Fills the page with a byte.
  public func fill(_ byte: UInt8) { region.fill(byte) }

  /// Whether every byte of some sectors is this one.
  public func holds(_ byte: UInt8, sectors: ClosedRange<Int> = 0...7) -> Bool {
    let pattern = UInt64(byte) &* 0x0101_0101_0101_0101
    let range = stride(from: sectors.lowerBound * 512, to: (sectors.upperBound + 1) * 512, by: 8)
    return range.allSatisfy { region.load(UInt64.self, at: $0) == pattern }
  }
}
