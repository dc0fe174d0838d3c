// SPDX-License-Identifier: MIT

public import XenStore
public import XenWire

/// What a backend can do beyond the classic protocol; all of it is off in a backend that wants to look like Linux's.
public struct RingOffer: Equatable, Sendable {
  /// `wide`: the most segments of a slot; 0: not offered.
  public var maxRequestSegments = 0
  /// `segment-ring`.
  public var hasSegmentRing = false
  /// `slim64`: the highest version of the request's size; 0: not offered.
  public var requestSizeVersion = 0
  /// `slim32`.
  public var hasIndirectDescriptors = false
  /// Split rings.
  public var canSplit = false
  /// Slots that are no power of two.
  public var canUseWholePage = false
  /// The largest alignment; 0: none.
  public var maxAlignment = 0
  /// The best protection: off, slot, or sector, which includes slot.
  public var protection = RingProtection.off
  /// What tuples may be like; type 1 with a CRC is always among them.
  public var protectionProfiles: Set<RingProtectionProfile> = [.standard]

  /// The classic protocol alone.
  public init() {}

  /// Everything that this backend can do.
  public static let everything: RingOffer = {
    var offer = RingOffer()
    offer.maxRequestSegments = 256
    offer.hasSegmentRing = true
    offer.requestSizeVersion = 1
    offer.hasIndirectDescriptors = true
    offer.canSplit = true
    offer.canUseWholePage = true
    offer.maxAlignment = 128
    offer.protection = .sector
    offer.protectionProfiles = Set(RingProtectionProfile.all)
    return offer
  }()

  /// Every modifier, and one variant beside the classic one.
  public static func only(_ variant: RingVariant) -> RingOffer {
    var offer = everything
    if variant != .wide { offer.maxRequestSegments = 0 }
    if variant != .segmentRing { offer.hasSegmentRing = false }
    if variant != .slim64 { offer.requestSizeVersion = 0 }
    if variant != .slim32 { offer.hasIndirectDescriptors = false }
    return offer
  }

  /// Whether a variant is offered.
  public func offers(_ variant: RingVariant) -> Bool {
    switch variant {
    case .classic: true
    case .wide: maxRequestSegments >= BlockLimits.directSegments
    case .segmentRing: hasSegmentRing
    case .slim64: requestSizeVersion >= 1
    case .slim32: hasIndirectDescriptors
    }
  }

  /// Reads what a backend wrote; what makes no sense counts as not offered.
  public init(reading backend: DeviceFolder) {
    let segments = backend.value(RingKey.maxRequestSegments)
    maxRequestSegments = segments >= UInt32(BlockLimits.directSegments) ? Int(min(segments, 256)) : 0
    hasSegmentRing = backend.value(RingKey.segmentRing)
    requestSizeVersion = Int(backend.value(RingKey.requestSize))
    hasIndirectDescriptors = backend.value(RingKey.indirectDescriptors)
    canSplit = backend.value(RingKey.separateRings) > 0
    canUseWholePage = backend.value(RingKey.wholePage)
    let alignment = Int(backend.value(RingKey.alignment))
    maxAlignment = alignment >= 128 ? 128 : alignment >= 64 ? 64 : 0
    protection = RingProtection(key: min(backend.value(RingKey.protection), 2)) ?? .off
    let profiles = backend.value(RingKey.protectionProfiles)
    for profile in RingProtectionProfile.all where profiles >> profile.number & 1 != 0 {
      protectionProfiles.insert(profile)
    }
  }

  /// Writes what is offered, and nothing for what is not.
  public func write(to backend: DeviceFolder) throws(StoreError) {
    if maxRequestSegments > 0 { try backend.write(UInt32(maxRequestSegments), to: RingKey.maxRequestSegments) }
    if hasSegmentRing { try backend.write(true, to: RingKey.segmentRing) }
    if requestSizeVersion > 0 { try backend.write(UInt32(requestSizeVersion), to: RingKey.requestSize) }
    if hasIndirectDescriptors { try backend.write(true, to: RingKey.indirectDescriptors) }
    if canSplit { try backend.write(1, to: RingKey.separateRings) }
    if canUseWholePage { try backend.write(true, to: RingKey.wholePage) }
    if maxAlignment > 0 { try backend.write(UInt32(maxAlignment), to: RingKey.alignment) }
    guard protection != .off else { return }
    try backend.write(protection.key, to: RingKey.protection)
    if protectionProfiles.count > 1 {
      let bits = protectionProfiles.reduce(UInt32(1)) { $0 | 1 << $1.number }
      try backend.write(bits, to: RingKey.protectionProfiles)
    }
  }

