// SPDX-License-Identifier: MIT

public import GuestMemory
import XenWire

/// Why a saved state could not be taken up.
public enum StoreStreamError: Error, Equatable, Sendable, CustomStringConvertible {
  /// The file does not start as a saved state does.
  case notAState
  /// The file was written in a version, or with a byte order, that is not understood.
  case unsupportedVersion(UInt32)
  /// The file ends too early.
  case truncated
  /// A record is wrong; the text says how.
  case malformed(String)
  /// The file could not be read or written.
  case system(SystemError)

  /// A sentence for people.
  public var description: String {
    switch self {
    case .notAState: "this is not a saved XenStore state"
    case .unsupportedVersion(let version): "the saved state has version \(version), but only 1 and 2 are understood"
    case .truncated: "the saved state ends too early"
    case .malformed(let reason): "the saved state is damaged: \(reason)"
    case .system(let error): "\(error)"
    }
  }
}

/// The file format of a saved store: Xen's own (`docs/designs/xenstore-migration.md`), version 2.
///
/// ```
/// "xenstore" | version, flags (big-endian u32)         16 bytes
/// type u32 | length u32 | body | padding to 8 bytes    each record, little-endian
/// ```
/// What is written: the quotas, a CONNECTION_DATA record for each introduced guest, DOMAIN_DATA for each known one, the
/// watches of guests, and all nodes, parents first and children in their order. Socket clients and open transactions
/// end with their process: they are not written. Generation counts start anew.
enum StoreStream {
  static let identifier = Array("xenstore".utf8)
  static let version: UInt32 = 2
  /// "No target" in a connection record (Xen `DOMID_INVALID`).
  static let noTarget: UInt16 = 0x7FF4

  enum Record: UInt32 {
    case end = 0
    case global = 1
    case connection = 2
    case watch = 3
    case transaction = 4
    case node = 5
    case globalQuota = 6
    case domain = 7
    case extendedWatch = 8
  }
}

/// Puts a stream together.
struct StreamWriter {
  private(set) var bytes: [UInt8] = []

  init() {
    bytes = StoreStream.identifier
    for word in [StoreStream.version, 0] {
      for shift in [24, 16, 8, 0] as [UInt32] { bytes.append(UInt8(truncatingIfNeeded: word >> shift)) }
    }
  }

  mutating func append(_ record: StoreStream.Record, _ body: (inout StreamBody) -> Void) {
    var content = StreamBody()
    body(&content)
    var head = StreamBody()
    head.append(record.rawValue)
    head.append(UInt32(content.bytes.count + content.padding))
    bytes += head.bytes + content.bytes + [UInt8](repeating: 0, count: content.padding)
  }
}

/// A record's body being written; integers are little-endian.
struct StreamBody {
  private(set) var bytes: [UInt8] = []

  var padding: Int { (8 - bytes.count % 8) % 8 }

  mutating func append(_ value: some FixedWidthInteger & UnsignedInteger) {
    for index in 0..<(value.bitWidth / 8) { bytes.append(UInt8(truncatingIfNeeded: value >> (8 * index))) }
  }

  mutating func append(_ text: String) {
    bytes.append(contentsOf: text.utf8)
    bytes.append(0)
  }

  mutating func append(raw more: [UInt8]) { bytes.append(contentsOf: more) }
}

/// Takes a stream, or a record's body, apart.
struct StreamReader {
  private var rest: ArraySlice<UInt8>

  init(_ bytes: ArraySlice<UInt8>) { rest = bytes }

  var isAtEnd: Bool { rest.isEmpty }

  mutating func take(_ count: Int) throws(StoreStreamError) -> ArraySlice<UInt8> {
    guard count <= rest.count else { throw .truncated }
    defer { rest = rest.dropFirst(count) }
    return rest.prefix(count)
  }

  mutating func take<T: FixedWidthInteger & UnsignedInteger>(_ type: T.Type) throws(StoreStreamError) -> T {
    var value: T = 0
    for (index, byte) in try take(T.bitWidth / 8).enumerated() { value |= T(byte) << (8 * index) }
    return value
  }

  /// Text with a NUL behind it, of a length that counts the NUL.
  mutating func text(_ count: Int) throws(StoreStreamError) -> String {
    let bytes = try take(count)
    guard bytes.last == 0, !bytes.dropLast().contains(0) else { throw .malformed("a text without its NUL") }
    return String(decoding: bytes.dropLast(), as: UTF8.self)
  }

  /// Text up to the next NUL.
  mutating func text() throws(StoreStreamError) -> String {
    guard let end = rest.firstIndex(of: 0) else { throw .truncated }
    return try text(end - rest.startIndex + 1)
  }

  /// The stream's version.
  mutating func preamble() throws(StoreStreamError) -> UInt32 {
    guard rest.count >= 16, Array(try take(8)) == StoreStream.identifier else { throw .notAState }
    let version = try take(4).reduce(UInt32(0)) { $0 << 8 | UInt32($1) }
    let flags = try take(4).reduce(UInt32(0)) { $0 << 8 | UInt32($1) }
    guard (1...StoreStream.version).contains(version), flags == 0 else { throw .unsupportedVersion(version) }
    return version
  }

  /// The next record.
  mutating func record() throws(StoreStreamError) -> (StoreStream.Record, StreamReader) {
    let number = try take(UInt32.self)
    let length = Int(try take(UInt32.self))
    let body = StreamReader(try take(length))
    _ = try take(min((8 - length % 8) % 8, rest.count))
    guard let record = StoreStream.Record(rawValue: number) else { throw .malformed("unknown record \(number)") }
    return (record, body)
  }
}
