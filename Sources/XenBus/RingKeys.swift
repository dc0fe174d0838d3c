// SPDX-License-Identifier: MIT

public import XenWire

/// The nodes by which two ends agree on another form of the rings than the classic one.
///
/// Names are those of the proposal of 2012, spelt correctly; what the thread misspelt is accepted as an alias and never
/// written. The backend writes what it can before the frontend connects; the frontend writes what it chose, next to the
/// classic keys. An end that writes none of them, or knows none, is a classic peer.
public enum RingKey {
  /// `wide`: the backend's most segments in a slot, the frontend's choice.
  public static let maxRequestSegments = NodeKey<UInt32>("max-request-segments", absent: 0)
  /// `segment-ring`.
  public static let segmentRing = NodeKey<Bool>("feature-segment-ring", absent: false)
  /// `segment-ring`: bytes of an entry, 6 or 8; written by the frontend.
  public static let segmentEntrySize = NodeKey<UInt32>("segment-entry-size", absent: 8)
  /// `slim64`: the version of the request's size; 1 is 64 bytes.
  public static let requestSize = NodeKey<UInt32>("feature-request-size", absent: 0)
  /// `slim32`: Roger's slim request, which makes descriptor pages a duty.
  public static let indirectDescriptors = NodeKey<Bool>(
    "indirect-descriptors", absent: false, aliases: ["indiret-descriptor", "slim-version-of-req"])
  /// Split rings: 1 with the index words of the two ends apart, 2 with all of them in the first line.
  public static let separateRings = NodeKey<UInt32>(
    "feature-separate-req-and-rsp", absent: 0, aliases: ["feature-seperate-req-and-rsp", "seperate-req-and-rsp"])
  /// Every slot that fits is used; the thread gave this one no name.
  public static let wholePage = NodeKey<Bool>("feature-whole-page-ring", absent: false)
  /// The backend's largest alignment, the frontend's choice.
  public static let alignment = NodeKey<UInt32>("alignment", absent: 0, aliases: ["aligment-64-or-other-value"])
  /// Protection information: the backend's most, the frontend's choice; 1 a tuple in the slot, 2 a tuple for each sector.
  ///
  /// The thread gave this one no name.
  public static let protection = NodeKey<UInt32>("feature-dif", absent: 0)
  /// Profiles of protection information that the backend has beside type 1 with a CRC: bit n is profile n.
  public static let protectionProfiles = NodeKey<UInt32>("feature-dif-profiles", absent: 1)
  /// The frontend's profile: types 1 to 3 with a CRC are 0 to 2, with the Internet checksum 3 to 5.
  public static let protectionProfile = NodeKey<UInt32>("dif-profile", absent: 0)
  /// log2 of the pages of the response ring; written by the frontend when they are several.
  public static let responsePageOrder = NodeKey<UInt32>("rsp-ring-page-order", absent: 0)

  /// The names of all keys that a frontend may write, but for references.
  static let names = [
    maxRequestSegments.name, segmentRing.name, segmentEntrySize.name, requestSize.name, indirectDescriptors.name,
    separateRings.name, wholePage.name, alignment.name, protection.name, protectionProfile.name,
    responsePageOrder.name,
  ]
}

extension RingPlan {
  /// The keys of a queue's ring pages, in the order in which the pages lie behind each other.
  /// - Parameter isNumbered: whether even a single page of a shared ring has a number; it has when `ring-page-order` is written.
  public func referenceKeys(isNumbered: Bool) -> [NodeKey<UInt32>] {
    let geometry = RingGeometry(self)
    var keys =
      isSplit
      ? Self.keys("req-ring-ref", pages: geometry.requestPages)
      : Self.keys("ring-ref", pages: geometry.requestPages, isNumbered: isNumbered)
    keys += Self.keys("rsp-ring-ref", pages: geometry.responsePages)
    keys += Self.keys("seg-ring-ref", pages: geometry.segmentPages)
    return keys
  }

  private static func keys(_ name: String, pages: Int, isNumbered: Bool = false) -> [NodeKey<UInt32>] {
    if pages == 1, !isNumbered { return [NodeKey(name)] }
    return (0..<pages).map { NodeKey("\(name)\($0)") }
  }
}
