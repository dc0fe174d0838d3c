// SPDX-License-Identifier: MIT

public import XenWire

/// An absolute, well-formed path of a node, such as `/local/domain/1/device/vbd/51712`, or of a special watch, such as
/// `@releaseDomain`.
///
/// Allowed bytes are `A-Z a-z 0-9 - / _ @`; no part is empty, so there is neither `//` nor a trailing `/` except in the
/// root's own path. A path that came as text has at most ``maximumByteCount`` bytes; one built from parts may be longer
/// and is then refused (`EINVAL`) by the operation that gets it, never by a trap, since parts may stem from a peer.
public struct StorePath: Hashable, Sendable, CustomStringConvertible {
  /// The path as text.
  public let string: String

  /// The longest path that the store takes, in bytes (Xen `XENSTORE_ABS_PATH_MAX`).
  public static let maximumByteCount = 3072
  /// The longest relative path, in bytes (Xen `XENSTORE_REL_PATH_MAX`).
  public static let maximumRelativeByteCount = 2048

  /// The root, `/`.
  public static let root = StorePath(unchecked: "/")
  /// Where domain introductions are watched.
  public static let introduceDomain = StorePath(unchecked: "@introduceDomain")
  /// Where domain deaths are watched.
  public static let releaseDomain = StorePath(unchecked: "@releaseDomain")

  /// Takes text that is known to be well-formed.
  init(unchecked string: String) { self.string = string }

  /// Parses an absolute or special path; nil when it is malformed, too long or relative.
  public init?(_ text: some StringProtocol) {
    guard let first = text.utf8.first, first == UInt8(ascii: "/") || first == UInt8(ascii: "@") else { return nil }
    guard text.utf8.count <= Self.maximumByteCount, Self.isWellFormed(text.utf8) else { return nil }
    string = String(text)
  }

  /// The home of a domain, `/local/domain/<id>`, where its relative paths start.
  public static func home(of domain: DomainID) -> StorePath { StorePath(unchecked: "/local/domain/\(domain)") }

  /// Whether the bytes make a path: only allowed characters, no empty part.
  static func isWellFormed(_ bytes: some Collection<UInt8>) -> Bool {
    var previous: UInt8 = 0
    var count = 0
    for byte in bytes {
      guard isAllowed(byte), byte != UInt8(ascii: "/") || previous != byte else { return false }
      previous = byte
      count += 1
    }
    return count > 0 && (count == 1 || previous != UInt8(ascii: "/"))
  }

  private static func isAllowed(_ byte: UInt8) -> Bool {
    switch byte {
    case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"): true
    case UInt8(ascii: "-")...UInt8(ascii: "/"): byte != UInt8(ascii: ".")
    case UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "_"), UInt8(ascii: "@"): true
    default: false
    }
  }

  /// The path of a child, or of a deeper node when `parts` holds slashes.
  ///
  /// **Assumptions.** `parts` is a well-formed relative path; anything else is the caller's bug and traps. Use
  /// ``appending(_:)`` for text that somebody else wrote.
  public static func / (path: StorePath, parts: String) -> StorePath {
    guard let result = path.appending(parts) else { preconditionFailure("not a relative store path: \(parts)") }
    return result
  }

  /// The path of a child whose name is a number.
  public static func / (path: StorePath, number: some BinaryInteger) -> StorePath {
    precondition(number >= 0, "a node's name has no sign")
    return path.child("\(number)")
  }

  /// The path of a child whose name is a domain's number.
  public static func / (path: StorePath, domain: DomainID) -> StorePath { path.child("\(domain)") }

  /// The path of a child or deeper node; nil when `parts` is not a well-formed relative path.
  public func appending(_ parts: String) -> StorePath? {
    guard parts.utf8.first != UInt8(ascii: "/"), Self.isWellFormed(parts.utf8) else { return nil }
    return child(parts)
  }

  /// The path of a child whose name is known to be well-formed.
  func child(_ name: String) -> StorePath {
    StorePath(unchecked: isRoot ? "/" + name : string + "/" + name)
  }

  /// Whether this is `/`.
  public var isRoot: Bool { string.utf8.count == 1 && !isSpecial }
  /// Whether this names an event rather than a node: it starts with `@`.
  public var isSpecial: Bool { string.utf8.first == UInt8(ascii: "@") }
  /// The number of bytes.
  public var byteCount: Int { string.utf8.count }
  /// The path itself.
  public var description: String { string }

  /// The path without its last part; nil for the root and for special paths.
  public var parent: StorePath? {
    guard !isSpecial, !isRoot, let slash = string.utf8.lastIndex(of: UInt8(ascii: "/")) else { return nil }
    return slash == string.startIndex ? .root : StorePath(unchecked: String(string[..<slash]))
  }

  /// The last part; empty for the root.
  public var name: String {
    guard let slash = string.utf8.lastIndex(of: UInt8(ascii: "/")) else { return string }
    return String(string[string.utf8.index(after: slash)...])
  }

  /// The parts in order; none for the root.
  public var parts: [String] { string.split(separator: "/").map(String.init) }

  /// Whether `other` lies below this path, at any depth.
  public func isAncestor(of other: StorePath) -> Bool { depth(of: other).map { $0 > 0 } ?? false }

  /// How many levels `other` lies below this path: 0 for the path itself, nil when it is elsewhere.
  func depth(of other: StorePath) -> Int? {
    let mine = string.utf8, theirs = other.string.utf8
    if isRoot {
      guard !other.isSpecial else { return nil }
      return other.isRoot ? 0 : theirs.lazy.filter { $0 == UInt8(ascii: "/") }.count
    }
    guard theirs.count >= mine.count, theirs.starts(with: mine) else { return nil }
    let rest = theirs.dropFirst(mine.count)
    guard let first = rest.first else { return 0 }
    return first == UInt8(ascii: "/") ? rest.lazy.filter { $0 == UInt8(ascii: "/") }.count : nil
  }
}

/// What names a node in a call: a ``StorePath``, or text that may be relative to the caller's home.
public protocol StorePathName: Sendable {
  /// The absolute path.
  /// - Throws: `EINVAL` when the text is malformed or too long.
  func resolved(in home: StorePath) throws(StoreError) -> StorePath
  /// Whether the name was given relative to the caller's home; watch events are then relative too.
  var isRelative: Bool { get }
  /// The name as it is sent to a store elsewhere.
  var text: String { get }
}

extension StorePath: StorePathName {
  /// The path itself.
  public func resolved(in home: StorePath) throws(StoreError) -> StorePath {
    guard byteCount <= Self.maximumByteCount else { throw .invalid }
    return self
  }
  /// Always false.
  public var isRelative: Bool { false }
  /// The path as text.
  public var text: String { string }
}

extension String: StorePathName {
  /// The path that the text means for a caller with this home.
  public func resolved(in home: StorePath) throws(StoreError) -> StorePath {
    if !isRelative {
      guard let path = StorePath(self) else { throw .invalid }
      return path
    }
    guard utf8.count <= StorePath.maximumRelativeByteCount, let path = home.appending(self) else { throw .invalid }
    return path
  }
  /// The text itself.
  public var text: String { self }
  /// Whether the text starts with neither `/` nor `@`.
  public var isRelative: Bool { utf8.first != UInt8(ascii: "/") && utf8.first != UInt8(ascii: "@") }
}
