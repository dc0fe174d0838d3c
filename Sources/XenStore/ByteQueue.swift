// SPDX-License-Identifier: MIT

import Glibc

/// Bytes that wait to be parsed or sent, oldest first.
struct ByteQueue: Sendable {
  /// The bytes, of which those before ``head`` are done with.
  private var storage: [UInt8] = []
  private var head = 0

  var count: Int { storage.count - head }
  var isEmpty: Bool { head == storage.count }

  /// The bytes that wait.
  var bytes: ArraySlice<UInt8> { storage[head...] }

  mutating func append(_ bytes: some Collection<UInt8>) { storage.append(contentsOf: bytes) }
  mutating func append(_ byte: UInt8) { storage.append(byte) }

  /// Lets a writer append to the bytes themselves.
  mutating func withStorage(_ body: (inout [UInt8]) -> Void) { body(&storage) }

  /// Drops the oldest bytes.
  mutating func removeFirst(_ count: Int) {
    precondition(count <= self.count, "dropping more bytes than there are")
    head += count
    if head == storage.count {
      storage.removeAll(keepingCapacity: storage.count <= 1 << 17)
      head = 0
    } else if head >= 1 << 16 {
      storage.removeFirst(head)
      head = 0
    }
  }

  mutating func removeAll() {
    storage.removeAll(keepingCapacity: storage.capacity <= 4096)
    head = 0
  }

  /// Reads from a descriptor once, at most `limit` bytes, and answers what `read(2)` did.
  mutating func fill(from descriptor: CInt, limit: Int) -> Int {
    // SAFETY: the buffer is the scratch memory's own.
    unsafe withUnsafeTemporaryAllocation(byteCount: limit, alignment: 16) { scratch in
      unsafe fill(from: descriptor, by: scratch)
    }
  }

  /// Reads from a descriptor once, by way of somebody's memory, and answers what `read(2)` did.
  mutating func fill(from descriptor: CInt, by scratch: UnsafeMutableRawBufferPointer) -> Int {
    // SAFETY: `read` gets the scratch buffer's own address and size, and `count` bytes of it were written.
    let count = unsafe read(descriptor, scratch.baseAddress, scratch.count)
    let code = errno
    if count > 0 { unsafe storage.append(contentsOf: UnsafeRawBufferPointer(rebasing: scratch[..<count])) }
    errno = code
    return count
  }

  /// Sends to a socket once, without blocking or raising a signal, drops what went, and answers what `send(2)` did.
  mutating func drain(to descriptor: CInt) -> Int {
    // SAFETY: the address and the count are those of the array's own bytes.
    let count = unsafe storage.withUnsafeBytes { buffer in
      unsafe send(
        descriptor, buffer.baseAddress.map { unsafe $0 + head }, buffer.count - head,
        CInt(MSG_DONTWAIT) | CInt(MSG_NOSIGNAL))
    }
    let code = errno
    if count > 0 { removeFirst(count) }
    errno = code
    return count
  }
}
