// SPDX-License-Identifier: MIT

public import XenWire

extension DomainID {
  /// "Any domain" in a permission entry (newer Xen `DOMID_ANY`, xen.h).
  public static let any = DomainID(rawValue: 0x7FF5)
}

/// What a permission entry allows.
public struct StoreAccess: OptionSet, Hashable, Sendable {
  /// The bits: 1 read, 2 write.
  public let rawValue: UInt8
  /// Wraps bits.
  public init(rawValue: UInt8) { self.rawValue = rawValue }
  /// May see value, children and permissions.
  public static let read = StoreAccess(rawValue: 1)
  /// May change the value, add children, and remove the node.
  public static let write = StoreAccess(rawValue: 2)
  /// May change the permissions; never in an entry, always with the owner.
  static let owner = StoreAccess(rawValue: 4)
  /// Reading and writing.
  public static let both: StoreAccess = [.read, .write]

  /// The letter of the wire: `n`, `r`, `w` or `b`.
  public var letter: Character {
    switch intersection(.both) {
    case .both: "b"
    case .read: "r"
    case .write: "w"
    default: "n"
    }
  }

  /// The access that a letter of the wire stands for.
  public init?(letter: Character) {
    switch letter {
    case "n": self = []
    case "r": self = .read
    case "w": self = .write
    case "b": self = .both
    default: return nil
    }
  }
}

/// One entry of a permission list: a letter and a domain, `r6` on the wire.
public struct StorePermission: Hashable, Sendable, CustomStringConvertible {
  /// Whom the entry is about.
  public var domain: DomainID
  /// What they may do; in a list's first entry: what everybody may do whom the list does not name.
  public var access: StoreAccess

  /// Makes an entry.
  public init(_ access: StoreAccess, _ domain: DomainID) {
    self.domain = domain
    self.access = access
  }

  /// Parses an entry such as `r6`; nil when it is malformed.
  public init?(_ text: some StringProtocol) {
    guard let letter = text.first, let access = StoreAccess(letter: letter) else { return nil }
    let digits = text.dropFirst()
    guard !digits.isEmpty, digits.utf8.allSatisfy({ $0 >= 0x30 && $0 <= 0x39 }), let number = UInt16(digits) else {
      return nil
    }
    self.init(access, DomainID(rawValue: number))
  }

  /// The entry as it stands on the wire.
  public var description: String { "\(access.letter)\(domain)" }
}

/// Who may do what with a node: the owner, what everybody else may do, and exceptions for single domains.
///
/// On the wire `n1 r0` says: owned by domain 1, closed to everybody, but domain 0 may read. The first entry names the
/// owner, who may always do everything; its letter is for all domains that no later entry names. Of later entries for
/// the same domain the first counts.
public struct StorePermissions: Hashable, Sendable, CustomStringConvertible {
  /// The entries in the order of the wire; never empty.
  public private(set) var entries: [StorePermission]

  /// Makes a list from its owner, what others may do, and exceptions.
  public init(owner: DomainID, others: StoreAccess = [], _ exceptions: [StorePermission] = []) {
    entries = [StorePermission(others, owner)] + exceptions
  }

  /// Makes a list from entries; nil when there are none.
  public init?(entries: [StorePermission]) {
    guard !entries.isEmpty else { return nil }
    self.entries = entries
  }

  /// Parses entries such as `n0`, `r6`; nil when one is malformed or there are none.
  public init?(_ texts: some Sequence<some StringProtocol>) {
    var entries: [StorePermission] = []
    for text in texts {
      guard let entry = StorePermission(text) else { return nil }
      entries.append(entry)
    }
    self.init(entries: entries)
  }

  /// The domain that owns the node.
  public var owner: DomainID {
    get { entries[0].domain }
    set { entries[0].domain = newValue }
  }
  /// What everybody may do whom no exception names.
  public var others: StoreAccess { entries[0].access }
  /// The entries behind the first.
  public var exceptions: ArraySlice<StorePermission> { entries.dropFirst() }
  /// The entries with spaces between them, as `xenstore-ls -p` shows them with commas.
  public var description: String { entries.map(\.description).joined(separator: " ") }

  /// Removes the exceptions that do not satisfy a condition.
  mutating func keepExceptions(where condition: (StorePermission) -> Bool) {
    let first = entries[0]
    entries = [first] + exceptions.filter(condition)
  }
}
