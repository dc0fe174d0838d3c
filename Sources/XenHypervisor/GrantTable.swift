// SPDX-License-Identifier: MIT

public import CLinux
public import GuestMemory
public import Synchronization
public import XenWire

/// A domain's grant table: real shared pages of entries, written by the granter, pinned by the hypervisor.
///
/// ```
///   reference   0 ... 7      8        9       10     ...
///             +----------+--------+--------+--------+----
///   entries   | reserved | flags domid frame | ...  |         shared pages (v1: 8 bytes an entry, v2: 16)
///             +----------+--------+--------+--------+----
///   active    | pins, latched frame and domain      |         the hypervisor's own, behind one lock
/// ```
///
/// The guest's verbs are here: taking references, granting, ending. They touch nothing but the shared pages. What the
/// hypervisor does on behalf of a mapper stands in `GrantTable+Pins.swift`.
///
/// **Invariants.** A flag word without `reading` means that nobody has the page mapped; pins and flags change together,
/// under the lock; frame and domain are latched at the first pin.
@safe public final class GrantTable: @unchecked Sendable {
  // SAFETY: the shared pages are mapped once and live as long as this object; all else is atomic or behind a lock.

  /// The granter.
  public let domain: DomainID
  /// The most frames that the table may grow to.
  public let maximumFrameCount: Int
  /// The entries as the granter sees them: all frames that the table may ever have.
  ///
  /// A guest may write what it likes here; the hypervisor trusts none of it.
  public let entries: SharedRegion
  /// The status words of version 2, one for each reference, 16 bits each.
  public let statusWords: SharedRegion

  let file: MemoryFile
  let mapping: MappedMemory
  let memoryPageCount: Int
  let maximumVersion: Int
  let faults: PlantedFaults
  @usableFromInline let currentVersion: Atomic<UInt32>
  let currentFrameCount: Atomic<Int>
  let references: RankedLock<FreeReferences>
  let active: RankedLock<ActiveEntries>

  init(domain: DomainID, memoryPageCount: Int, limits: DomainLimits, faults: PlantedFaults) throws(SystemError) {
    self.domain = domain
    self.memoryPageCount = memoryPageCount
    self.faults = faults
    maximumFrameCount = limits.grantFrames
    maximumVersion = limits.grantTableVersion
    let entryBytes = limits.grantFrames << PageGeometry.pageShift
    let statusBytes = PageGeometry.pages(for: limits.grantFrames * GrantEntryV2.perFrame * 2) << PageGeometry.pageShift
    file = try MemoryFile(name: "grants-\(domain)", byteCount: entryBytes + statusBytes)
    mapping = try file.map()
    entries = mapping.region.slice(at: 0, byteCount: entryBytes)
    statusWords = mapping.region.slice(at: entryBytes, byteCount: statusBytes)
    currentVersion = Atomic(1)
    currentFrameCount = Atomic(1)
    references = RankedLock(
      .references, FreeReferences(from: GrantReference.reservedCount, to: UInt32(GrantEntryV1.perFrame)))
    active = RankedLock(.granterTable, ActiveEntries(count: GrantEntryV1.perFrame))
  }

  /// The layout of the entries, 1 or 2 (`GNTTABOP_get_version`).
  @inlinable public var version: Int { Int(currentVersion.load(ordering: .relaxed)) }
  /// The number of frames that the table has now (`GNTTABOP_query_size`).
  public var frameCount: Int { currentFrameCount.load(ordering: .acquiring) }
  /// The number of references that the table has now.
  public var referenceCount: Int { frameCount * entriesPerFrame }
  /// One past the highest reference that the table may ever have, in its present layout.
  public var referenceLimit: Int { maximumFrameCount * entriesPerFrame }
  /// The number of references that are handed out.
  public var allocatedReferenceCount: Int { references.withLock { $0.takenCount } }

  var entriesPerFrame: Int { version == 1 ? GrantEntryV1.perFrame : GrantEntryV2.perFrame }

  // MARK: The guest's side

  /// Takes `count` free references, last freed first, and grows the table when they run out; all or nothing.
  /// - Throws: `.noSpace` when the table may not grow further.
  public func allocateReferences(_ count: Int) throws(GrantStatus) -> [GrantReference] {
    precondition(count >= 0, "a negative number of references")
    let taken = references.withLock { (free: inout FreeReferences) -> [GrantReference]? in
      if free.stack.count < count {
        let missing = count - free.stack.count
        let frames = frameCount + (missing + entriesPerFrame - 1) / entriesPerFrame
        guard grow(toFrames: frames) == .okay else { return nil }
        free.add(upTo: UInt32(referenceCount))
      }
      return (0..<count).map { _ in free.take() }
    }
    guard let taken else { throw .noSpace }
    return taken
  }

