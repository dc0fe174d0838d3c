// SPDX-License-Identifier: MIT

public import GuestMemory
public import XenWire

/// The pages of a frontend that one queue keeps mapped between requests (blkback's `persistent_gnts` tree).
///
/// A table indexed by reference: a lookup is one load, and walking it in order is walking the references in order, as
/// blkback's red-black tree does. Entries are idle (in the table, not in use) or active (a request uses the page).
///
/// ```
/// reference:   8      9      10     11   ...
///            +------+------+------+------+
///            | idle | -    |active| idle |      idle entries also form a list, most recently used first
///            +------+------+------+------+
/// ```
///
/// **Invariants.** count = idle + active ≤ limit; an entry is in the recency list exactly when it is idle. Reference 0,
/// the console's, ends the list and is never kept.
@safe public struct PersistentGrantCache: ~Copyable {
  // SAFETY: `entries` addresses `capacity` zeroed entries of `memory`; every index is checked against `capacity`.
  @usableFromInline
  struct Entry: BitwiseCopyable {
    @usableFromInline var address: UInt
    @usableFromInline var lastUsed: UInt64
    @usableFromInline var handle: UInt32
    @usableFromInline var newer: UInt32
    @usableFromInline var older: UInt32
    @usableFromInline var state: State
  }

  @usableFromInline
  enum State: UInt32, BitwiseCopyable {
    case absent = 0
    case idle
    case active
  }

  /// What a lookup found.
  public enum Lookup: Equatable, Sendable {
    /// The page is mapped here and is now the caller's until `release`.
    case hit(address: UInt)
    /// Not mapped.
    case miss
    /// Mapped, and in use by another segment: map it once more, for this request alone.
    case inUse
  }

  private let memory: MappedMemory
  @usableFromInline let entries: UnsafeMutablePointer<Entry>
  @usableFromInline let capacity: UInt32
  /// The most entries.
  public let limit: Int
  let policy: PurgePolicy
  let unusedNanoseconds: UInt64
  /// Mapped pages.
  public private(set) var count = 0
  /// Whether a page found no room since the last purge that removed something.
  public private(set) var hasOverflowed = false
  private var nextPurge: UInt64 = 0
  private var highestReference: UInt32 = 0
  private var lowestReference: UInt32 = .max
  @usableFromInline var newest: UInt32 = 0
  @usableFromInline var oldest: UInt32 = 0

  /// How often blkback looks (`LRU_INTERVAL`), in nanoseconds.
  public static let purgeInterval: UInt64 = 100_000_000
  /// How much it frees at least, in percent of the limit (`LRU_PERCENT_CLEAN`).
  public static let percentClean = 5

  /// Makes an empty cache.
  /// - Parameter referenceLimit: references at or above it are never kept.
  /// - Throws: ``SystemError`` when there is no address space.
  public init(knobs: BackendKnobs, referenceLimit: Int = 1 << 17) throws(SystemError) {
    memory = try MappedMemory(anonymousByteCount: referenceLimit * MemoryLayout<Entry>.stride)
    guard let base = unsafe UnsafeMutableRawPointer(bitPattern: memory.region.address) else {
      preconditionFailure("a mapping has an address")
    }
    unsafe entries = base.bindMemory(to: Entry.self, capacity: referenceLimit)
    capacity = UInt32(referenceLimit)
    limit = knobs.maxPersistentGrants
    policy = knobs.purgePolicy
    unusedNanoseconds = UInt64(knobs.persistentGrantUnusedSeconds) * 1_000_000_000
  }

  /// Finds a page and makes it active.
  @inlinable
  public mutating func acquire(_ reference: GrantReference) -> Lookup {
    let index = reference.rawValue
    guard index < capacity else { return .miss }
    switch unsafe entries[Int(index)].state {
    case .absent: return .miss
    case .active: return .inUse
    case .idle:
      unlink(index)
      unsafe entries[Int(index)].state = .active
      return .hit(address: unsafe entries[Int(index)].address)
    }
  }

