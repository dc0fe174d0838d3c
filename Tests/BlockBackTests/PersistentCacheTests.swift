// SPDX-License-Identifier: MIT

import BlockBack
import PVPeers
import PVTestSupport
import Testing
import XenRecords
import XenWire

@Suite("Pages that a backend keeps mapped")
struct PersistentCacheTests {
  static let millisecond: UInt64 = 1_000_000
  static let second: UInt64 = 1_000_000_000

  /// A cache of a size, with the references from 8 on mapped and idle.
  static func filled(
    _ count: Int, limit: Int, policy: PurgePolicy = .linux, unusedSeconds: Int = 60, now: UInt64 = second
  ) throws -> PersistentGrantCache {
    var knobs = BackendKnobs()
    knobs.maxPersistentGrants = limit
    knobs.purgePolicy = policy
    knobs.persistentGrantUnusedSeconds = unusedSeconds
    var cache = try PersistentGrantCache(knobs: knobs)
    for index in 0..<count {
      let reference = GrantReference(rawValue: UInt32(8 + index))
      let isKept = cache.insert(reference, address: 4096, handle: GrantHandle(rawValue: UInt32(index)))
      if isKept { cache.release(reference, now: now) }
    }
    return cache
  }

  static func purge(_ cache: inout PersistentGrantCache, at now: UInt64) -> [UInt32] {
    var handles: [UInt32] = []
    let count = cache.purge(now: now) { handles.append($0.rawValue) }
    #expect(count == handles.count)
    return handles
  }

  @Test("the numbers are Linux's")
  func numbers() throws {
    let linux = try GoldenVectors.load().blkback
    let knobs = BackendKnobs()
    #expect(knobs.maxPersistentGrants == linux["max_persistent_grants"])
    #expect(knobs.persistentGrantUnusedSeconds == linux["persistent_grant_unused_seconds"])
    #expect(knobs.maxBufferPages == linux["max_buffer_pages"])
    #expect(knobs.bufferSqueezeMilliseconds == linux["buffer_squeeze_duration_ms"])
    #expect(knobs.maxIndirectSegments == linux["max_indirect_segments"])
    #expect(knobs.maxRingPageOrder == linux["max_ring_page_order"])
    #expect(PersistentGrantCache.percentClean == linux["lru_percent_clean"])
    #expect(PersistentGrantCache.purgeInterval == UInt64(try #require(linux["lru_interval_ms"])) * Self.millisecond)
  }

  @Test("a page is missing, then idle, then in use, then idle again")
  func lookups() throws {
    var cache = try Self.filled(0, limit: 10)
    let page = GrantReference(rawValue: 99)
    #expect(cache.acquire(page) == .miss)
    #expect(cache.insert(page, address: 0x5000, handle: GrantHandle(rawValue: 1)) == true)
    #expect(cache.acquire(page) == .inUse)
    #expect(cache.insert(page, address: 0x6000, handle: GrantHandle(rawValue: 2)) == false, "it is there already")
    #expect(cache.hasOverflowed == false, "a page that is twice in use is no lack of room")
    cache.release(page, now: 1)
    #expect(cache.acquire(page) == .hit(address: 0x5000))
    #expect(cache.count == 1)
  }

  @Test("reference 0 and references beyond the table are never kept")
  func unkept() throws {
    var cache = try Self.filled(0, limit: 10)
    for value: UInt32 in [0, 1 << 17, .max] {
      let reference = GrantReference(rawValue: value)
      #expect(cache.insert(reference, address: 1, handle: GrantHandle(rawValue: 1)) == false)
      #expect(cache.acquire(reference) == .miss)
    }
    #expect(cache.count == 0 && cache.hasOverflowed == false)
  }

  @Test("a full cache that overflowed frees 5 % of the limit's hundreds, the lowest references first")
  func overflow() throws {
    var cache = try Self.filled(1057, limit: 1056)
    #expect(cache.count == 1056 && cache.hasOverflowed == true)
    #expect(Self.purge(&cache, at: Self.second) == (0..<50).map { UInt32($0) }, "50, and not 52.8")
    #expect(cache.count == 1006 && cache.hasOverflowed == false)
    #expect(Self.purge(&cache, at: 2 * Self.second).isEmpty)
  }

  @Test("a full cache that never overflowed is left alone, and so is one with room")
  func full() throws {
    var cache = try Self.filled(1056, limit: 1056)
    #expect(cache.hasOverflowed == false)
    #expect(Self.purge(&cache, at: Self.second).isEmpty)
    cache = try Self.filled(1000, limit: 1056)
    #expect(Self.purge(&cache, at: Self.second).isEmpty)
  }

