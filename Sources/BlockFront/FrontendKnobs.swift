// SPDX-License-Identifier: MIT

public import SharedRing
public import XenBus

/// What an administrator can set on a frontend, under Linux blkfront's names where it has one.
public struct FrontendKnobs: Equatable, Sendable {
  /// `max_indirect_segments`: the most segments of a request; 11 or less uses no indirect requests.
  public var maxIndirectSegments = 32
  /// `max_queues`.
  public var maxQueues = 4
  /// `max_ring_page_order`: log2 of the most ring pages.
  public var maxRingPageOrder = 0
  /// `feature_persistent`: whether grants are kept for life.
  public var featurePersistent = true
  /// `trusted`: false copies all data whatever the toolstack says.
  public var trusted = true

  /// How responses are waited for.
  public var notify = NotificationPolicy.holdOff
  /// The form of the rings that is chosen from what a backend offers.
  public var rings = RingWish()

  /// The defaults of Linux 6.1.
  public init() {}
}

/// Why a frontend could not connect.
public enum FrontendError: Error, Equatable, Sendable {
  /// The store refused, or a node that must be there is not.
  case store(String)
  /// Pages or references ran out.
  case grant(GrantRefusal)
  /// No event channel.
  case event(String)
  /// A node of the backend that says what the disk is is missing or makes no sense.
  case backendFields(String)

  /// What ran out.
  public enum GrantRefusal: Equatable, Sendable {
    /// Pages of the domain.
    case pages
    /// References of the grant table.
    case references
  }

  /// One sentence for a person.
  public var sentence: String {
    switch self {
    case .store(let text): "the store refused: \(text)"
    case .grant(.pages): "the frontend's domain has too little memory for that many queues and ring pages"
    case .grant(.references): "the frontend's grant table is full"
    case .event(let text): "no event channel: \(text)"
    case .backendFields(let path): "reading backend fields at \(path)"
    }
  }

  /// The positive `errno` of the error node.
  var code: Int32 {
    switch self {
    case .store, .event: 22
    case .backendFields: 2
    case .grant: 12
    }
  }
}
