// SPDX-License-Identifier: MIT

import CLinux
import GuestMemory
import Synchronization
public import XenWire

/// Why a domain may not choose a layout of its grant entries.
public enum GrantVersionError: Error, Equatable, Sendable {
  /// There is no such layout.
  case unknownVersion
  /// The domain's limits keep it from that layout.
  case notAllowed
  /// References are handed out, or entries are pinned.
  case inUse
}

/// Version 2: wider entries, sub-page grants, and the hypervisor's marks in status words of their own.
///
/// ```
///   entries       | flags domid page_off length frame |     the granter's; the hypervisor only reads
///   status words  | reading writing |                       the hypervisor's; the granter only reads
/// ```
/// Marking is: set the status, full barrier, look at the flags again. Ending is: clear the flags, full barrier, look at the
/// status. One of the two sees the other.
///
/// Transitive grants are refused like an entry of a type that does not exist: they serve nothing here, and most of the faults
/// ever found in version 2 were theirs.
extension GrantTable {
  // MARK: The guest's side

  /// Chooses the layout of the entries (`GNTTABOP_set_version`); entries other than the reserved ones are forgotten.
  /// - Throws: ``GrantVersionError``; the table is as it was then.
  public func setVersion(_ wanted: Int) throws(GrantVersionError) {
    guard wanted == 1 || wanted == 2 else { throw .unknownVersion }
    guard wanted <= maximumVersion else { throw .notAllowed }
    try references.withLock { (free: inout FreeReferences) throws(GrantVersionError) in
      guard free.takenCount == 0 else { throw .inUse }
      try active.withLock { (state: inout ActiveEntries) throws(GrantVersionError) in
        guard state.pinnedCount == 0 || faults.has(.versionChangeIgnoresPins) else { throw .inUse }
        guard wanted != version else { return }
        convertReservedEntries(to: wanted)
        currentVersion.store(UInt32(wanted), ordering: .sequentiallyConsistent)
        state.entries = Array(repeating: ActiveEntry(), count: frameCount * entriesPerFrame)
      }
      free = FreeReferences(from: GrantReference.reservedCount, to: UInt32(frameCount * entriesPerFrame))
    }
  }

  /// The number of frames of status words that go with the table (`GNTTABOP_get_status_frames`); none in version 1.
  public var statusFrameCount: Int {
    version == 1 ? 0 : (referenceCount + GrantEntryV2.statusPerFrame - 1) / GrantEntryV2.statusPerFrame
  }

  /// Lets `domain` copy a part of a page, and never map it; version 2 only.
  public func grantSubPage(
    _ reference: GrantReference, to domain: DomainID, frame: FrameNumber, offset: Int, byteCount: Int,
    isReadOnly: Bool
  ) {
    precondition(version == 2, "sub-page grants need version 2")
    precondition(offset >= 0 && byteCount > 0 && offset + byteCount <= PageGeometry.pageSize, "outside the page")
    let entry = Int(reference.rawValue) * GrantEntryV2.byteCount
    let flags: GrantFlags = isReadOnly ? [.permitAccess, .subPage, .readOnly] : [.permitAccess, .subPage]
    entries.word16(at: entry + GrantEntryV2.domainOffset).storeReleasing(domain.rawValue)
    entries.word16(at: entry + GrantEntryV2.pageOffsetOffset).storeReleasing(UInt16(offset))
    entries.word16(at: entry + GrantEntryV2.lengthOffset).storeReleasing(UInt16(byteCount))
    entries.word64(at: entry + GrantEntryV2.frameOffset).storeReleasing(frame.rawValue)
    entries.word16(at: entry + GrantEntryV2.flagsOffset).storeReleasing(flags.rawValue)
  }

  // MARK: The hypervisor's side