  /// Gives references back; access to them must have ended.
  public func freeReferences(_ list: [GrantReference]) {
    references.withLock { free in
      for reference in list {
        precondition(flags(of: reference).type == 0, "a reference given back while it still grants")
        precondition(!isMappedByPeer(reference), "a reference given back while a peer has its page")
        free.give(reference)
      }
    }
  }

  /// Lets `domain` map the page: domid and frame first, then a barrier, then the flags.
  @inlinable
  public func grantAccess(_ reference: GrantReference, to domain: DomainID, frame: FrameNumber, isReadOnly: Bool) {
    let flags: GrantFlags = isReadOnly ? .permitReading : .permitAccess
    let index = Int(reference.rawValue)
    if version == 1 {
      let entry = index * GrantEntryV1.byteCount
      precondition(frame.rawValue <= UInt64(UInt32.max), "a frame that a version 1 entry cannot name")
      entries.word16(at: entry + GrantEntryV1.domainOffset).storeReleasing(domain.rawValue)
      entries.word32(at: entry + GrantEntryV1.frameOffset).storeRelaxed(UInt32(truncatingIfNeeded: frame.rawValue))
      entries.word16(at: entry + GrantEntryV1.flagsOffset).storeReleasing(flags.rawValue)
    } else {
      let entry = index * GrantEntryV2.byteCount
      entries.word16(at: entry + GrantEntryV2.domainOffset).storeReleasing(domain.rawValue)
      entries.word64(at: entry + GrantEntryV2.frameOffset).storeReleasing(frame.rawValue)
      entries.word16(at: entry + GrantEntryV2.flagsOffset).storeReleasing(flags.rawValue)
    }
  }

  /// Ends access; false when the peer still has the page mapped.
  ///
  /// Version 1 is one compare-exchange from a word without marks to zero, and false means that nothing changed. Version 2
  /// clears the flags first and looks at the status word after a full barrier: false then means that nobody can map the
  /// page any more but somebody still has it.
  @inlinable
  public func endAccess(_ reference: GrantReference) -> Bool {
    let index = Int(reference.rawValue)
    if version == 1 {
      let word = entries.word16(at: index * GrantEntryV1.byteCount + GrantEntryV1.flagsOffset)
      var flags = word.loadAcquiring()
      while flags & GrantFlags.inUse.rawValue == 0 {
        let result = word.compareExchange(expected: flags, desired: 0)
        if result.exchanged { return true }
        flags = result.original
      }
      return false
    }
    entries.word16(at: index * GrantEntryV2.byteCount + GrantEntryV2.flagsOffset).storeReleasing(0)
    pv_full_barrier()
    return statusWords.word16(at: index * 2).loadAcquiring() & GrantFlags.inUse.rawValue == 0
  }

  /// Whether a peer has the page mapped at this instant.
  @inlinable
  public func isMappedByPeer(_ reference: GrantReference) -> Bool {
    let index = Int(reference.rawValue)
    let word =
      version == 1
      ? entries.word16(at: index * GrantEntryV1.byteCount + GrantEntryV1.flagsOffset)
      : statusWords.word16(at: index * 2)
    return word.loadAcquiring() & GrantFlags.inUse.rawValue != 0
  }

  /// The flag word of an entry as it is now.
  public func flags(of reference: GrantReference) -> GrantFlags {
    let byteCount = version == 1 ? GrantEntryV1.byteCount : GrantEntryV2.byteCount
    return GrantFlags(rawValue: entries.word16(at: Int(reference.rawValue) * byteCount).loadAcquiring())
  }
}

/// The references that a guest has not handed out, last freed first.
struct FreeReferences: Sendable {
  var stack: [UInt32] = []
  private var isTaken: [Bool]
  private(set) var takenCount = 0

  init(from first: UInt32, to end: UInt32) {
    isTaken = Array(repeating: true, count: Int(first))
    add(upTo: end)
  }

  mutating func add(upTo end: UInt32) {
    let first = UInt32(isTaken.count)
    guard first < end else { return }
    isTaken.append(contentsOf: repeatElement(false, count: Int(end - first)))
    stack.insert(contentsOf: (first..<end).reversed(), at: 0)
  }

  mutating func take() -> GrantReference {
    let index = stack.removeLast()
    isTaken[Int(index)] = true
    takenCount += 1
    return GrantReference(rawValue: index)
  }

  mutating func give(_ reference: GrantReference) {
    let index = Int(reference.rawValue)
    precondition(
      reference.rawValue >= GrantReference.reservedCount && index < isTaken.count && isTaken[index],
      "a reference given back that was not taken")
    isTaken[index] = false
    takenCount -= 1
    stack.append(reference.rawValue)
  }
}
