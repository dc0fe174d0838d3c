// SPDX-License-Identifier: MIT

import BlockBack
import BlockFront
public import SharedRing
import XenBus
import XenHypervisor
public import XenWire

/// What a world is made with; all of it follows from the seed.
public struct WorldPlan: Sendable {
  /// The seed.
  public let seed: UInt64
  /// Ring requests after which the world comes to rest.
  public let requestCount: Int
  /// The ring's layout.
  public let blockProtocol: BlockProtocol
  var mapping: MappingStrategy
  let frontendKnobs: FrontendKnobs
  let backendKnobs: BackendKnobs
  let isBackendTrusted: Bool
  let device: VirtualDevice
  /// Bugs of the two ends.
  public var faults = RingFaults()
  /// A defect of the world itself.
  public var sabotage: Sabotage?
  let rates: [Misfortune: Int]

  static let sectorCount = 1024
  static let bufferByteCount = 64 << 10
  static let ownBuffers = 8
  static let foreignBuffers = 4

  /// Has no real mappings, for worlds with a planted bug: it touches what is not mapped any more, which ends the process.
  public mutating func avoidRealMappings() { mapping = .alias }

  /// Makes the plan of a seed.
  public init(seed: UInt64, requestCount: Int) {
    let chance = Chance(seed: seed ^ 0x5EED)
    self.seed = seed
    self.requestCount = requestCount
    blockProtocol = [.x86_64, .x86_64, .x86_32, .arm][chance.below(4)]
    mapping = chance.oneIn(8) ? .remap : .alias
    var front = FrontendKnobs()
    front.featurePersistent = !chance.oneIn(3)
    front.maxIndirectSegments = [0, 16, 32, 64][chance.below(4)]
    front.maxQueues = 1
    front.maxRingPageOrder = chance.oneIn(4) ? 1 : 0
    if chance.oneIn(2) {
      front.rings.variant = RingVariant.allCases[chance.below(RingVariant.allCases.count)]
      front.rings.segmentsPerRequest = 11 + chance.below(60)
      front.rings.segmentEntrySize = chance.oneIn(2) ? 6 : 8
      front.rings.isSplit = chance.oneIn(3)
      front.rings.indexPlacement = chance.oneIn(2) ? .apart : .together
      front.rings.usesWholePage = chance.oneIn(3)
      front.rings.alignment = [0, 64, 128][chance.below(3)]
    }
    frontendKnobs = front
    var back = BackendKnobs()
    back.featurePersistent = !chance.oneIn(4)
    back.maxIndirectSegments = chance.oneIn(4) ? 0 : 32
    back.maxPersistentGrants = [8, 64, 1056, 4096][chance.below(4)]
    back.persistentGrantUnusedSeconds = chance.oneIn(2) ? 60 : 1
    back.purgePolicy = chance.oneIn(2) ? .linux : .leastRecentlyUsed
    if !chance.oneIn(8) { back.rings = .everything }
    backendKnobs = back
    isBackendTrusted = !chance.oneIn(4)
    guard let device = VirtualDevice("xvda") else { preconditionFailure("xvda is a device") }
    self.device = device
    let isRough = !chance.oneIn(3)
    rates = [
      .mapping: isRough ? chance.below(30) : 0, .ringMapping: isRough ? chance.below(300) : 0,
      .binding: isRough ? chance.below(150) : 0, .allocation: isRough ? chance.below(150) : 0,
      .storeCall: isRough ? chance.below(30) : 0, .disk: isRough ? chance.below(60) : 0,
      .lateEvent: chance.below(500), .spuriousEvent: chance.below(100),
    ]
  }
}

/// What came of a world.
public struct WorldReport: Sendable {
  /// I/Os that finished, well or not.
  public var ios: UInt64 = 0
  /// Ring requests that they became.
  public var requests: UInt64 = 0
  /// I/Os that ended with an error.
  public var failedIOs: UInt64 = 0
  /// Connections made.
  public var attaches: UInt64 = 0
  /// Connections that luck did not let come about.
  public var failedAttaches: UInt64 = 0
  /// Backends, frontends, processes and machines that died.
  public var deaths: UInt64 = 0
  /// Power cuts among them.
  public var powerCuts: UInt64 = 0
  /// Flushes that succeeded.
  public var flushes: UInt64 = 0
  /// Misfortunes of all kinds.
  public var misfortunes: UInt64 = 0
  /// A digest of all that happened.
  public var digest: UInt64 = 0

  /// Nothing yet.
  public init() {}

  /// Adds another world's numbers.
  public mutating func add(_ other: WorldReport) {
    ios += other.ios
    requests += other.requests
    failedIOs += other.failedIOs
    attaches += other.attaches
    failedAttaches += other.failedAttaches
    deaths += other.deaths
    powerCuts += other.powerCuts
    flushes += other.flushes
    misfortunes += other.misfortunes
    digest = (digest ^ other.digest) &* 0x0100_0000_01B3
  }
}

/// A world in which something happened that must never happen.
public struct BrokenWorld: Error, CustomStringConvertible, Sendable {
  /// The seed.
  public let seed: UInt64
  /// What happened.
  public let sentence: String
  /// The seed and the sentence.
  public var description: String { "\(sentence); again with PVDISK_SEED=\(seed)" }
}