  /// Keeps what the reserved entries grant, and forgets all else; runs while nothing is pinned.
  private func convertReservedEntries(to wanted: Int) {
    let kept = (0..<Int(GrantReference.reservedCount)).map { index -> (UInt16, UInt16, UInt64) in
      if version == 1 {
        let entry = index * GrantEntryV1.byteCount
        return (
          entries.word16(at: entry).loadAcquiring(), entries.word16(at: entry + 2).loadAcquiring(),
          UInt64(entries.word32(at: entry + GrantEntryV1.frameOffset).loadAcquiring())
        )
      }
      let entry = index * GrantEntryV2.byteCount
      return (
        entries.word16(at: entry).loadAcquiring(), entries.word16(at: entry + 2).loadAcquiring(),
        entries.word64(at: entry + GrantEntryV2.frameOffset).loadAcquiring()
      )
    }
    entries.fill(0, at: 0, byteCount: frameCount << PageGeometry.pageShift)
    statusWords.fill(0)
    for (index, (flags, domain, frame)) in kept.enumerated() {
      let isPlain = flags & (GrantFlags.typeMask | GrantFlags.subPage.rawValue) == GrantFlags.permitAccess.rawValue
      guard isPlain, wanted == 2 || frame <= UInt64(UInt32.max) else { continue }
      let entry = index * (wanted == 1 ? GrantEntryV1.byteCount : GrantEntryV2.byteCount)
      entries.word16(at: entry + 2).storeReleasing(domain)
      if wanted == 1 {
        entries.word32(at: entry + GrantEntryV1.frameOffset).storeRelaxed(UInt32(truncatingIfNeeded: frame))
      } else {
        entries.word64(at: entry + GrantEntryV2.frameOffset).storeReleasing(frame)
      }
      entries.word16(at: entry).storeReleasing(flags & ~GrantFlags.inUse.rawValue)
    }
  }

  /// Sets the marks in the status word; answers the flags that it judged, or why the entry does not allow it.
  func markVersion2(_ index: Int, for use: EntryUse) -> Result<GrantFlags, GrantStatus> {
    let header = entries.word32(at: index * GrantEntryV2.byteCount)
    guard Self.allows(use, header: header.loadAcquiring()) else { return .failure(.generalError) }
    setStatus(use.marks, of: index)
    pv_full_barrier()
    let seen = header.loadAcquiring()
    guard Self.allows(use, header: seen) else {
      clearMarksVersion2(use.isPinned ? .writing : [.reading, .writing], of: index)
      return .failure(.generalError)
    }
    return .success(GrantFlags(rawValue: UInt16(truncatingIfNeeded: seen)))
  }

  private static func allows(_ use: EntryUse, header: UInt32) -> Bool {
    let flags = GrantFlags(rawValue: UInt16(truncatingIfNeeded: header))
    if !use.isReadOnly && flags.contains(.readOnly) { return false }
    if use.isPinned { return true }
    return flags.type == GrantFlags.permitAccess.rawValue && (use.isCopy || !flags.contains(.subPage))
      && UInt16(header >> 16) == use.mapper.rawValue
  }

  /// Reads what a version 2 entry names, each field once; `flags` are those that were judged.
  func latchVersion2(_ index: Int, flags: GrantFlags, for mapper: DomainID) -> ActiveEntry {
    let entry = index * GrantEntryV2.byteCount
    var latched = ActiveEntry(domain: mapper)
    latched.frame = entries.word64(at: entry + GrantEntryV2.frameOffset).loadAcquiring()
    if flags.contains(.subPage) {
      latched.isSubPage = true
      latched.start = entries.word16(at: entry + GrantEntryV2.pageOffsetOffset).loadAcquiring()
      latched.length = entries.word16(at: entry + GrantEntryV2.lengthOffset).loadAcquiring()
    }
    return latched
  }

  private func setStatus(_ marks: GrantFlags, of index: Int) {
    let word = statusWords.word16(at: index * 2)
    word.storeReleasing(word.loadAcquiring() | marks.rawValue)
  }

  func clearMarksVersion2(_ marks: GrantFlags, of index: Int) {
    let word = statusWords.word16(at: index * 2)
    word.storeReleasing(word.loadAcquiring() & ~marks.rawValue)
  }
}
