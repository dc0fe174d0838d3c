// SPDX-License-Identifier: MIT

import GuestMemory
import Synchronization
public import XenWire

/// One end of a grant copy: a page, and where in it.
public struct GrantCopyEnd: Equatable, Sendable {
  /// What names the page.
  public enum Page: Equatable, Sendable {
    /// A grant of the domain.
    case reference(GrantReference)
    /// A page of the caller's own memory.
    case frame(FrameNumber)
  }

  /// The page.
  public var page: Page
  /// Whose it is; `.ownSelf` is the caller.
  public var domain: DomainID
  /// The first byte.
  public var offset: Int

  /// Names bytes of a page.
  public init(_ page: Page, of domain: DomainID, offset: Int = 0) {
    self.page = page
    self.domain = domain
    self.offset = offset
  }
}

/// One element of a grant copy (Xen grant_table.h, `struct gnttab_copy`): the hypervisor moves bytes between two pages.
public struct GrantCopyOperation: Equatable, Sendable {
  /// Where the bytes come from.
  public var source: GrantCopyEnd
  /// Where they go to; may be a third domain's page.
  public var destination: GrantCopyEnd
  /// How many; they may not leave either page.
  public var byteCount: Int
  /// How it went; written by ``Hypervisor/copy(_:for:)`` in every case.
  public var status: GrantStatus

  /// Describes a copy.
  public init(
    from source: GrantCopyEnd, to destination: GrantCopyEnd, byteCount: Int, status: GrantStatus = .generalError
  ) {
    self.source = source
    self.destination = destination
    self.byteCount = byteCount
    self.status = status
  }
}

extension Hypervisor {
  /// Copies on behalf of `caller` (`GNTTABOP_copy`); each element has a status of its own.
  ///
  /// Both pages are pinned only for the duration of one element. A copy of no bytes succeeds and looks at nothing.
  public func copy(_ operations: inout MutableSpan<GrantCopyOperation>, for caller: Domain) {
    for index in operations.indices {
      let operation = operations[index]
      do throws(GrantStatus) {
        if operation.byteCount != 0 || faults.has(.emptyCopyIsChecked) { try copyOne(operation, for: caller) }
        operations[index].status = .okay
      } catch {
        operations[index].status = error
      }
    }
  }

  private func copyOne(_ operation: GrantCopyOperation, for caller: Domain) throws(GrantStatus) {
    let sourceOwner = try owner(of: operation.source, for: caller)
    let destinationOwner = try owner(of: operation.destination, for: caller)
    let source = try claim(operation.source, of: sourceOwner, for: caller, isReadOnly: true)
    defer { release(source, of: sourceOwner) }
    let destination = try claim(operation.destination, of: destinationOwner, for: caller, isReadOnly: false)
    defer { release(destination, of: destinationOwner) }
    let pageSize = PageGeometry.pageSize
    let count = operation.byteCount
    guard count > 0, count <= pageSize, operation.source.offset >= 0, operation.destination.offset >= 0,
      operation.source.offset <= pageSize - count, operation.destination.offset <= pageSize - count
    else { throw .badCopyArgument }
    guard source.contains(operation.source.offset, count), destination.contains(operation.destination.offset, count)
    else { throw .generalError }
    faults.reach(.copying)
    let frame = faults.has(.copyReadsFrameAgain) ? frameNow(source, of: sourceOwner) : source.range.frame
    guard let from = sourceOwner.memory.page(FrameNumber(rawValue: frame)),
      let to = destinationOwner.memory.page(FrameNumber(rawValue: destination.range.frame))
    else { throw .badPage }
    Self.move(
      from.slice(at: operation.source.offset, byteCount: count),
      to: to.slice(at: operation.destination.offset, byteCount: count))
  }

  /// The bug of XSA-500: what the entry says now, not what was judged.
  private func frameNow(_ claim: CopyClaim, of owner: Domain) -> UInt64 {
    guard let reference = claim.reference else { return claim.range.frame }
    let entry = Int(reference.rawValue) * GrantEntryV1.byteCount
    return UInt64(owner.grantTable.entries.word32(at: entry + GrantEntryV1.frameOffset).loadAcquiring())
  }

  /// The domain that an end names, if the caller may have to do with it.
  private func owner(of end: GrantCopyEnd, for caller: Domain) throws(GrantStatus) -> Domain {
    if end.domain == .ownSelf { return caller }
    if case .frame = end.page { throw .permissionDenied }
    guard let domain = domain(end.domain) else { throw .badDomain }
    guard domain.policy.allows(caller.id) || domain === caller else { throw .permissionDenied }
    return domain
  }

  private func claim(
    _ end: GrantCopyEnd, of owner: Domain, for caller: Domain, isReadOnly: Bool
  ) throws(GrantStatus) -> CopyClaim {
    switch end.page {
    case .frame(let frame):
      guard owner.memory.page(frame) != nil else { throw .badPage }
      return CopyClaim(range: PinnedRange(frame: frame.rawValue, start: 0, end: PageGeometry.pageSize))
    case .reference(let reference):
      let increment = isReadOnly ? GrantPins.hostRead : GrantPins.hostWrite
      let table = owner.grantTable
      let pinned = table.active.withLock { active in
        table.pin(reference, by: caller.id, increment: increment, isReadOnly: isReadOnly, isCopy: true, in: &active)
      }
      return CopyClaim(range: try pinned.get(), reference: reference, increment: increment)
    }
  }

  private func release(_ claim: CopyClaim, of owner: Domain) {
    guard let reference = claim.reference else { return }
    let table = owner.grantTable
    table.active.withLock { active in table.unpin(reference, increment: claim.increment, in: &active) }
  }

  private static func move(_ source: SharedRegion, to destination: SharedRegion) {
    // SAFETY: both regions are as long as the shorter of them and mapped; `memmove` allows them to overlap.
    unsafe destination.withUnsafeBytes { to in
      unsafe source.withUnsafeBytes { from in unsafe to.copyMemory(from: UnsafeRawBufferPointer(from)) }
    }
  }
}

/// A page that one end of a copy holds for its duration.
private struct CopyClaim {
  var range: PinnedRange
  var reference: GrantReference?
  var increment: UInt32 = 0

  func contains(_ offset: Int, _ count: Int) -> Bool { offset >= range.start && offset + count <= range.end }
}
