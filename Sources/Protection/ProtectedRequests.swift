// SPDX-License-Identifier: MIT

public import BlockIO
public import GuestMemory

/// The requests that a ``ProtectedQueue`` has handed on, each with room for its tuples.
@safe @usableFromInline
struct ProtectedRequests: ~Copyable {
  // SAFETY: `entries` addresses `capacity` initialised elements until deinit; places come from the free list, or out of
  // completions of requests that were handed on with them.
  @usableFromInline let entries: UnsafeMutablePointer<Entry>
  @usableFromInline let capacity: Int
  @usableFromInline let memory: MappedMemory
  @usableFromInline let tuples: SharedRegion
  @usableFromInline let tupleByteCount: Int
  @usableFromInline var firstFree: Int32 = 0
  @usableFromInline var firstFinished: Int32 = -1
  @usableFromInline var used = 0

  @usableFromInline
  struct Entry {
    @usableFromInline var request: IORequest
    @usableFromInline var next: Int32
    @usableFromInline var retries: UInt8
    @usableFromInline var errorCode: CInt

    @usableFromInline
    init(next: Int32) {
      request = IORequest(tag: 0, operation: .flush, sectors: SectorRange(start: 0, count: 0))
      self.next = next
      retries = 0
      errorCode = 0
    }
  }

  /// Bytes of the largest request: 4096 pages, which is the most that a ring request can name.
  @inlinable static var mostBytes: Int { 16 << 20 }

  init(capacity: Int, tupleByteCount: Int) throws(SystemError) {
    memory = try MappedMemory(anonymousByteCount: capacity * tupleByteCount)
    tuples = memory.region
    self.capacity = capacity
    self.tupleByteCount = tupleByteCount
    unsafe entries = .allocate(capacity: capacity)
    for place in 0..<capacity {
      unsafe (entries + place).initialize(to: Entry(next: place + 1 < capacity ? Int32(place + 1) : -1))
    }
  }

  @inlinable
  deinit { unsafe entries.deallocate() }

  @inlinable
  mutating func take(_ request: IORequest) -> Int? {
    guard firstFree >= 0 else { return nil }
    let place = Int(firstFree)
    unsafe firstFree = entries[place].next
    unsafe entries[place].request = request
    unsafe entries[place].retries = 1
    used &+= 1
    return place
  }

  @inlinable
  mutating func giveBack(_ place: Int) {
    precondition(place >= 0 && place < capacity, "no such request")
    unsafe entries[place].next = firstFree
    firstFree = Int32(truncatingIfNeeded: place)
    used &-= 1
  }

  @inlinable
  subscript(place: Int) -> IORequest {
    precondition(place >= 0 && place < capacity, "no such request")
    return unsafe entries[place].request
  }

  @inlinable
  func staged(_ place: Int) -> SharedRegion { tuples.slice(at: place &* tupleByteCount, byteCount: tupleByteCount) }

  @usableFromInline
  mutating func mayRetry(_ place: Int) -> Bool {
    guard unsafe entries[place].retries > 0 else { return false }
    unsafe entries[place].retries -= 1
    return true
  }

  @usableFromInline
  mutating func finishAtOnce(_ place: Int, errorCode: CInt) {
    unsafe entries[place].errorCode = errorCode
    unsafe entries[place].next = firstFinished
    firstFinished = Int32(truncatingIfNeeded: place)
  }

  @inlinable var hasFinished: Bool { firstFinished >= 0 }

  @inlinable
  mutating func takeFinished() -> IOCompletion? { hasFinished ? takeFirstFinished() : nil }

  @usableFromInline
  mutating func takeFirstFinished() -> IOCompletion? {
    let place = Int(firstFinished)
    unsafe firstFinished = entries[place].next
    let completion = unsafe IOCompletion(tag: entries[place].request.tag, errorCode: entries[place].errorCode)
    giveBack(place)
    return completion
  }
}
