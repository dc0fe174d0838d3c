// SPDX-License-Identifier: MIT

public import GuestMemory
public import XenHypervisor
public import XenWire

/// Where a request is between its copy out of the ring and its response.
@usableFromInline
enum RequestStage: UInt8, BitwiseCopyable {
  case free
  /// A barrier that waits until it is alone.
  case draining
  /// The flush before a write.
  case flushing
  /// The last or only I/O.
  case transferring
}

/// One request that was taken and not yet answered (blkback's `struct pending_req`).
@usableFromInline
struct PendingRequest: BitwiseCopyable {
  @usableFromInline var id: UInt64
  @usableFromInline var sector: UInt64
  @usableFromInline var sectorCount: UInt64
  @usableFromInline var extentCount: Int32
  @usableFromInline var mappedCount: Int32
  @usableFromInline var persistentCount: Int32
  /// Ranges of the disk beside the first that have not been started, of a request that scatters.
  @usableFromInline var rangesLeft: Int32
  @usableFromInline var nextFree: Int32
  /// What the response names: for an indirect request the inner operation.
  @usableFromInline var operation: BlockOperation
  @usableFromInline var stage: RequestStage

  @inlinable
  init(id: UInt64, sector: UInt64, operation: BlockOperation, stage: RequestStage, nextFree: Int32 = -1) {
    self.id = id
    self.sector = sector
    sectorCount = 0
    extentCount = 0
    mappedCount = 0
    persistentCount = 0
    rangesLeft = 0
    self.nextFree = nextFree
    self.operation = operation
    self.stage = stage
  }
}

/// What few requests have and no other should pay for.
@usableFromInline
struct RequestExtra: BitwiseCopyable {
  /// The tuple that came in the slot.
  @usableFromInline var tuple: UInt64 = 0
  /// Extents of tuples, behind those of data.
  @usableFromInline var tupleExtentCount: Int32 = 0
  /// The range that the image has in hand.
  @usableFromInline var range: Int32 = 0
}

/// A part of a request that lies elsewhere on the disk than the part before it; only formats whose descriptors carry sector
/// numbers have more than one.
@usableFromInline
struct RequestRange: BitwiseCopyable {
  var sector: UInt64
  var sectorCount: UInt64
  var firstExtent: Int32 = 0
  var extentCount: Int32 = 0

  /// The sector behind it.
  var end: UInt64 { sector &+ sectorCount }
}

/// The request objects of one queue and the lists that belong to each, allocated once.
///
/// Object k owns extents, handles and references k*perRequest ..< (k+1)*perRequest; a segment uses one of each at most.
@safe @usableFromInline
struct PendingRequests: ~Copyable {
  // SAFETY: each pointer addresses count (requests) or count*perRequest (lists) initialised elements until deinit; indices
  // come from the free list or from tags that this queue made itself.
  @usableFromInline let requests: UnsafeMutablePointer<PendingRequest>
  @usableFromInline let extents: UnsafeMutablePointer<MemoryExtent>
  @usableFromInline let handles: UnsafeMutablePointer<GrantHandle>
  @usableFromInline let references: UnsafeMutablePointer<GrantReference>
  @usableFromInline let extras: UnsafeMutablePointer<RequestExtra>
  /// Only where requests can scatter, else nothing.
  let ranges: UnsafeMutablePointer<RequestRange>?
  @usableFromInline let count: Int
  @usableFromInline let perRequest: Int
  @usableFromInline var firstFree: Int32
  @usableFromInline var used: Int

  init(count: Int, segments: Int, hasRanges: Bool) {
    self.count = count
    unsafe extras = .allocate(capacity: count)
    unsafe extras.initialize(repeating: RequestExtra(), count: count)
    unsafe ranges = hasRanges ? .allocate(capacity: count * segments) : nil
    perRequest = segments
    unsafe requests = .allocate(capacity: count)
    unsafe extents = .allocate(capacity: count * segments)
    unsafe handles = .allocate(capacity: count * segments)
    unsafe references = .allocate(capacity: count * segments)
    for index in 0..<count {
      let next = index + 1 < count ? Int32(index + 1) : -1
      unsafe (requests + index).initialize(
        to: PendingRequest(id: 0, sector: 0, operation: .read, stage: .free, nextFree: next))
    }
    firstFree = 0
    used = 0
  }

