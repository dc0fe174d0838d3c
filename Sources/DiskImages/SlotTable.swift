// SPDX-License-Identifier: MIT

import BlockIO
import Glibc
import GuestMemory

/// The slots of a queue, their free list, and a window of vectors for each: all that a request in the ring needs, made once.
@safe struct SlotTable: ~Copyable, @unchecked Sendable {
  // SAFETY: `slots` addresses `count` slots and `vectors` `count * windowLength` vectors until deinit; indices are checked.
  private let slots: UnsafeMutablePointer<RequestSlot>
  private let vectors: UnsafeMutableBufferPointer<iovec>
  private let vectorMemory: MappedMemory
  let count: Int
  private var firstFree: Int32

  /// The vectors that one entry can carry: Linux's `UIO_MAXIOV`.
  ///
  /// Longer requests go in several steps.
  static let windowLength = 1024
  private static let windowByteCount = windowLength * (unsafe MemoryLayout<iovec>.stride)

  /// Makes `count` free slots; the windows are mapped, and come into being when they are first used.
  init(count: Int) throws(SystemError) {
    vectorMemory = try MappedMemory(anonymousByteCount: count * Self.windowByteCount)
    self.count = count
    unsafe slots = .allocate(capacity: count)
    for index in 0..<count {
      var slot = RequestSlot()
      slot.next = index + 1 < count ? Int32(index + 1) : -1
      unsafe (slots + index).initialize(to: slot)
    }
    firstFree = 0
    // SAFETY: the mapping is page-aligned, zeroed, and as long as the windows together.
    unsafe vectors = vectorMemory.region.withUnsafeBytes { bytes in
      unsafe bytes.bindMemory(to: iovec.self)
    }
  }

  @inlinable
  deinit { unsafe slots.deallocate() }

  subscript(index: Int) -> RequestSlot {
    get {
      precondition(index >= 0 && index < count, "no such slot")
      return unsafe slots[index]
    }
    nonmutating set {
      precondition(index >= 0 && index < count, "no such slot")
      unsafe slots[index] = newValue
    }
  }

  /// Takes a free slot; there is one, since the queue accepts no more requests than it has slots.
  mutating func take() -> Int {
    precondition(firstFree >= 0, "more requests than slots")
    let index = Int(firstFree)
    firstFree = unsafe slots[index].next
    return index
  }

  /// Gives a slot back.
  mutating func give(back index: Int) {
    var slot = RequestSlot()
    slot.next = firstFree
    self[index] = slot
    firstFree = Int32(index)
  }

  private func window(_ index: Int) -> UnsafeMutableBufferPointer<iovec> {
    let start = index * Self.windowLength
    return unsafe UnsafeMutableBufferPointer(rebasing: vectors[start..<start + Self.windowLength])
  }

  /// Fills a slot's window with what remains of its memory; the window's vectors stay in place until the slot moves on.
  func fillWindow(_ index: Int) -> VectorWindow {
    let slot = self[index]
    let window = unsafe window(index)
    guard let memory = slot.memory else { return unsafe VectorWindow(window, count: 0) }
    let length = min(memory.count - slot.extentIndex, Self.windowLength)
    for place in 0..<length {
      let extent = memory[slot.extentIndex + place]
      let skipped = place == 0 ? slot.extentOffset : 0
      unsafe window[place] = iovec(
        iov_base: UnsafeMutableRawPointer(bitPattern: extent.address + UInt(skipped)),
        iov_len: extent.byteCount - skipped)
    }
    return unsafe VectorWindow(window, count: length)
  }

  /// Fills a slot's window with the same zeros again and again, as far as what remains needs.
  func fillWindow(_ index: Int, repeating zeros: MemoryExtent) -> VectorWindow {
    let window = unsafe window(index)
    var rest = self[index].remaining
    var length = 0
    while rest > 0 && length < Self.windowLength {
      let part = min(rest, UInt64(zeros.byteCount))
      unsafe window[length] = iovec(
        iov_base: UnsafeMutableRawPointer(bitPattern: zeros.address), iov_len: Int(part))
      rest -= part
      length += 1
    }
    return unsafe VectorWindow(window, count: length)
  }
}

/// Vectors that stay in place until the entry which names them has finished.
@safe struct VectorWindow {
  // SAFETY: made by `SlotTable` from its own memory.
  let start: UnsafePointer<iovec>
  let count: Int

  init(_ vectors: UnsafeMutableBufferPointer<iovec>, count: Int) {
    guard let base = vectors.baseAddress else { preconditionFailure("a window has vectors") }
    unsafe start = UnsafePointer(base)
    self.count = count
  }
}
