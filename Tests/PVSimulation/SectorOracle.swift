// SPDX-License-Identifier: MIT

/// What each sector may hold, by what was acknowledged: the judge of a simulated world.
///
/// ```
/// one sector:  [ durable | later version | later ... | last certain | uncertain ... ]
///                ^ a power cut may leave any of them      ^ a read may find one of these
/// ```
/// A write that succeeded is a certain version; one that failed, or whose answer never came, an uncertain one. A flush that
/// succeeded makes the last version that was acknowledged before it was asked for the first of the list.
///
/// **Assumptions.** No two requests in flight touch one sector unless both read.
struct SectorOracle {
  private struct Version {
    let stamp: UInt64
    let time: UInt64
    var isCertain: Bool
  }

  private var versions: [[Version]]
  private var unsettled: [Int] = []
  /// Readers of a sector, or -1 for a writer.
  private var users: [Int32]
  private(set) var time: UInt64 = 1

  init(sectorCount: Int) {
    versions = Array(repeating: [Version(stamp: 0, time: 0, isCertain: true)], count: sectorCount)
    users = Array(repeating: 0, count: sectorCount)
  }

  var sectorCount: Int { versions.count }

  // MARK: Who is at work where

  func isFree(_ sectors: Range<Int>, forWriting: Bool) -> Bool {
    sectors.allSatisfy { forWriting ? users[$0] == 0 : users[$0] >= 0 }
  }

  mutating func begin(_ sectors: Range<Int>, isWriting: Bool) {
    for sector in sectors { users[sector] += isWriting ? -1 : 1 }
  }

  mutating func end(_ sectors: Range<Int>, wasWriting: Bool) {
    for sector in sectors { users[sector] -= wasWriting ? -1 : 1 }
  }

  /// The moment now; each call is later than the one before.
  mutating func tick() -> UInt64 {
    time += 1
    return time
  }

  // MARK: What happened

  /// A write was answered, or never will be.
  mutating func wrote(_ stamp: UInt64, to sector: Int, isCertain: Bool) {
    if versions[sector].count == 1 { unsettled.append(sector) }
    versions[sector].append(Version(stamp: stamp, time: time, isCertain: isCertain))
  }

  /// A read found a stamp; nil is fine, else what it should have found.
  mutating func read(_ stamp: UInt64, from sector: Int) -> [UInt64]? {
    guard let lastCertain = versions[sector].lastIndex(where: \.isCertain) else { return [] }
    let candidates = versions[sector][lastCertain...]
    guard let match = candidates.lastIndex(where: { $0.stamp == stamp }) else { return candidates.map(\.stamp) }
    // What came later was not done and will not be. What came between the last certain version and this one may have been, and
    // may come back after a power cut.
    versions[sector].removeSubrange((match + 1)...)
    versions[sector][match].isCertain = true
    return nil
  }

  /// A flush that was asked for at a moment has succeeded.
  mutating func flushed(askedAt moment: UInt64) {
    unsettled.removeAll { sector in
      let covered = versions[sector].lastIndex { $0.isCertain && $0.time < moment } ?? 0
      if covered > 0 { versions[sector].removeSubrange(0..<covered) }
      return versions[sector].count == 1
    }
  }

  /// A write that was forced through has succeeded: nothing older is left of its sectors.
  mutating func forced(_ sectors: Range<Int>) {
    for sector in sectors {
      guard let last = versions[sector].lastIndex(where: \.isCertain) else { continue }
      versions[sector].removeSubrange(0..<last)
    }
    unsettled.removeAll { versions[$0].count == 1 }
  }

  /// After a power cut a sector holds a stamp; nil is fine, else what it could have held.
  mutating func survived(_ stamp: UInt64, in sector: Int) -> [UInt64]? {
    guard versions[sector].contains(where: { $0.stamp == stamp }) else { return versions[sector].map(\.stamp) }
    versions[sector] = [Version(stamp: stamp, time: time, isCertain: true)]
    return nil
  }

  /// All sectors have been settled.
  mutating func settleAll() { unsettled = [] }
}
