// SPDX-License-Identifier: MIT

public import BlockIO
public import GuestMemory

/// Writes to the page cache that follow one another on the disk, held back until the queue is advanced and then made by
/// one system call.
///
/// They cannot overlap, so nobody can tell in which order they were made. Whatever else is submitted meanwhile has them
/// written first.
@safe @usableFromInline
struct WriteGather: ~Copyable, @unchecked Sendable {
  // SAFETY: `requests` addresses `capacity` requests and `extents` as many extents as a run may have, until deinit; `count`
  // and `extentCount` of them are initialised.
  /// Bytes in one run at most.
  @usableFromInline static let byteLimit = 1 << 20
  @usableFromInline static let extentLimit = 256

  @usableFromInline let requests: UnsafeMutablePointer<IORequest>
  @usableFromInline let extents: UnsafeMutablePointer<MemoryExtent>
  @usableFromInline let capacity: Int
  @usableFromInline var count = 0
  @usableFromInline var extentCount = 0
  @usableFromInline var byteCount = 0
  /// The first byte of the run.
  @usableFromInline var start: UInt64 = 0

  init(capacity: Int) {
    self.capacity = capacity
    unsafe requests = .allocate(capacity: capacity)
    unsafe extents = .allocate(capacity: Self.extentLimit)
  }

  @inlinable
  deinit {
    unsafe requests.deallocate()
    unsafe extents.deallocate()
  }

  @inlinable var isEmpty: Bool { count == 0 }

  /// Adds a write that begins where the run ends; false when it does not, or there is no room.
  @inlinable
  mutating func take(_ request: IORequest, _ memory: MemoryExtentList) -> Bool {
    let bytes = Int(request.sectors.byteCount)
    if count > 0 {
      guard request.sectors.byteOffset == start &+ UInt64(byteCount), count < capacity,
        extentCount &+ memory.count <= Self.extentLimit, byteCount &+ bytes <= Self.byteLimit
      else { return false }
    } else {
      guard memory.count <= Self.extentLimit, bytes <= Self.byteLimit else { return false }
      start = request.sectors.byteOffset
    }
    unsafe (requests + count).initialize(to: request)
    for index in 0..<memory.count { unsafe (extents + extentCount + index).initialize(to: memory[index]) }
    count &+= 1
    extentCount &+= memory.count
    byteCount &+= bytes
    return true
  }

  /// The run's requests, in order.
  subscript(index: Int) -> IORequest {
    precondition(index >= 0 && index < count, "no such write")
    return unsafe requests[index]
  }

  /// All the run's memory.
  var memory: MemoryExtentList { unsafe MemoryExtentList(unsafeStart: extents, count: extentCount) }

  /// Forgets the run.
  mutating func clear() {
    count = 0
    extentCount = 0
    byteCount = 0
  }
}

extension RawImageQueue {
  /// Writes what was gathered.
  @usableFromInline @inline(never)
  mutating func writeGathered() {
    var written = 0
    if gather.count > 1 {
      written = max(
        ImageSystemCalls.write(file.descriptor, gather.memory, offset: gather.start, flags: cachedWrites.flags), 0)
      ledger.noteWrite()
    }
    for index in 0..<gather.count {
      let request = gather[index]
      let byteCount = Int(request.sectors.byteCount)
      if written >= byteCount {
        written -= byteCount
        complete(request.tag, 0)
      } else {
        // One that was not, or not wholly, written with the others has an error or a wait of its own to find.
        written = 0
        finish(request, moved: moveCached(request))
      }
    }
    gather.clear()
  }
}
