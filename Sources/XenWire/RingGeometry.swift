// SPDX-License-Identifier: MIT

/// Where everything of a queue's rings is: numbers that are made from a ``RingPlan`` once, when a queue connects.
///
/// ```
/// shared    | req prod, req event, rsp prod, rsp event | pad to 64 | slot 0 | slot 1 | ...
/// split     | req prod, rsp cons | line | req event | line | request 0 | ...         request ring, own pages
///           | rsp prod | line | rsp event | line | response 0 | ...                  response ring, own pages
/// segments  | entry 0 | entry 1 | ...                                                segment ring, own pages, no header
/// ```
///
/// All pages of a queue are mapped one behind the other in this order, each ring in pages of its own.
///
/// The response consumer exists only in split rings: with a ring of their own, nothing else tells the backend that a
/// response's place is free again.
public struct RingGeometry: Equatable, Sendable {
  /// Bytes from one request to the next.
  public private(set) var requestStride: Int
  /// Bytes from one response to the next.
  public private(set) var responseStride: Int
  /// Bytes of a response.
  public private(set) var responseSize: Int
  /// Offset in a response of its protection information; nil without.
  public private(set) var responseProtectionOffset: Int?
  /// Places for requests.
  public private(set) var requestCount: UInt32
  /// Places for responses.
  public private(set) var responseCount: UInt32
  /// Bytes before the first request.
  public private(set) var headerSize: Int
  /// Offset of the request producer, which the front writes.
  public private(set) var requestProducerOffset = 0
  /// Offset of the request event, which the back writes.
  public private(set) var requestEventOffset = 4
  /// Offset of the response producer, which the back writes.
  public private(set) var responseProducerOffset = 8
  /// Offset of the response event, which the front writes.
  public private(set) var responseEventOffset = 12
  /// Offset of the response consumer, which the front writes; only in split rings.
  public private(set) var responseConsumerOffset: Int?
  /// Offset of the first request.
  public private(set) var requestsOffset: Int
  /// Offset of the first response.
  public private(set) var responsesOffset: Int
  /// Pages of the ring, or of the request ring.
  public let requestPages: Int
  /// Pages of the response ring; 0 in shared rings.
  public private(set) var responsePages = 0
  /// Pages of the segment ring; 0 without one.
  public private(set) var segmentPages = 0
  /// Bytes of an entry of the segment ring.
  public private(set) var segmentEntrySize = 0
  /// Entries of the segment ring.
  public private(set) var segmentCount: UInt32 = 0

  /// The most requests that may be out at once.
  public var depth: UInt32 { min(requestCount, responseCount) }
  /// All pages of a queue.
  public var pageCount: Int { requestPages + responsePages + segmentPages }
  /// Offset of the segment ring.
  public var segmentsOffset: Int { (requestPages + responsePages) * Self.pageSize }
  /// Whether responses have a ring of their own.
  public var isSplit: Bool { responseConsumerOffset != nil }

  static let pageSize = 4096

  /// Lays out what was agreed.
  public init(_ plan: RingPlan) {
    let numbers = plan.format.numbers
    requestPages = plan.ringPages
    requestStride = Self.round(plan.slotSize, up: plan.alignment)
    responseSize = numbers.responseSize
    responseStride = plan.isSplit ? numbers.responseSize : requestStride
    if plan.protection == .slot {
      responseProtectionOffset = plan.isSplit ? 16 : numbers.protectionOffset
      if plan.isSplit { responseStride = 24 }
    }
    let line = max(BlockLimits.ringHeaderSize, plan.alignment)
    headerSize = plan.isSplit && plan.indexPlacement == .apart ? 2 * line : line
    requestsOffset = headerSize
    responsesOffset = headerSize
    let wholePage = plan.usesWholePage
    requestCount = Self.count(
      byteCount: requestPages * Self.pageSize, headerSize: headerSize, stride: requestStride, usesWholePage: wholePage)
    responseCount = requestCount
    if plan.isSplit {
      split(plan, line: line)
    } else if plan.alignment > BlockLimits.ringHeaderSize {
      // The header has a second line: what the back writes goes there.
      responseEventOffset = 4
      responseProducerOffset = BlockLimits.ringHeaderSize
      requestEventOffset = BlockLimits.ringHeaderSize + 4
    }
    if plan.variant == .segmentRing {
      segmentPages = plan.segmentRingPages
      segmentEntrySize = plan.segmentEntrySize
      segmentCount = UInt32(segmentPages * Self.pageSize / segmentEntrySize)
    }
  }

  private mutating func split(_ plan: RingPlan, line: Int) {
    let stride = responseStride
    func responses(_ pages: Int) -> UInt32 {
      Self.count(
        byteCount: pages * Self.pageSize, headerSize: headerSize, stride: stride, usesWholePage: plan.usesWholePage)
    }
    var pages = plan.responseRingPages ?? 1
    while plan.responseRingPages == nil, responses(pages) < requestCount { pages *= 2 }
    responsePages = pages
    responseCount = responses(pages)
    let start = requestPages * Self.pageSize
    let isApart = plan.indexPlacement == .apart
    requestEventOffset = isApart ? line : 4
    responseConsumerOffset = isApart ? 4 : 8
    responseProducerOffset = start
    responseEventOffset = start + (isApart ? line : 4)
    responsesOffset = start + headerSize
  }

  static func round(_ size: Int, up alignment: Int) -> Int {
    alignment > 0 ? (size + alignment - 1) / alignment * alignment : size
  }

  /// The slots that fit behind the header, or the largest power of two of them.
  public static func count(byteCount: Int, headerSize: Int, stride: Int, usesWholePage: Bool) -> UInt32 {
    let fit = (byteCount - headerSize) / stride
    precondition(fit > 0, "a ring holds at least one slot")
    return usesWholePage ? UInt32(fit) : UInt32(1) << UInt32(fit.bitWidth - 1 - fit.leadingZeroBitCount)
  }
}