  /// Reads a frontend's choice and holds it against the offer.
  /// - Throws: ``RingRefusal`` for anything that was not offered, makes no sense, or does not go together.
  public func accept(
    _ frontend: DeviceFolder, _ blockProtocol: BlockProtocol, ringPages: Int
  ) throws(RingRefusal) -> RingPlan {
    var plan = RingPlan(blockProtocol, ringPages: ringPages)
    plan.variant = try variant(chosenBy: frontend)
    if plan.variant == .wide { plan.segmentsPerRequest = Int(frontend.value(RingKey.maxRequestSegments)) }
    if plan.variant == .segmentRing {
      plan.segmentEntrySize = Int(frontend.value(RingKey.segmentEntrySize))
      guard plan.segmentEntrySize == 6 || plan.segmentEntrySize == 8 else {
        throw RingRefusal("segment entries of \(plan.segmentEntrySize) bytes")
      }
    }
    let separation = frontend.value(RingKey.separateRings)
    if separation > 0 {
      guard canSplit else { throw RingRefusal("split rings, which were not offered") }
      guard separation <= 2 else { throw RingRefusal("split rings of form \(separation)") }
      plan.isSplit = true
      plan.indexPlacement = separation == 1 ? .apart : .together
      let order = frontend.value(RingKey.responsePageOrder)
      guard order <= 4 else { throw RingRefusal("a response ring of page order \(order), the maximum is 4") }
      plan.responseRingPages = 1 << Int(order)
    }
    plan.usesWholePage = frontend.value(RingKey.wholePage)
    guard canUseWholePage || !plan.usesWholePage else { throw RingRefusal("whole pages, which were not offered") }
    plan.alignment = Int(frontend.value(RingKey.alignment))
    guard [0, 64, 128].contains(plan.alignment), plan.alignment <= maxAlignment else {
      throw RingRefusal("an alignment of \(plan.alignment), the maximum is \(maxAlignment)")
    }
    let level = frontend.value(RingKey.protection)
    guard let chosen = RingProtection(key: level), level <= protection.key else {
      throw RingRefusal("protection of form \(level), the maximum is \(protection.key)")
    }
    plan.protection = chosen
    if chosen != .off { plan.protectionProfile = try profile(chosenBy: frontend) }
    if let complaint = plan.complaint { throw RingRefusal(complaint) }
    return plan
  }

  private func profile(chosenBy frontend: DeviceFolder) throws(RingRefusal) -> RingProtectionProfile {
    let number = frontend.value(RingKey.protectionProfile)
    guard let profile = RingProtectionProfile.all.first(where: { $0.number == number }),
      profile == .standard || protectionProfiles.contains(profile)
    else { throw RingRefusal("protection of profile \(number), which was not offered") }
    return profile
  }

  private func variant(chosenBy frontend: DeviceFolder) throws(RingRefusal) -> RingVariant {
    var chosen: [RingVariant] = []
    let segments = frontend.value(RingKey.maxRequestSegments)
    if segments > 0 {
      guard segments >= UInt32(BlockLimits.directSegments), segments <= UInt32(max(maxRequestSegments, 0)) else {
        throw RingRefusal("\(segments) segments in a request, the maximum is \(maxRequestSegments)")
      }
      chosen.append(.wide)
    }
    if frontend.value(RingKey.segmentRing) { chosen.append(.segmentRing) }
    let version = frontend.value(RingKey.requestSize)
    if version > 0 {
      guard version <= UInt32(requestSizeVersion) else {
        throw RingRefusal("request size version \(version), the maximum is \(requestSizeVersion)")
      }
      chosen.append(.slim64)
    }
    if frontend.value(RingKey.indirectDescriptors) { chosen.append(.slim32) }
    guard chosen.count <= 1 else {
      throw RingRefusal("\(chosen.map(\.rawValue).joined(separator: " and ")) at once")
    }
    let variant = chosen.first ?? .classic
    guard offers(variant) else { throw RingRefusal("\(variant.rawValue), which was not offered") }
    return variant
  }
}

extension RingProtection {
  /// The value of its key.
  var key: UInt32 {
    switch self {
    case .off: 0
    case .slot: 1
    case .sector: 2
    }
  }

  /// What a key's value means.
  init?(key: UInt32) {
    guard let protection = RingProtection.allCases.first(where: { $0.key == key }) else { return nil }
    self = protection
  }
}

/// What a frontend chose and cannot have.
public struct RingRefusal: Error, Equatable, Sendable {
  /// What it is, as the object of "the frontend wants ...".
  public let text: String
  /// Makes a refusal.
  public init(_ text: String) { self.text = text }
}

