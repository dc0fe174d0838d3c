// SPDX-License-Identifier: MIT

/// A bug of xenstored's past, named for the Xen advisory, that a debug build can be told to have again.
///
/// A test that finds nothing proves little; each test of an advisory is also run with its bug, and must then fail.
enum StoreFault: UInt64, CaseIterable, Sendable {
  /// XSA-38: the distance between a ring's indices is believed.
  case ringDistanceUnchecked
  /// XSA-72: a reply is sent however long it is.
  case longReplySent
  /// XSA-115: a watch tells of nodes that its owner may not read.
  case watchesTellAll
  /// XSA-206: a write that may make another's transaction fail costs nothing.
  case writesAreFree
  /// XSA-233: a device model keeps the rights of a guest that is gone.
  case targetOutlivesGuest
  /// XSA-272: a quota is compared with what is, not with what will be.
  case quotaOfThePast
  /// XSA-322, XSA-417: an entry is about whoever bears the number.
  case rightsOutliveDomain
  /// XSA-323: a path's length is judged before its prefix is known.
  case lengthBeforePrefix
  /// XSA-324: an event is queued however long it is.
  case longEventQueued
  /// XSA-325: a guest that breaks the protocol is forgotten.
  case violatorForgotten
  /// XSA-326: a guest that does not read is listened to.
  case deafGuestServed
  /// XSA-326, XSA-349: an event that waits already is queued again.
  case eventsNotMerged
  /// XSA-330: a reset leaves watches in the second index.
  case secondIndexKept
  /// XSA-352, XSA-353: the root's permissions are not looked at.
  case rootUnchecked
  /// XSA-414, 415, 416, 421: a transaction with a failed step can be committed.
  case failedStepCommits
  /// XSA-419: what a guest owned outside its home stays.
  case orphansStay
  /// XSA-420: a length is a signed number.
  case lengthIsSigned
  /// XSA-481: a slash at the end of a path is ignored.
  case trailingSlashIgnored
  /// XSA-483: a domain's debts are charged to the next one under its number.
  case debtsOutliveDomain
  /// XSA-484: a reset inside a transaction stops the process.
  case resetInsideTraps
}

/// The bugs that one store was told to have.
///
/// Release builds cannot be told: there the set holds nothing, the answer is a constant and the branches vanish.
struct StoreFaults: Sendable {
  #if DEBUG
    private var bits: UInt64 = 0

    init(_ faults: StoreFault...) {
      for fault in faults { bits |= 1 << fault.rawValue }
    }

    func has(_ fault: StoreFault) -> Bool { bits & (1 << fault.rawValue) != 0 }
    static var canBePlanted: Bool { true }
  #else
    init(_ faults: StoreFault...) {}

    @inline(__always) func has(_ fault: StoreFault) -> Bool { false }
    static var canBePlanted: Bool { false }
  #endif
}
