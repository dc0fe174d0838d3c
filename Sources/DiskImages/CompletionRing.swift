// SPDX-License-Identifier: MIT

public import BlockIO

/// Completions that wait to be taken, first in, first out; never more than it was made for.
@safe @usableFromInline
struct CompletionRing: ~Copyable, @unchecked Sendable {
  // SAFETY: `storage` addresses `mask + 1` completions until deinit; indices are masked.
  @usableFromInline let storage: UnsafeMutablePointer<IOCompletion>
  @usableFromInline let mask: Int
  @usableFromInline var head = 0
  @usableFromInline var tail = 0

  init(capacity: Int) {
    var size = 1
    while size < capacity { size *= 2 }
    mask = size - 1
    unsafe storage = .allocate(capacity: size)
    unsafe storage.initialize(repeating: IOCompletion(tag: 0), count: size)
  }

  @inlinable
  deinit { unsafe storage.deallocate() }

  @inlinable var isEmpty: Bool { head == tail }

  @inlinable
  mutating func append(_ completion: IOCompletion) {
    precondition(tail &- head <= mask, "more completions than requests")
    unsafe storage[tail & mask] = completion
    tail &+= 1
  }

  @inlinable
  mutating func takeFirst() -> IOCompletion? {
    guard head != tail else { return nil }
    let completion = unsafe storage[head & mask]
    head &+= 1
    return completion
  }
}