/// What a frontend would like its rings to be.
public struct RingWish: Equatable, Sendable {
  /// The form of the slots.
  public var variant = RingVariant.classic
  /// What else will do, best first, where a backend does not offer `variant`; classic always does.
  public var fallbacks: [RingVariant] = []
  /// `wide`: segments of a request.
  public var segmentsPerRequest = 256
  /// `segment-ring`: bytes of an entry.
  public var segmentEntrySize = BlockLimits.segmentSize
  /// Split rings.
  public var isSplit = false
  /// Where split rings have their index words.
  public var indexPlacement = IndexPlacement.apart
  /// Pages of the response ring of split rings; nil: as many as needed.
  public var responseRingPages: Int?
  /// Every slot that fits.
  public var usesWholePage = false
  /// 64, 128 or 0.
  public var alignment = 0
  /// How data is vouched for.
  public var protection = RingProtection.off
  /// What the tuples are like.
  public var protectionProfile = RingProtectionProfile.standard

  /// The classic protocol.
  public init() {}

  /// Whether nothing beyond the classic protocol is wished.
  public var isClassic: Bool {
    variant == .classic && fallbacks.isEmpty && !isSplit && !usesWholePage && alignment == 0 && protection == .off
  }

  /// What comes of the wish when a backend offers `offer`: each part that it has, the classic form of each that it lacks.
  public func plan(_ blockProtocol: BlockProtocol, ringPages: Int, _ offer: RingOffer) -> RingPlan {
    var plan = RingPlan(blockProtocol, ringPages: ringPages)
    plan.variant = ([variant] + fallbacks).first { offer.offers($0) } ?? .classic
    if plan.variant == .wide { plan.segmentsPerRequest = min(segmentsPerRequest, offer.maxRequestSegments) }
    if plan.variant == .segmentRing { plan.segmentEntrySize = segmentEntrySize }
    if isSplit, offer.canSplit {
      plan.isSplit = true
      plan.indexPlacement = indexPlacement
      plan.responseRingPages = responseRingPages
    }
    plan.usesWholePage = usesWholePage && offer.canUseWholePage
    plan.alignment = min(alignment, offer.maxAlignment)
    plan.protection = protection.key <= offer.protection.key ? protection : offer.protection
    // Slots of another form than was wished may have no room: then each sector has its tuple, or nothing has.
    if plan.protection == .slot, !plan.hasRoomForProtection, plan.variant != variant || plan.alignment != alignment {
      plan.protection = offer.protection == .sector ? .sector : .off
    }
    if plan.protection != .off, offer.protectionProfiles.contains(protectionProfile) {
      plan.protectionProfile = protectionProfile
    }
    return plan
  }
}

extension RingPlan {
  /// Writes what was chosen beyond the classic protocol; nothing for what is classic.
  public func write(to frontend: DeviceFolder, in transaction: TransactionID?) throws(StoreError) {
    func write<Value>(_ value: Value, _ key: NodeKey<Value>) throws(StoreError) {
      try frontend.write(value, to: key, in: transaction)
    }
    switch variant {
    case .classic: break
    case .wide: try write(UInt32(segmentsPerRequest), RingKey.maxRequestSegments)
    case .segmentRing:
      try write(true, RingKey.segmentRing)
      try write(UInt32(segmentEntrySize), RingKey.segmentEntrySize)
    case .slim64: try write(1, RingKey.requestSize)
    case .slim32: try write(true, RingKey.indirectDescriptors)
    }
    if isSplit {
      try write(indexPlacement == .apart ? 1 : 2, RingKey.separateRings)
      let pages = RingGeometry(self).responsePages
      if pages > 1 { try write(UInt32(pages.trailingZeroBitCount), RingKey.responsePageOrder) }
    }
    if usesWholePage { try write(true, RingKey.wholePage) }
    if alignment > 0 { try write(UInt32(alignment), RingKey.alignment) }
    if protection != .off { try write(protection.key, RingKey.protection) }
    if protection != .off, protectionProfile != .standard {
      try write(protectionProfile.number, RingKey.protectionProfile)
    }
  }

  /// Takes a former choice out of the frontend's folder, before another one is written.
  public func erase(from frontend: DeviceFolder, in transaction: TransactionID?) throws(StoreError) {
    let present = try frontend.store.directory(frontend.path, in: transaction)
    for name in RingKey.names where present.contains(name) {
      try frontend.store.remove(frontend.path / name, in: transaction)
    }
  }
}
