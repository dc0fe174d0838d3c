// SPDX-License-Identifier: MIT

public import BlockBack
import BlockFront
public import SharedRing
public import XenBus
public import XenWire

/// Which thread runs which end of a queue.
public enum Placement: String, Sendable, CaseIterable {
  /// Both ends on the thread that uses the disk: an event is a look at a word.
  case inline
  /// Each end on a thread of its own: an event may have to wake somebody.
  case threads
}

/// How a disk is attached.
public struct DiskConfiguration: Equatable, Sendable {
  /// `xvda` and so on.
  public var device = "xvda"
  /// Queues asked for.
  public var queues = 1
  /// Pages in each ring: 1, 2, 4, 8 or 16.
  public var ringPages = 1
  /// Segments of a request: up to 11 uses direct requests alone.
  public var indirectSegments = 256
  /// Whether the frontend keeps its grants.
  public var frontPersistent = true
  /// Whether the backend keeps its mappings.
  public var backPersistent = true
  /// The ring's ABI.
  public var blockProtocol = BlockProtocol.x86_64
  /// The form of the rings that the frontend chooses, as far as the backend offers it.
  public var rings = RingWish()
  /// What the backend offers; nil: everything when the frontend wishes anything, and else nothing, as Linux does.
  public var offer: RingOffer?
  /// How the frontend waits for responses.
  public var frontNotify = NotificationPolicy.holdOff
  /// How the backend waits for requests and announces responses.
  public var backNotify = NotificationPolicy.holdOff
  /// Whether writing is refused.
  public var isReadOnly = false
  /// The settings of the backend; nil: those that let it do what the frontend is asked to do.
  public var backend: BackendKnobs?
  /// Whether the medium can be changed: a CD-ROM drive, which is read-only.
  public var isRemovable = false
  /// Bytes in a physical sector, whatever the image's host has; nil: as there.
  public var physicalSectorSize: Int?
  /// Which thread runs which end.
  public var placement = Placement.inline
  /// `max_persistent_grants` of each ring: pages that the backend keeps mapped.
  ///
  /// Linux's number by default, which is every page of a one-page ring full of requests of 32 segments.
  public var maxPersistentGrants = BackendKnobs().maxPersistentGrants
  /// `persistent_grant_unused_seconds`.
  public var persistentGrantUnusedSeconds = 60
  /// Which mappings make room in a full cache.
  public var purgePolicy = PurgePolicy.linux
  /// Whether the frontend lets the backend at its user's pages; false copies all data.
  public var isBackendTrusted = true
  /// The most nanoseconds that a thread looks before it sleeps, in `threads` placement.
  public var spinNanoseconds: UInt64 = 50_000
  /// What the store calls the source of the disk.
  public var params = ""
  /// `phy` for a block device, `file` for an image.
  public var type = "file"

  /// The defaults.
  public init() {}

  /// The sentence that says what is wrong, or nil.
  public var complaint: String? {
    if !(1...32).contains(queues) { return "--queues must be between 1 and 32, not \(queues)" }
    if ![1, 2, 4, 8, 16].contains(ringPages) { return "--ring-pages must be 1, 2, 4, 8 or 16, not \(ringPages)" }
    if !(0...BlockLimits.indirectSegments).contains(indirectSegments) {
      return "--indirect-segments must be between 0 and \(BlockLimits.indirectSegments), not \(indirectSegments)"
    }
    if maxPersistentGrants < 0 {
      return "--max-persistent-grants must not be negative, as \(maxPersistentGrants) is"
    }
    if let size = physicalSectorSize, size < 512 || size > 1 << 20 || size & (size - 1) != 0 {
      return "--physical-sector-size must be a power of two from 512 to 1M, not \(size)"
    }
    return ringComplaint
  }

  var frontendKnobs: FrontendKnobs {
    var knobs = FrontendKnobs()
    knobs.maxQueues = queues
    knobs.maxRingPageOrder = ringPages.trailingZeroBitCount
    knobs.maxIndirectSegments = indirectSegments
    knobs.featurePersistent = frontPersistent
    knobs.trusted = isBackendTrusted
    knobs.rings = rings
    knobs.notify = frontNotify
    return knobs
  }

  var backendKnobs: BackendKnobs {
    if let backend { return backend }
    var knobs = BackendKnobs()
    knobs.maxQueues = max(queues, knobs.maxQueues)
    knobs.maxIndirectSegments = indirectSegments <= BlockLimits.directSegments ? 0 : indirectSegments
    knobs.featurePersistent = backPersistent
    knobs.rings = effectiveOffer
    knobs.notify = backNotify
    knobs.maxPersistentGrants = maxPersistentGrants
    knobs.persistentGrantUnusedSeconds = persistentGrantUnusedSeconds
    knobs.purgePolicy = purgePolicy
    return knobs
  }
}