  @Test("pages in use are passed over, and the next ones go")
  func inUse() throws {
    var cache = try Self.filled(301, limit: 300)
    for value: UInt32 in [8, 10, 12] { _ = cache.acquire(GrantReference(rawValue: value)) }
    let handles = Self.purge(&cache, at: Self.second)
    #expect(handles == [1, 3] + (5..<18).map { UInt32($0) }, "15 pages: 300 / 100 * 5")
    #expect(cache.count == 285)
  }

  @Test("when every page is in use nothing goes, and the overflow is remembered")
  func allInUse() throws {
    var cache = try Self.filled(100, limit: 100)
    for value: UInt32 in 8..<108 { _ = cache.acquire(GrantReference(rawValue: value)) }
    #expect(cache.insert(GrantReference(rawValue: 500), address: 1, handle: GrantHandle(rawValue: 1)) == false)
    #expect(Self.purge(&cache, at: Self.second).isEmpty)
    #expect(cache.hasOverflowed == true)
    cache.release(GrantReference(rawValue: 50), now: Self.second)
    #expect(Self.purge(&cache, at: Self.second) == [42])
    #expect(cache.hasOverflowed == false)
  }

  @Test("a page that nobody used for 60 s goes, whatever the room; one that was used a moment later stays")
  func expiry() throws {
    var cache = try Self.filled(20, limit: 1056)
    for value: UInt32 in [10, 15] {
      _ = cache.acquire(GrantReference(rawValue: value))
      cache.release(GrantReference(rawValue: value), now: Self.second + 1)
    }
    #expect(Self.purge(&cache, at: 61 * Self.second - 1).isEmpty)
    let handles = Self.purge(&cache, at: 61 * Self.second)
    #expect(Set(handles) == Set((0..<20).map { UInt32($0) }).subtracting([2, 7]))
    #expect(cache.count == 2)
    #expect(Set(Self.purge(&cache, at: 61 * Self.second + 1)) == [2, 7])
  }

  @Test("pages in use do not expire, and 0 seconds means never")
  func noExpiry() throws {
    var cache = try Self.filled(5, limit: 1056)
    _ = cache.acquire(GrantReference(rawValue: 9))
    #expect(Self.purge(&cache, at: 1000 * Self.second).count == 4)
    cache = try Self.filled(5, limit: 1056, unusedSeconds: 0)
    #expect(Self.purge(&cache, at: 1_000_000 * Self.second).isEmpty)
  }

  @Test("expired pages count towards the target: what age has freed, order need not")
  func expiryBeforeOrder() throws {
    var cache = try Self.filled(1057, limit: 1056, now: 10 * Self.second)
    for value: UInt32 in 8..<1064 where !(500..<530).contains(value) {
      _ = cache.acquire(GrantReference(rawValue: value))
      cache.release(GrantReference(rawValue: value), now: 65 * Self.second)
    }
    let handles = Self.purge(&cache, at: 70 * Self.second)
    #expect(handles == (492..<522).map { UInt32($0) } + (0..<20).map { UInt32($0) })
  }

  @Test("a purge is due every 100 ms")
  func interval() throws {
    var cache = try Self.filled(1, limit: 10)
    #expect(cache.isPurgeDue(now: 0) == true)
    _ = Self.purge(&cache, at: Self.second)
    #expect(cache.isPurgeDue(now: Self.second + 100 * Self.millisecond - 1) == false)
    #expect(cache.isPurgeDue(now: Self.second + 100 * Self.millisecond) == true)
  }

  @Test("under true LRU the page unused longest makes room at once, and nothing else is purged by order")
  func leastRecentlyUsed() throws {
    var cache = try Self.filled(10, limit: 10, policy: .leastRecentlyUsed)
    for value: UInt32 in [8, 9, 10, 12] {
      _ = cache.acquire(GrantReference(rawValue: value))
      cache.release(GrantReference(rawValue: value), now: Self.second)
    }
    var order: [UInt32] = []
    while cache.mustEvictToInsert, let handle = cache.evictOldest() {
      order.append(handle.rawValue)
      let reference = GrantReference(rawValue: 100 + UInt32(order.count))
      let isKept = cache.insert(reference, address: 1, handle: GrantHandle(rawValue: 100))
      #expect(isKept)
      if order.count == 10 { break }
    }
    #expect(order == [3, 5, 6, 7, 8, 9, 0, 1, 2, 4], "new pages are in use and never go")
    #expect(cache.mustEvictToInsert == false)
    #expect(Self.purge(&cache, at: 2 * Self.second).isEmpty)
  }

