// SPDX-License-Identifier: MIT

public import BlockIO
public import GuestMemory

/// What a reactor remembers of a request while the device works on it.
@usableFromInline
struct FuseSlot {
  /// What the device is doing for the request.
  @usableFromInline
  enum Stage: UInt8 {
    case idle
    /// A read, to be answered with bytes of the buffer.
    case reading
    /// A write, to be answered with its length.
    case writing
    /// A flush.
    case flushing
    /// A discard that leaves zeros.
    case discarding
    /// The device's own write of zeros.
    case zeroing
    /// Zeros written from the buffer, a piece at a time, because the device has no such operation.
    case zeroFilling
  }

  @usableFromInline var stage: Stage = .idle
  /// The request, kept for a device that had no room for it.
  @usableFromInline var operation: IOOperation = .read
  @usableFromInline var sectors = SectorRange(start: 0, count: 0)
  /// The first byte of the answer in the buffer.
  @usableFromInline var skip = 0
  /// Bytes that the answer counts.
  @usableFromInline var byteCount = 0
  /// One past the last sector of a piecewise operation.
  @usableFromInline var endSector: UInt64 = 0

  @inlinable
  init() {}
}

/// The slots of a reactor, each with the one-element extent list that its request points to; allocated once.
@usableFromInline @safe
struct SlotTable: ~Copyable {
  // SAFETY: both arrays have `count` initialised elements that this value owns; indices are checked.
  @usableFromInline let slots: UnsafeMutablePointer<FuseSlot>
  @usableFromInline let extents: UnsafeMutablePointer<MemoryExtent>
  @usableFromInline let count: Int

  @inlinable
  init(count: Int) {
    self.count = count
    unsafe slots = .allocate(capacity: count)
    unsafe slots.initialize(repeating: FuseSlot(), count: count)
    unsafe extents = .allocate(capacity: count)
    unsafe extents.initialize(repeating: MemoryExtent(address: 0, byteCount: 0), count: count)
  }

  @inlinable
  deinit {
    unsafe slots.deallocate()
    unsafe extents.deallocate()
  }

  @inlinable
  subscript(slot: Int) -> FuseSlot {
    get {
      precondition(slot >= 0 && slot < count, "no such slot")
      return unsafe slots[slot]
    }
    nonmutating _modify {
      precondition(slot >= 0 && slot < count, "no such slot")
      yield unsafe &slots[slot]
    }
  }

  /// Points the slot's extent list at memory.
  @inlinable
  func memory(_ slot: Int, address: UInt, byteCount: Int) -> MemoryExtentList {
    precondition(slot >= 0 && slot < count, "no such slot")
    unsafe extents[slot] = MemoryExtent(address: address, byteCount: byteCount)
    return unsafe MemoryExtentList(unsafeStart: UnsafePointer(extents + slot), count: 1)
  }

  /// The slot's extent list as it is.
  @inlinable
  func memory(_ slot: Int) -> MemoryExtentList {
    precondition(slot >= 0 && slot < count, "no such slot")
    return unsafe MemoryExtentList(unsafeStart: UnsafePointer(extents + slot), count: 1)
  }
}

/// Requests that the device had no room for, in the order in which they came; room for every slot.
@usableFromInline @safe
struct SlotQueue: ~Copyable {
  // SAFETY: `storage` has `capacity` initialised numbers that this value owns; `head` and `count` stay below it.
  @usableFromInline let storage: UnsafeMutablePointer<Int>
  @usableFromInline let capacity: Int
  @usableFromInline var head = 0
  @usableFromInline var count = 0

  @inlinable
  init(capacity: Int) {
    self.capacity = capacity
    unsafe storage = .allocate(capacity: capacity)
    unsafe storage.initialize(repeating: 0, count: capacity)
  }

  @inlinable
  deinit { unsafe storage.deallocate() }

  @inlinable var first: Int? { count > 0 ? unsafe storage[head] : nil }

  @inlinable
  mutating func append(_ slot: Int) {
    precondition(count < capacity, "a slot was queued twice")
    unsafe storage[(head &+ count) % capacity] = slot
    count &+= 1
  }

  @inlinable
  mutating func removeFirst() {
    precondition(count > 0, "the queue is empty")
    head = (head &+ 1) % capacity
    count &-= 1
  }
}
