// SPDX-License-Identifier: MIT

/// What a XenStore message asks for or answers (Xen `io/xs_wire.h`, `enum xsd_sockmsg_type`).
///
/// A number that nobody knows is data too: the store answers `ENOSYS` to it.
public struct StoreMessageType: RawRepresentable, Hashable, Sendable, CustomStringConvertible {
  /// The number as it stands on the wire.
  public var rawValue: UInt32
  /// Wraps a number.
  @inlinable public init(rawValue: UInt32) { self.rawValue = rawValue }

  /// A command to the daemon itself; once called DEBUG.
  public static let control = StoreMessageType(rawValue: 0)
  /// Lists a node's children.
  public static let directory = StoreMessageType(rawValue: 1)
  /// Reads a node's value.
  public static let read = StoreMessageType(rawValue: 2)
  /// Reads a node's permissions.
  public static let getPermissions = StoreMessageType(rawValue: 3)
  /// Registers a watch.
  public static let watch = StoreMessageType(rawValue: 4)
  /// Ends a watch.
  public static let unwatch = StoreMessageType(rawValue: 5)
  /// Opens a transaction.
  public static let transactionStart = StoreMessageType(rawValue: 6)
  /// Commits (`T`) or aborts (`F`) a transaction.
  public static let transactionEnd = StoreMessageType(rawValue: 7)
  /// Tells the store that a domain exists.
  public static let introduce = StoreMessageType(rawValue: 8)
  /// Tells the store that a domain is gone.
  public static let release = StoreMessageType(rawValue: 9)
  /// Asks for a domain's home.
  public static let getDomainPath = StoreMessageType(rawValue: 10)
  /// Writes a node's value.
  public static let write = StoreMessageType(rawValue: 11)
  /// Creates a node.
  public static let makeDirectory = StoreMessageType(rawValue: 12)
  /// Removes a node and all below it.
  public static let remove = StoreMessageType(rawValue: 13)
  /// Sets a node's permissions.
  public static let setPermissions = StoreMessageType(rawValue: 14)
  /// Tells a client that a watch fired; from the store only.
  public static let watchEvent = StoreMessageType(rawValue: 15)
  /// Refuses a request, with the error's name; from the store only.
  public static let error = StoreMessageType(rawValue: 16)
  /// Asks whether a domain was introduced.
  public static let isDomainIntroduced = StoreMessageType(rawValue: 17)
  /// Tells the store that a suspended domain runs again.
  public static let resume = StoreMessageType(rawValue: 18)
  /// Gives a domain the rights of another.
  public static let setTarget = StoreMessageType(rawValue: 19)
  /// Removed from the protocol; answered `ENOSYS`.
  public static let restrict = StoreMessageType(rawValue: 20)
  /// Drops the client's watches and transactions.
  public static let resetWatches = StoreMessageType(rawValue: 21)
  /// Lists a part of a node's children.
  public static let directoryPart = StoreMessageType(rawValue: 22)
  /// Asks which features a domain is offered.
  public static let getFeature = StoreMessageType(rawValue: 23)
  /// Sets the features that a domain is offered.
  public static let setFeature = StoreMessageType(rawValue: 24)
  /// Asks for quotas.
  public static let getQuota = StoreMessageType(rawValue: 25)
  /// Sets a quota.
  public static let setQuota = StoreMessageType(rawValue: 26)

  private static let names = [
    "CONTROL", "DIRECTORY", "READ", "GET_PERMS", "WATCH", "UNWATCH", "TRANSACTION_START", "TRANSACTION_END",
    "INTRODUCE", "RELEASE", "GET_DOMAIN_PATH", "WRITE", "MKDIR", "RM", "SET_PERMS", "WATCH_EVENT", "ERROR",
    "IS_DOMAIN_INTRODUCED", "RESUME", "SET_TARGET", "", "RESET_WATCHES", "DIRECTORY_PART", "GET_FEATURE",
    "SET_FEATURE", "GET_QUOTA", "SET_QUOTA",
  ]

  /// The name in the header file without `XS_`, as xenstored's trace has it; `**UNKNOWN**` for other numbers.
  public var description: String {
    guard rawValue < UInt32(Self.names.count), rawValue != Self.restrict.rawValue else { return "**UNKNOWN**" }
    return Self.names[Int(rawValue)]
  }
}

/// The 16 bytes before every XenStore message (Xen `io/xs_wire.h`, `struct xsd_sockmsg`).
///
/// ```
///   0       4         8          12        16
///   | type  | req_id  | tx_id    | length  | payload, 0...4096 bytes
/// ```
/// All four are 32-bit little-endian. A reply repeats its request's `req_id` and `tx_id`; an event has zeros there.
public struct StoreMessageHeader: Hashable, Sendable {
  /// What the message is.
  public var type: StoreMessageType
  /// The client's own number for the request.
  public var requestID: UInt32
  /// The transaction, 0 for none.
  public var transactionID: UInt32
  /// The number of bytes that follow.
  public var payloadByteCount: UInt32