  /// Makes an active page idle again.
  @inlinable
  public mutating func release(_ reference: GrantReference, now: UInt64) {
    let index = reference.rawValue
    unsafe precondition(index < capacity && entries[Int(index)].state == .active, "released a page that nobody holds")
    unsafe entries[Int(index)].lastUsed = now
    unsafe entries[Int(index)].state = .idle
    link(index)
  }

  /// Keeps a freshly mapped page, active.
  ///
  /// False when there is no room: the caller unmaps it after the request.
  public mutating func insert(_ reference: GrantReference, address: UInt, handle: GrantHandle) -> Bool {
    let index = reference.rawValue
    guard index > 0, index < capacity, unsafe entries[Int(index)].state == .absent else { return false }
    guard count < limit else {
      hasOverflowed = true
      return false
    }
    unsafe entries[Int(index)] = Entry(
      address: address, lastUsed: 0, handle: handle.rawValue, newer: 0, older: 0, state: .active)
    count += 1
    highestReference = max(highestReference, index)
    lowestReference = min(lowestReference, index)
    return true
  }

  /// Whether a new page would push out an old one: true-LRU policy, full, and something idle.
  public var mustEvictToInsert: Bool { policy == .leastRecentlyUsed && count >= limit && oldest != 0 }

  /// Takes out the page that was used longest ago; the caller unmaps it.
  public mutating func evictOldest() -> GrantHandle? {
    guard oldest != 0 else { return nil }
    return remove(oldest)
  }

  private mutating func remove(_ index: UInt32) -> GrantHandle {
    unlink(index)
    unsafe entries[Int(index)].state = .absent
    count -= 1
    return GrantHandle(rawValue: unsafe entries[Int(index)].handle)
  }

  @inlinable
  mutating func unlink(_ index: UInt32) {
    let newer = unsafe entries[Int(index)].newer
    let older = unsafe entries[Int(index)].older
    if newer == 0 { newest = older } else { unsafe entries[Int(newer)].older = older }
    if older == 0 { oldest = newer } else { unsafe entries[Int(older)].newer = newer }
  }

  @inlinable
  mutating func link(_ index: UInt32) {
    unsafe entries[Int(index)].newer = 0
    unsafe entries[Int(index)].older = newest
    if newest == 0 { oldest = index } else { unsafe entries[Int(newest)].newer = index }
    newest = index
  }
}

extension PersistentGrantCache {
  /// Whether the next purge is due; cheap enough to ask in every pass.
  public func isPurgeDue(now: UInt64) -> Bool { now >= nextPurge }

  /// Takes out what has to go and hands each handle to `unmap`: first all that was unused too long, then, under
  /// blkback's policy and over the limit, the lowest references until 5 % of the limit are free.
  /// - Returns: the number of pages taken out.
  public mutating func purge(now: UInt64, unmap: (GrantHandle) -> Void) -> Int {
    nextPurge = now + Self.purgeInterval
    var target = 0
    if policy == .linux, count > limit || (count == limit && hasOverflowed) {
      target = min(count, count - limit + (limit / 100) * Self.percentClean)
    }
    var removed = 0
    if unusedNanoseconds > 0 {
      while oldest != 0, unsafe entries[Int(oldest)].lastUsed &+ unusedNanoseconds <= now {
        unmap(remove(oldest))
        removed += 1
      }
    }
    var index = lowestReference
    while removed < target, index <= highestReference {
      if unsafe entries[Int(index)].state == .idle {
        unmap(remove(index))
        removed += 1
      }
      index += 1
    }
    if removed > 0 { hasOverflowed = false }
    return removed
  }

  /// Names every mapping, in use or not; for the end of a connection.
  public func forEachMapping(_ body: (GrantHandle) -> Void) {
    guard count > 0 else { return }
    for index in Int(lowestReference)...Int(highestReference) where unsafe entries[index].state != .absent {
      unsafe body(GrantHandle(rawValue: entries[index].handle))
    }
  }
}
