// SPDX-License-Identifier: MIT

public import XenBus
public import XenWire

extension DiskConfiguration {
  /// What the backend offers.
  public var effectiveOffer: RingOffer { offer ?? (rings.isClassic ? RingOffer() : .everything) }

  /// What the two ends will agree on.
  public var plan: RingPlan { rings.plan(blockProtocol, ringPages: ringPages, effectiveOffer) }

  /// The sentence that says what of the rings' form makes no sense, or nil.
  var ringComplaint: String? {
    if ![0, 64, 128].contains(rings.alignment) { return "--align must be 64 or 128, not \(rings.alignment)" }
    if rings.variant == .wide, !(BlockLimits.directSegments...256).contains(rings.segmentsPerRequest) {
      return "with --protocol wide, --indirect-segments must be between 11 and 256, not \(rings.segmentsPerRequest)"
    }
    if rings.segmentEntrySize != 6, rings.segmentEntrySize != 8 {
      return "--segment-entry must be 6 or 8, not \(rings.segmentEntrySize)"
    }
    if let pages = rings.responseRingPages, ![1, 2, 4, 8, 16].contains(pages) {
      return "--response-pages must be 1, 2, 4, 8 or 16, not \(pages)"
    }
    if rings.responseRingPages != nil, !rings.isSplit {
      return "--response-pages is for --split rings; a shared ring has no response ring"
    }
    if rings.indexPlacement == .together, !rings.isSplit {
      return "--split-indices is for --split rings; a shared ring has all its index words in one header"
    }
    if rings.protection == .slot, rings.variant != .slim64, rings.variant != .slim32 || rings.alignment == 0 {
      return "--dif slot needs slots with room for it: --protocol slim64, or slim32 with --align 64; "
        + "--dif sector goes with every one"
    }
    let wished = rings.plan(blockProtocol, ringPages: ringPages, .everything)
    if let complaint = wished.complaint {
      return "the rings would have \(complaint); use more --ring-pages or fewer of these options"
    }
    let most = wished.variant == .segmentRing ? Int(RingGeometry(wished).segmentCount) : wished.longestRequest
    if rings.variant != .classic, rings.variant != .wide, indirectSegments > most {
      return
        "with --protocol \(rings.variant.rawValue), --indirect-segments can be \(most) at most, not \(indirectSegments)"
    }
    return nil
  }
}

extension RingPlan {
  /// Segments of the longest request that the format can express.
  var longestRequest: Int { max(directSegments, format.numbers.indirectSegments) }
}
