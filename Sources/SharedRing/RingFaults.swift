// SPDX-License-Identifier: MIT

public import XenWire

/// A bug of the past in a ring, a frontend or a backend, named for the Xen advisory, that a debug build can be told to have
/// again.
///
/// A test that finds nothing proves little; each test of an advisory is also run with its bug, and must then fail.
public enum RingFault: UInt64, CaseIterable, Sendable {
  /// XSA-155, 166, 197: a slot is read a second time after it was judged.
  case slotReadAgain
  /// XSA-216: a response carries whatever was in memory where its padding is.
  case paddingUncleared
  /// XSA-229: pieces of memory are joined that are not adjacent.
  case strangersMerged
  /// XSA-365: a page that was mapped makes up for an earlier one that was not.
  case lastMappingDecides
  /// XSA-371: a request that failed never lets go of its kept pages.
  case failureKeepsPages
  /// XSA-361, 362, 367: a page that cannot be mapped stops the process.
  case failedMappingStops
  /// XSA-396: a page whose access could not be ended counts as free.
  case accessEndedByForce
  /// XSA-403: a page is shown with what it held before.
  case stalePageShown
  /// XSA-403: pages are granted that an untrusted backend has no business with.
  case userPagesGranted
  /// The 2021 hardening of blkfront: the operation that a response names is not compared with what was asked.
  case answersUnchecked
  /// XSA-38, XSA-86: the distance between two indices is believed.
  case producerUnchecked
  /// XSA-423, 424, 432, 448: a transfer of nothing is carried out.
  case emptyTransferStarts
  /// XSA-350: a connection that ends leaves its event channel behind.
  case portKept
  /// XSA-142, 175, 178, 266: mode and place of a disk are read where the frontend can write.
  case frontendDecidesMode
  /// XSA-332, 391: events without work cost their sender nothing.
  case stormsAreFree
}

/// The bugs that one end was told to have.
///
/// Release builds cannot be told: there the set holds nothing, the answer is a constant and the branches vanish.
public struct RingFaults: Sendable {
  #if DEBUG
    private var bits: UInt64 = 0

    /// Has these bugs.
    public init(_ faults: RingFault...) {
      for fault in faults { bits |= 1 << fault.rawValue }
    }

    /// Whether this bug was planted.
    public func has(_ fault: RingFault) -> Bool { bits & (1 << fault.rawValue) != 0 }
    /// Whether this build can be told to have bugs.
    public static var canBePlanted: Bool { true }
  #else
    /// Has no bugs, whatever it is told.
    @inlinable public init(_ faults: RingFault...) {}

    /// Always false.
    @inlinable @inline(__always)
    public func has(_ fault: RingFault) -> Bool { false }
    /// Whether this build can be told to have bugs.
    @inlinable public static var canBePlanted: Bool { false }
  #endif
}

extension BackRing {
  /// Copies the request that was taken last once more: for a planted bug alone.
  public mutating func copyLastRequestAgain<Format: RingFormat>(into slot: inout RequestSlot<Format>) {
    consumed = consumed.advanced(by: .max)
    requestCursor = layout.requestCursor(consumed)
    copyRequest(into: &slot)
  }
}
