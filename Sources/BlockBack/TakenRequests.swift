// SPDX-License-Identifier: MIT

import CLinux
public import GuestMemory
public import XenWire

/// What a backend has taken off a ring and not answered, in memory that outlives the backend's process.
///
/// A response overwrites a slot, and not the one of its own request: after a process was killed the ring alone does not say
/// what was asked and never answered. So each request is noted here before its slot may be overwritten, and the note is
/// kept until the response is published (vhost-user does the same with its "inflight" memory).
///
/// ```
/// byte 0      64         64 + entry    ...
///      header | entry 0  | entry 1   | ...        as many entries as the ring has slots
///
/// entry   0  word: 0 free; 1 << 32 taken; 2 << 32 | index of the response: answered
///         8  index of the request
///        16  the slot, as it was copied out of the ring
/// ```
///
/// A process may die between any two stores. An entry becomes "taken", or "answered", by one store of its word:
///
/// 1. The slot is copied, then the word says *taken*: from here on the request counts as consumed.
/// 2. The word says *answered as m*, then response m is written into the ring, which shows nobody anything yet.
/// 3. The ring's response producer passes m: the entry is over, whatever its word says. Then the word is cleared.
///
/// So requests consumed = responses published + entries that are not over, at every moment. What is not over is served
/// again: nobody has been told that it was done.
///
/// **Assumptions.** One thread at a time uses it.
@safe public struct TakenRequests: ~Copyable {
  // SAFETY: `free`, `entryOf` and `entryAt` address `slots` initialised elements until deinit; requests are numbers of the
  // queue's pending table, of which there are `slots`, entries come from `free` or were checked.
  private let memory: SharedRegion
  private let slots: Int
  private let stride: Int
  private let entryByteCount: Int
  /// Entries that may be used; a stack.
  private let free: UnsafeMutablePointer<Int32>
  private var freeCount = 0
  /// Each pending request's entry.
  private let entryOf: UnsafeMutablePointer<Int32>
  /// The entries of responses that are not published, in a ring of places.
  private let entryAt: UnsafeMutablePointer<Int32>
  private var unpublished = 0
  private var nextPlace = 0
  /// Whether there is memory for notes at all.
  @usableFromInline let isKept: Bool

  private static let headerByteCount = 64
  private static let magic: UInt64 = 0x31_4E_4B_54_44_56_50

  private enum Word {
    static let taken: UInt64 = 1 << 32
    static let answered: UInt64 = 2 << 32
  }

  /// Bytes for a ring of so many slots of so many bytes.
  public static func byteCount(slots: Int, stride: Int) -> Int { headerByteCount + slots * entryByteCount(stride) }

  private static func entryByteCount(_ stride: Int) -> Int { (16 + stride + 63) & ~63 }

  /// No notes: for a queue whose frontend dies with it.
  init() {
    (slots, stride, entryByteCount) = (0, 0, 0)
    unsafe free = .allocate(capacity: 1)
    unsafe entryOf = .allocate(capacity: 1)
    unsafe entryAt = .allocate(capacity: 1)
    unsafe memory = SharedRegion(unsafeBase: free, byteCount: 0)
    isKept = false
  }

  /// Takes up the memory of a connection, or makes it new when it was another's.
  /// - Parameter identity: what tells this connection from every other one.
  public init(memory: SharedRegion, identity: UInt64, slots: Int, stride: Int) {
    precondition(memory.byteCount >= Self.byteCount(slots: slots, stride: stride), "memory for fewer requests")
    self.memory = memory
    isKept = true
    self.slots = slots
    self.stride = stride
    entryByteCount = Self.entryByteCount(stride)
    unsafe free = .allocate(capacity: slots)
    unsafe free.initialize(repeating: 0, count: slots)
    unsafe entryOf = .allocate(capacity: slots)
    unsafe entryOf.initialize(repeating: 0, count: slots)
    unsafe entryAt = .allocate(capacity: slots)
    unsafe entryAt.initialize(repeating: 0, count: slots)
    let form = UInt64(slots) << 32 | UInt64(stride)
    let isOurs =
      memory.load(UInt64.self, at: 0) == Self.magic && memory.load(UInt64.self, at: 8) == identity
      && memory.load(UInt64.self, at: 16) == form
    if !isOurs {
      memory.fill(0)
      memory.store(identity, at: 8)
      memory.store(form, at: 16)
      pv_compiler_barrier()
      memory.store(Self.magic, at: 0)
    }
  }

