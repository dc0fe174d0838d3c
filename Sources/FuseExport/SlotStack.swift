// SPDX-License-Identifier: MIT

/// The free slots of a transport, the one freed last on top; room for all of them from the start.
@usableFromInline @safe
struct SlotStack: ~Copyable {
  // SAFETY: `storage` has room for `capacity` numbers, owned by this value; the first word is the number of entries.
  @usableFromInline let storage: UnsafeMutablePointer<Int>
  let capacity: Int

  /// Every slot is free; slot 0 is on top.
  init(count: Int) {
    capacity = count
    unsafe storage = .allocate(capacity: count + 1)
    unsafe storage.initialize(repeating: 0, count: count + 1)
    for slot in stride(from: count - 1, through: 0, by: -1) { push(slot) }
  }

  @inlinable
  deinit { unsafe storage.deallocate() }

  var count: Int { unsafe storage[0] }

  var top: Int? {
    let count = unsafe storage[0]
    return count > 0 ? unsafe storage[count] : nil
  }

  func pop() {
    precondition(count > 0, "no slot is free")
    unsafe storage[0] &-= 1
  }

  func push(_ slot: Int) {
    precondition(count < capacity, "more slots were freed than there are")
    unsafe storage[0] &+= 1
    unsafe storage[storage[0]] = slot
  }
}
