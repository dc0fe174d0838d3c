// SPDX-License-Identifier: MIT

/// A bug of the past, named for the Xen advisory, that a debug build can be told to have again.
///
/// A test that finds nothing proves little; each test of an advisory is also run with its bug, and must then fail.
enum PlantedFault: UInt64, CaseIterable, Sendable {
  /// XSA-18, XSA-134: a reference is compared with what the table may become, not with what it is.
  case rangeOfFutureTable
  /// XSA-24: a batch stops before its last element.
  case batchEndsEarly
  /// XSA-26 and its kin: the layout of entries changes while entries are pinned.
  case versionChangeIgnoresPins
  /// XSA-73: the mapper's table is locked before the granter's.
  case lockOrderInverted
  /// XSA-218: the marks go with the first of several unmaps.
  case marksGoWithFirstUnmap
  /// XSA-218: a handle that is being freed is freed again.
  case closingHandleIsLive
  /// XSA-224: the unmap of a mapping for host and device forgets the device.
  case devicePinForgotten
  /// XSA-226, XSA-318, XSA-411: a refused batch leaves statuses unwritten.
  case statusUnwritten
  /// XSA-228: a handle stays on the free list when it is taken.
  case handleStaysFree
  /// XSA-230, XSA-236: marks and pins go before the page is out of reach.
  case unpinnedBeforeUnmapped
  /// XSA-232: a dead domain's table is used.
  case deadTableUsed
  /// XSA-295: the flag word is tried until it holds still.
  case unboundedTries
  /// XSA-316: a mark that failed counts as set.
  case failedMarkIsOkay
  /// XSA-380, XSA-394: a domain's mappings are undone in one piece.
  case teardownInOnePiece
  /// XSA-382: a capacity in frames is taken for one in handles.
  case capacityInFrames
  /// XSA-448: a copy of nothing looks at its arguments.
  case emptyCopyIsChecked
  /// XSA-500: a copy reads the frame again after it was judged.
  case copyReadsFrameAgain

  /// XSA-47: a bind takes its port before it is allowed.
  case portTakenBeforeChecks
  /// XSA-107 and its kin: an event array page is announced before it is there.
  case arrayPageAnnouncedEarly
  /// XSA-221: a port out of range is looked up.
  case portRangeUnchecked
  /// XSA-317: a port is kept whose opening failed half-way.
  case halfOpenPortKept
  /// XSA-343: a reset answers done while ports are open.
  case resetIgnoresOpenPorts
  /// XSA-344: all ports are closed in one piece.
  case portsClosedInOnePiece
  /// XSA-342: the last port is beyond the limit.
  case limitIsOffByOne
  /// XSA-496: a bind without a free port undoes what it never did.
  case exhaustionUndone
}

/// A moment inside an operation, at which a test may look or interfere.
enum HypervisorStep: Equatable, Sendable {
  /// The flag word of an entry was read and is about to be changed.
  case marking
  /// Foreign pages are out of reach, their pins are still held.
  case unmapped
  /// A slice of a domain's mappings was undone.
  case mappingSlice(Int)
  /// Both pages of a copy are pinned.
  case copying
  /// A slice of a domain's ports was closed.
  case portSlice(Int)
  /// A page of event words is about to be counted.
  case expanding
}

/// The bugs that one hypervisor was told to have, and who watches it.
///
/// Release builds cannot be told: there the set holds nothing, the answer is a constant and the branches vanish.
struct PlantedFaults: Sendable {
  #if DEBUG
    private var bits: UInt64 = 0
    private var watcher: (@Sendable (HypervisorStep) -> Void)?

    init(_ faults: PlantedFault..., watcher: (@Sendable (HypervisorStep) -> Void)? = nil) {
      for fault in faults { bits |= 1 << fault.rawValue }
      self.watcher = watcher
    }

    func has(_ fault: PlantedFault) -> Bool { bits & (1 << fault.rawValue) != 0 }
    func reach(_ step: HypervisorStep) { watcher?(step) }
  #else
    init() {}

    @inline(__always) func has(_ fault: PlantedFault) -> Bool { false }
    @inline(__always) func reach(_ step: HypervisorStep) {}
  #endif
}
