// SPDX-License-Identifier: MIT

import GuestMemory
import SharedRing
import XenWire

/// Pages for a ring, with its header as raw words: what a peer of any kind could write.
final class RingMemory: Sendable {
  private let memory: MappedMemory

  init(pages: Int = 1) throws { memory = try MappedMemory(anonymousByteCount: pages * PageGeometry.pageSize) }

  var region: SharedRegion { memory.region }

  var requestProducer: UInt32 {
    get { region.load(UInt32.self, at: 0) }
    set { region.store(newValue, at: 0) }
  }
  var requestEvent: UInt32 {
    get { region.load(UInt32.self, at: 4) }
    set { region.store(newValue, at: 4) }
  }
  var responseProducer: UInt32 {
    get { region.load(UInt32.self, at: 8) }
    set { region.store(newValue, at: 8) }
  }
  var responseEvent: UInt32 {
    get { region.load(UInt32.self, at: 12) }
    set { region.store(newValue, at: 12) }
  }

  func set(_ bytes: [UInt8]) {
    // SAFETY: the array outlives the call.
    unsafe region.copyIn(bytes.span.bytes, at: 0)
  }

  func bytes(_ range: Range<Int>) -> [UInt8] { range.map { region.load(UInt8.self, at: $0) } }
}

extension RingFormat {
  /// A shared ring of a classic format over a region.
  static func geometry(_ region: SharedRegion) -> RingGeometry {
    RingGeometry(RingPlan(BlockProtocol(rawValue: name) ?? .x86_64, ringPages: region.byteCount / 4096))
  }
}

extension FrontRing {
  static func initialise<ABI: RingFormat>(
    _ region: SharedRegion, _ abi: ABI.Type, start: RingIndex = RingIndex(rawValue: 0)
  ) {
    initialise(region, abi.geometry(region), start: start)
  }

  init<ABI: RingFormat>(
    attachingTo region: SharedRegion, _ abi: ABI.Type, start: RingIndex = RingIndex(rawValue: 0)
  ) {
    self.init(attachingTo: region, abi.geometry(region), start: start)
  }
}

extension BackRing {
  init<ABI: RingFormat>(attachingTo region: SharedRegion, _ abi: ABI.Type) throws(RingViolation) {
    try self.init(attachingTo: region, abi.geometry(region))
  }
}

/// Where rings begin in these tests: at zero, before the sign bit, before the wrap.
let ringStarts: [UInt32] = [0, 0x7FFF_FFFE, 0xFFFF_FFFE]

/// The numbers of ring pages that may be negotiated.
let ringPages = [1, 2, 4, 8, 16]

extension FrontRing {
  /// Enqueues a write whose eleven segments and sector are made from its id.
  mutating func enqueueMarked(_ id: UInt64) { enqueueMarked(id, ABI64.self) }

  /// The same in any format with eleven segments.
  mutating func enqueueMarked<ABI: RingFormat>(_ id: UInt64, _ abi: ABI.Type) {
    var slot = RequestSlot<ABI>()
    let count = slot.encodeDirect(.write, segmentCount: 11, handle: 0xCA00, id: id, sector: id &* 3 &+ 1)
    for index in 0..<11 {
      let reference = GrantReference(rawValue: UInt32(truncatingIfNeeded: id) &* 16 &+ UInt32(index))
      slot.setDirectSegment(Segment(reference: reference, firstSector: UInt8(index & 7), lastSector: 7), at: index)
    }
    enqueue(slot, byteCount: count)
  }
}

extension RequestSlot {
  /// Whether this is the request that `enqueueMarked` wrote for an id.
  borrowing func isMarked(_ wanted: UInt64) -> Bool {
    guard operation == .write, directSegmentCount == 11, id == wanted, sector == wanted &* 3 &+ 1 else { return false }
    for index in 0..<11 {
      let reference = GrantReference(rawValue: UInt32(truncatingIfNeeded: wanted) &* 16 &+ UInt32(index))
      let expected = Segment(reference: reference, firstSector: UInt8(index & 7), lastSector: 7)
      guard directSegment(index) == expected else { return false }
    }
    return true
  }
}