  deinit {
    unsafe free.deallocate()
    unsafe entryOf.deallocate()
    unsafe entryAt.deallocate()
  }

  private func word(_ entry: Int) -> SharedWord<UInt64> {
    memory.word64(at: Self.headerByteCount + entry * entryByteCount)
  }

  private func requestIndex(_ entry: Int) -> UInt32 {
    memory.load(UInt32.self, at: Self.headerByteCount + entry * entryByteCount + 8)
  }

  private func slotMemory(_ entry: Int) -> SharedRegion {
    memory.slice(at: Self.headerByteCount + entry * entryByteCount + 16, byteCount: stride)
  }

  // MARK: After a restart

  /// The entries that are not over, oldest request first; all others are free from now on.
  /// - Parameters:
  ///   - published: the ring's response producer.
  ///   - waiting: requests that the ring shows behind it.
  /// - Returns: nothing when the ring cannot have so many, because it is not the ring that the entries are about.
  mutating func recover(published: RingIndex, waiting: UInt32) -> [Int] {
    let found = (0..<slots).filter { isAlive($0, published: published) }
    let isSane = found.count <= Int(waiting)
    let alive = isSane ? found.sorted { age($0, published) < age($1, published) } : []
    freeCount = 0
    for entry in (0..<slots).reversed() where !alive.contains(entry) {
      word(entry).storeReleasing(0)
      unsafe free[freeCount] = Int32(entry)
      freeCount += 1
    }
    return alive
  }

  private func isAlive(_ entry: Int, published: RingIndex) -> Bool {
    let value = word(entry).loadAcquiring()
    if value == Word.taken { return true }
    guard value & ~UInt64(UInt32.max) == Word.answered else { return false }
    let response = RingIndex(rawValue: UInt32(truncatingIfNeeded: value))
    return published.distance(to: response) < UInt32(slots)
  }

  /// Where a request stands from the response producer: indices wrap, and one that was not answered may lie far behind.
  private func age(_ entry: Int, _ published: RingIndex) -> Int32 {
    Int32(bitPattern: requestIndex(entry) &- published.rawValue)
  }

  /// Loads a request that was taken before, for the pending request that stands for it now.
  mutating func restore<Format: RingFormat>(_ entry: Int, as request: Int, into slot: inout RequestSlot<Format>) {
    word(entry).storeReleasing(Word.taken)
    unsafe entryOf[request] = Int32(entry)
    // SAFETY: the bytes are `stride` long.
    unsafe slotMemory(entry).withUnsafeBytes { bytes in
      guard let base = bytes.baseAddress else { return }
      unsafe slot.fill(fromShared: base, stride: stride)
    }
  }

  // MARK: In every request

  /// Notes a request, before anything may be written into its slot.
  @usableFromInline
  mutating func take<Format: RingFormat>(_ request: Int, index: RingIndex, _ slot: borrowing RequestSlot<Format>) {
    precondition(freeCount > 0, "more requests than slots")
    freeCount -= 1
    let entry = unsafe Int(free[freeCount])
    unsafe entryOf[request] = Int32(entry)
    memory.store(index.rawValue, at: Self.headerByteCount + entry * entryByteCount + 8)
    let region = slotMemory(entry)
    // SAFETY: the bytes are `stride` long.
    unsafe region.withUnsafeBytes { bytes in
      guard let base = bytes.baseAddress else { return }
      unsafe slot.spill(toShared: base, count: stride)
    }
    word(entry).storeReleasing(Word.taken)
    pv_compiler_barrier()
  }

  /// Notes which response is a request's, before that is written.
  @usableFromInline
  mutating func answer(_ request: Int, as response: RingIndex) {
    let entry = unsafe entryOf[request]
    word(Int(entry)).storeReleasing(Word.answered | UInt64(response.rawValue))
    unsafe entryAt[nextPlace] = entry
    nextPlace = nextPlace + 1 == slots ? 0 : nextPlace + 1
    unpublished += 1
    pv_compiler_barrier()
  }

  /// The ring shows all responses that were written: their entries are over.
  @usableFromInline
  mutating func publish() {
    pv_compiler_barrier()
    while unpublished > 0 {
      let place = nextPlace >= unpublished ? nextPlace - unpublished : nextPlace + slots - unpublished
      let entry = unsafe entryAt[place]
      word(Int(entry)).storeReleasing(0)
      unsafe free[freeCount] = entry
      freeCount += 1
      unpublished -= 1
    }
  }

  /// Entries in use.
  var count: Int { slots - freeCount }
}
