// SPDX-License-Identifier: MIT

import CLinux
public import GuestMemory
public import XenWire

/// A domain's pseudo-physical memory: one sparse memfd, mapped once for its owner, handed out in adjacent pages.
///
/// ```
///   frame      0       1       2       3      ...
///            +-------+-------+-------+-------+
///   memfd    | taken | taken | free  | taken |      free pages hold zeros: their storage was punched out
///            +-------+-------+-------+-------+
/// ```
///
/// **Assumptions.** Whoever frees pages has ended every grant on them; a page whose grant could not be ended stays taken.
public final class DomainMemory: @unchecked Sendable {
  // SAFETY: the mapping is made once and lives as long as this object; the allocator's state is behind a lock.

  /// The memory's length in bytes, a whole number of pages.
  public let byteCount: Int
  let file: MemoryFile
  let mapping: MappedMemory
  /// The whole memory as its owner sees it; frame f starts at byte f * 4096.
  public let region: SharedRegion
  let freeRuns: RankedLock<[FrameRun]>

  init(domain: DomainID, byteCount: Int) throws(SystemError) {
    file = try MemoryFile(name: "domain-\(domain)", byteCount: byteCount)
    mapping = try file.map()
    region = mapping.region
    self.byteCount = file.byteCount
    freeRuns = RankedLock(.memory, [FrameRun(start: 0, count: file.byteCount >> PageGeometry.pageShift)])
  }

  /// The number of pages.
  public var pageCount: Int { byteCount >> PageGeometry.pageShift }

  /// The number of pages that are handed out.
  public var allocatedPageCount: Int {
    pageCount - freeRuns.withLock { runs in runs.reduce(0) { $0 + $1.count } }
  }

  /// One page as the owner sees it; nothing for a frame outside the memory.
  public func page(_ frame: FrameNumber) -> SharedRegion? {
    guard frame.rawValue < UInt64(pageCount) else { return nil }
    return region.slice(at: Int(frame.rawValue) << PageGeometry.pageShift, byteCount: PageGeometry.pageSize)
  }

  /// Takes `count` adjacent zeroed pages, the lowest that fit.
  /// - Throws: `.noSpace` when no run of free pages is long enough.
  public func allocate(_ count: Int) throws(GrantStatus) -> GuestPages {
    precondition(count > 0, "an allocation of no pages")
    let start = freeRuns.withLock { (runs: inout [FrameRun]) -> Int? in
      guard let index = runs.firstIndex(where: { $0.count >= count }) else { return nil }
      let start = runs[index].start
      if runs[index].count == count {
        runs.remove(at: index)
      } else {
        runs[index] = FrameRun(start: start + count, count: runs[index].count - count)
      }
      return start
    }
    guard let start else { throw .noSpace }
    return GuestPages(
      firstFrame: FrameNumber(rawValue: UInt64(start)), count: count,
      region: region.slice(at: start << PageGeometry.pageShift, byteCount: count << PageGeometry.pageShift))
  }

  /// Gives pages back; their storage is punched out of the memfd, so that they hold zeros when they are taken again.
  public func free(_ pages: GuestPages) {
    let run = FrameRun(start: Int(pages.firstFrame.rawValue), count: pages.count)
    precondition(run.count > 0 && run.end <= pageCount, "pages of another domain")
    let offset = run.start << PageGeometry.pageShift
    let length = run.count << PageGeometry.pageShift
    if pv_fallocate(
      file.descriptor, pv_falloc_punch_hole | pv_falloc_keep_size, Int64(offset), Int64(length)) != 0
    {
      region.fill(0, at: offset, byteCount: length)
    }
    freeRuns.withLock { runs in Self.insert(run, into: &runs) }
  }

  private static func insert(_ run: FrameRun, into runs: inout [FrameRun]) {
    var run = run
    var index = runs.partitioningIndex { $0.start >= run.start }
    precondition(index == runs.count || run.end <= runs[index].start, "pages freed twice")
    precondition(index == 0 || runs[index - 1].end <= run.start, "pages freed twice")
    if index < runs.count, runs[index].start == run.end {
      run.count += runs[index].count
      runs.remove(at: index)
    }
    if index > 0, runs[index - 1].end == run.start {
      index -= 1
      run = FrameRun(start: runs[index].start, count: runs[index].count + run.count)
      runs.remove(at: index)
    }
    runs.insert(run, at: index)
  }
}

/// Adjacent free frames.
struct FrameRun: Equatable, Sendable {
  var start: Int
  var count: Int
  var end: Int { start + count }
}

extension Array {
  /// The first index whose element satisfies a predicate that holds for all later elements too.
  fileprivate func partitioningIndex(where belongsInSecond: (Element) -> Bool) -> Int {
    var low = 0
    var high = count
    while low < high {
      let middle = (low + high) / 2
      if belongsInSecond(self[middle]) { high = middle } else { low = middle + 1 }
    }
    return low
  }
}