  @inlinable
  deinit {
    unsafe requests.deallocate()
    unsafe extents.deallocate()
    unsafe handles.deallocate()
    unsafe references.deallocate()
    unsafe extras.deallocate()
    deallocateRanges()
  }

  @usableFromInline
  func deallocateRanges() { unsafe ranges?.deallocate() }

  @inlinable
  mutating func take() -> Int? {
    guard firstFree >= 0 else { return nil }
    let index = Int(firstFree)
    unsafe firstFree = requests[index].nextFree
    used &+= 1
    return index
  }

  @inlinable
  mutating func giveBack(_ index: Int) {
    unsafe requests[index].stage = .free
    unsafe requests[index].nextFree = firstFree
    firstFree = Int32(truncatingIfNeeded: index)
    used &-= 1
  }

  @inlinable
  func extentList(_ index: Int) -> MemoryExtentList {
    unsafe MemoryExtentList(unsafeStart: extents + index &* perRequest, count: Int(requests[index].extentCount))
  }

  /// Adds memory to a request's list, joining it to the last extent when the two are adjacent as mapped here.
  @inlinable
  mutating func append(_ address: UInt, byteCount: Int, to index: Int, joining: Bool = true) {
    let count = unsafe Int(requests[index].extentCount)
    let list = unsafe extents + index &* perRequest
    if count > 0, joining, unsafe list[count &- 1].endAddress == address {
      unsafe list[count &- 1].byteCount &+= byteCount
      return
    }
    precondition(count < perRequest, "more extents than segments")
    unsafe (list + count).initialize(to: MemoryExtent(address: address, byteCount: byteCount))
    unsafe requests[index].extentCount = Int32(truncatingIfNeeded: count &+ 1)
  }

  @inlinable
  mutating func keepHandle(_ handle: GrantHandle, of index: Int) {
    let count = unsafe Int(requests[index].mappedCount)
    precondition(count < perRequest, "more mappings than segments")
    unsafe (handles + index &* perRequest + count).initialize(to: handle)
    unsafe requests[index].mappedCount = Int32(truncatingIfNeeded: count &+ 1)
  }

  @inlinable
  mutating func keepReference(_ reference: GrantReference, of index: Int) {
    let count = unsafe Int(requests[index].persistentCount)
    precondition(count < perRequest, "more pages than segments")
    unsafe (references + index &* perRequest + count).initialize(to: reference)
    unsafe requests[index].persistentCount = Int32(truncatingIfNeeded: count &+ 1)
  }
}

/// Lists that a queue fills anew for each request, allocated once.
@safe @usableFromInline
struct MappingScratch: ~Copyable {
  // SAFETY: each pointer addresses `capacity` initialised elements until deinit (`sectors` one where it is not used); users
  // check their counts against it.
  @usableFromInline let segments: UnsafeMutablePointer<UInt64>
  /// Each segment's sector number, in formats whose descriptors carry them; one element elsewhere.
  @usableFromInline let sectors: UnsafeMutablePointer<UInt64>
  @usableFromInline let addresses: UnsafeMutablePointer<UInt>
  @usableFromInline let missing: UnsafeMutablePointer<GrantReference>
  @usableFromInline let missingIndex: UnsafeMutablePointer<Int32>
  @usableFromInline let results: UnsafeMutablePointer<GrantMapping>
  @usableFromInline let capacity: Int

  init(capacity: Int, hasSectors: Bool) {
    self.capacity = capacity
    unsafe sectors = .allocate(capacity: hasSectors ? capacity : 1)
    unsafe sectors.initialize(repeating: 0, count: hasSectors ? capacity : 1)
    unsafe segments = .allocate(capacity: capacity)
    unsafe addresses = .allocate(capacity: capacity)
    unsafe missing = .allocate(capacity: capacity)
    unsafe missingIndex = .allocate(capacity: capacity)
    unsafe results = .allocate(capacity: capacity)
    unsafe segments.initialize(repeating: 0, count: capacity)
    unsafe addresses.initialize(repeating: 0, count: capacity)
    unsafe missing.initialize(repeating: .invalid, count: capacity)
    unsafe missingIndex.initialize(repeating: 0, count: capacity)
    unsafe results.initialize(repeating: GrantMapping(status: .generalError), count: capacity)
  }

  @inlinable
  deinit {
    unsafe segments.deallocate()
    unsafe sectors.deallocate()
    unsafe addresses.deallocate()
    unsafe missing.deallocate()
    unsafe missingIndex.deallocate()
    unsafe results.deallocate()
  }
}