  /// The header's size in bytes.
  public static let byteCount = 16
  /// The most bytes that may follow; a header that says more breaks the protocol (`XENSTORE_PAYLOAD_MAX`).
  public static let maximumPayload = 4096

  /// Makes a header.
  @inlinable
  public init(type: StoreMessageType, requestID: UInt32, transactionID: UInt32, payloadByteCount: UInt32) {
    self.type = type
    self.requestID = requestID
    self.transactionID = transactionID
    self.payloadByteCount = payloadByteCount
  }

  /// Decodes a header from its 16 bytes; nil when there are fewer.
  @inlinable
  public init?(_ bytes: some RandomAccessCollection<UInt8>) {
    guard bytes.count >= Self.byteCount else { return nil }
    var words: [4 of UInt32] = [0, 0, 0, 0]
    var index = bytes.startIndex
    for offset in 0..<Self.byteCount {
      words[offset >> 2] |= UInt32(bytes[index]) << (8 * UInt32(offset & 3))
      bytes.formIndex(after: &index)
    }
    self.init(
      type: StoreMessageType(rawValue: words[0]), requestID: words[1], transactionID: words[2],
      payloadByteCount: words[3])
  }

  /// Appends the header's 16 bytes.
  public func append(to bytes: inout [UInt8]) {
    bytes.append(littleEndian: type.rawValue)
    bytes.append(littleEndian: requestID)
    bytes.append(littleEndian: transactionID)
    bytes.append(littleEndian: payloadByteCount)
  }
}

extension [UInt8] {
  fileprivate mutating func append(littleEndian word: UInt32) {
    append(UInt8(truncatingIfNeeded: word))
    append(UInt8(truncatingIfNeeded: word >> 8))
    append(UInt8(truncatingIfNeeded: word >> 16))
    append(UInt8(truncatingIfNeeded: word >> 24))
  }
}

/// Where the parts of a XenStore ring page are (Xen `io/xs_wire.h`, `struct xenstore_domain_interface`).
///
/// ```
///   0          1024       2048      2052      2056      2060      2064      2068        2072
///   | requests | replies  | req_cons| req_prod| rsp_cons| rsp_prod| features| connection| error
/// ```
/// Both rings are byte streams; the indices run freely and byte x lies at x mod 1024.
public enum StoreRingLayout {
  /// Bytes of each ring (`XENSTORE_RING_SIZE`).
  public static let ringByteCount = 1024
  /// Where the client's bytes are.
  public static let requests = 0
  /// Where the server's bytes are.
  public static let replies = 1024
  /// How far the server has read requests.
  public static let requestConsumer = 2048
  /// How far the client has written requests.
  public static let requestProducer = 2052
  /// How far the client has read replies.
  public static let replyConsumer = 2056
  /// How far the server has written replies.
  public static let replyProducer = 2060
  /// What the server offers; see ``StoreFeatures``.
  public static let features = 2064
  /// 1 when the client asks to start anew, 0 otherwise; see ``StoreRingState``.
  public static let connection = 2068
  /// Why the server has given the client up; see ``StoreRingError``.
  public static let error = 2072
  /// The event channel's port, in newest headers.
  public static let eventPort = 2076
  /// The size with every field.
  public static let byteCount = 2080
}

/// What a store offers on a ring page (Xen `io/xs_wire.h`, `XENSTORE_SERVER_FEATURE_*`).
public struct StoreFeatures: OptionSet, Hashable, Sendable {
  /// The bits as they stand in the page.
  public let rawValue: UInt32
  /// Wraps bits.
  public init(rawValue: UInt32) { self.rawValue = rawValue }
  /// The client may ask to start anew.
  public static let reconnection = StoreFeatures(rawValue: 1)
  /// The error field is used.
  public static let errorField = StoreFeatures(rawValue: 2)
  /// WATCH takes a depth.
  public static let watchDepth = StoreFeatures(rawValue: 4)
  /// Permissions may name "any domain".
  public static let anyDomain = StoreFeatures(rawValue: 8)
  /// All of them.
  public static let all: StoreFeatures = [.reconnection, .errorField, .watchDepth, .anyDomain]
}

/// The connection field of a ring page.
public enum StoreRingState {
  /// Nothing special.
  public static let connected: UInt32 = 0
  /// The client asks to start anew; only the server puts the field back.
  public static let reconnect: UInt32 = 1
}

/// Why a server has given a ring client up (Xen `io/xs_wire.h`, `XENSTORE_ERROR_*`).
public enum StoreRingError: UInt32, Error, Sendable {
  case none = 0
  case communication = 1
  case ringIndex = 2
  case protocolViolation = 3
}
