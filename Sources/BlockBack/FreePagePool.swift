// SPDX-License-Identifier: MIT

import XenHypervisor

/// The pages of its own that a ring keeps for foreign pages to stand in (blkback's `free_pages` and `free_pages_num`).
///
/// ```
/// domain's pages  --takeBufferPages-->  pool  --take-->  under a mapping  --put-->  pool  --shrink-->  domain's pages
/// ```
///
/// A domain must give up a page of its own for each foreign page that it maps. Giving up and taking back is dear, so that a
/// ring keeps what it got, down to `max_buffer_pages` free ones, and none while memory is short.
struct FreePagePool {
  /// `max_buffer_pages`: free pages that are kept.
  let limit: Int
  /// Free pages.
  private(set) var count = 0
  /// Pages that mappings stand in.
  private(set) var used = 0
  /// Until when nothing is kept, in nanoseconds.
  private var squeezeEnd: UInt64 = 0

  init(limit: Int) { self.limit = limit }

  /// Takes pages for as many mappings; what the pool lacks comes from the domain.
  /// - Returns: false when the domain has too few; nothing is taken then.
  mutating func take<Platform: BackendPlatform>(_ wanted: Int, from platform: Platform) -> Bool {
    if wanted > count {
      guard platform.takeBufferPages(wanted - count) else { return false }
      count = wanted
    }
    count -= wanted
    used += wanted
    return true
  }

  /// Puts the pages of mappings back that are no more.
  mutating func put(_ free: Int) {
    precondition(free <= used, "more pages freed than were taken")
    used -= free
    count += free
  }

  /// Whether there is something to give back (blkback looks in every pass of its thread).
  func isTooFull(now: UInt64) -> Bool { count > (now < squeezeEnd ? 0 : limit) }

  /// Gives back what is more than the limit, or everything while memory is short (`shrink_free_pagepool`).
  mutating func shrink<Platform: BackendPlatform>(now: UInt64, to platform: Platform) {
    let kept = now < squeezeEnd ? 0 : limit
    guard count > kept else { return }
    platform.giveBufferPages(count - kept)
    count = kept
  }

  /// Memory is short: keeps nothing for a while (`buffer_squeeze_duration_ms`).
  mutating func squeeze(until end: UInt64) { squeezeEnd = max(squeezeEnd, end) }

  /// The ring is no more: everything goes back, also what its mappings stood in.
  func giveBackAll<Platform: BackendPlatform>(to platform: Platform) { platform.giveBufferPages(count + used) }
}