  @Test("random use keeps count, list and table together", arguments: [PurgePolicy.linux, .leastRecentlyUsed])
  func random(policy: PurgePolicy) throws {
    var generator = SeededGenerator(seed: 11)
    var cache = try Self.filled(0, limit: 40, policy: policy)
    var idle: Set<UInt32> = []
    var active: Set<UInt32> = []
    var now = Self.second
    for step in 0..<20_000 {
      now += Self.millisecond
      let value = UInt32.random(in: 1...80, using: &generator)
      let reference = GrantReference(rawValue: value)
      switch cache.acquire(reference) {
      case .hit:
        #expect(idle.remove(value) != nil, "step \(step)")
        active.insert(value)
      case .inUse:
        #expect(active.remove(value) != nil, "step \(step)")
        idle.insert(value)
        cache.release(reference, now: now)
      case .miss:
        if cache.mustEvictToInsert, let gone = cache.evictOldest() { #expect(idle.remove(gone.rawValue) != nil) }
        if cache.insert(reference, address: 1, handle: GrantHandle(rawValue: value)) { active.insert(value) }
      }
      if step % 500 == 0 {
        _ = cache.purge(now: now) { handle in
          if idle.remove(handle.rawValue) == nil { Issue.record("\(handle) was not idle, step \(step)") }
        }
      }
      if cache.count != idle.count + active.count { Issue.record("\(cache.count) pages, step \(step)") }
    }
    var all: Set<UInt32> = []
    cache.forEachMapping { all.insert($0.rawValue) }
    #expect(all == idle.union(active))
  }
}

@Suite("Pages that a backend queue keeps mapped")
struct PersistentQueueTests {
  func make(limit: Int, policy: PurgePolicy = .linux) throws -> (ScriptedFrontend<ABI64>, [GrantedPage]) {
    var setup = ScriptedFrontend<ABI64>.Setup()
    setup.abilities.isPersistent = true
    setup.knobs.maxPersistentGrants = limit
    setup.knobs.purgePolicy = policy
    let frontend = try ScriptedFrontend<ABI64>(setup)
    return (frontend, try frontend.grantPages(limit + 20))
  }

  func use(_ frontend: ScriptedFrontend<ABI64>, _ page: GrantedPage) {
    frontend.direct(.write, [page.segment()])
    #expect(frontend.run().map(\.status) == [.okay])
  }

  @Test("a page is mapped once, however often it is used")
  func once() throws {
    let (frontend, pages) = try make(limit: 100)
    for _ in 0..<20 { use(frontend, pages[0]) }
    #expect(frontend[.grants_mapped] == 1 && frontend[.grants_reused] == 19 && frontend.mappedPages == 1)
    #expect(frontend.tearDown())
  }

  @Test("what does not fit is mapped for its request alone; the purge comes after 100 ms and not before")
  func overflow() throws {
    let (frontend, pages) = try make(limit: 100)
    for page in pages.prefix(100) { use(frontend, page) }
    frontend.back?.housekeep()
    #expect(frontend.mappedPages == 100, "full, and nobody was turned away")
    use(frontend, pages[100])
    #expect(frontend.mappedPages == 100 && frontend[.grants_unmapped] == 1)
    frontend.machine.control.advanceClock(milliseconds: 99)
    frontend.back?.housekeep()
    #expect(frontend.mappedPages == 100)
    frontend.machine.control.advanceClock(milliseconds: 1)
    frontend.back?.housekeep()
    #expect(frontend.mappedPages == 95 && frontend[.grants_evicted] == 5 && frontend[.grants_persistent] == 95)
    let sorted = pages.prefix(100).sorted { $0.reference < $1.reference }
    for page in sorted.dropFirst(5) { use(frontend, page) }
    #expect(frontend[.grants_mapped] == 101, "the five lowest references went, all others are still mapped")
    #expect(frontend.tearDown())
  }

  @Test("after 60 idle seconds everything is unmapped, and the grants can be ended")
  func expiry() throws {
    let (frontend, pages) = try make(limit: 100)
    for page in pages.prefix(30) { use(frontend, page) }
    #expect(!frontend.machine.guest.endAccess(pages[0].reference), "the backend has it mapped")
    frontend.back?.housekeep()
    frontend.machine.control.advanceClock(milliseconds: 59_999)
    frontend.back?.housekeep()
    #expect(frontend.mappedPages == 30)
    frontend.machine.control.advanceClock(milliseconds: 101)
    frontend.back?.housekeep()
    #expect(frontend.mappedPages == 0)
    #expect(frontend.tearDown())
  }

  @Test("under true LRU the page unused longest makes room")
  func leastRecentlyUsed() throws {
    let (frontend, pages) = try make(limit: 10, policy: .leastRecentlyUsed)
    for page in pages.prefix(10) { use(frontend, page) }
    use(frontend, pages[0])
    use(frontend, pages[10])
    #expect(frontend.mappedPages == 10 && frontend[.grants_evicted] == 1)
    use(frontend, pages[0])
    #expect(frontend[.grants_mapped] == 11, "it was used after the others")
    use(frontend, pages[1])
    #expect(frontend[.grants_mapped] == 12, "it was the oldest")
    #expect(frontend.tearDown())
  }
}
