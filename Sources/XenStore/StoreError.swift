// SPDX-License-Identifier: MIT

/// Why the store refused, one case for each error name of the wire (Xen `io/xs_wire.h`, `xsd_errors`).
///
/// On the wire an error is its *name*, never a number, so that both ends may run on systems that count differently.
public enum StoreError: String, Error, Hashable, Sendable, CaseIterable {
  /// A malformed path, argument or permission; also what an unknown name means to a client.
  case invalid = "EINVAL"
  /// The caller may not do this, or may not learn whether the node exists.
  case access = "EACCES"
  /// The watch is already there.
  case exists = "EEXIST"
  /// Part of the wire's table; the store never answers it.
  case isDirectory = "EISDIR"
  /// There is no such node, watch, domain or transaction.
  case noSuchEntry = "ENOENT"
  /// The caller's memory quota is used up, or the transaction failed earlier and cannot be committed.
  case noMemory = "ENOMEM"
  /// A quota other than memory is used up.
  case noSpace = "ENOSPC"
  /// The connection is closed.
  case inputOutput = "EIO"
  /// Part of the wire's table; the store never answers it.
  case notEmpty = "ENOTEMPTY"
  /// The operation does not exist.
  case notImplemented = "ENOSYS"
  /// Part of the wire's table; the store never answers it.
  case readOnly = "EROFS"
  /// A transaction inside a transaction, or a feature change of a domain that is already introduced.
  case busy = "EBUSY"
  /// Somebody changed what the transaction had looked at: redo it from the start.
  case again = "EAGAIN"
  /// Part of the wire's table; the store never answers it.
  case isConnected = "EISCONN"
  /// The reply would not fit a message.
  case tooBig = "E2BIG"
  /// An unprivileged caller tried to give a node away.
  case notPermitted = "EPERM"

  /// The name as it stands on the wire, without its NUL.
  public var wireName: String { rawValue }

  /// The error that a name on the wire stands for; an unknown name is `EINVAL`, as libxenstore has it.
  public init(wireName: String) { self = StoreError(rawValue: wireName) ?? .invalid }

  /// The number that Linux gives to the name.
  public var errno: Int32 {
    switch self {
    case .notPermitted: 1
    case .noSuchEntry: 2
    case .inputOutput: 5
    case .tooBig: 7
    case .again: 11
    case .noMemory: 12
    case .access: 13
    case .busy: 16
    case .exists: 17
    case .isDirectory: 21
    case .invalid: 22
    case .noSpace: 28
    case .readOnly: 30
    case .notImplemented: 38
    case .notEmpty: 39
    case .isConnected: 106
    }
  }
}

extension StoreError: CustomStringConvertible {
  /// The wire name.
  public var description: String { rawValue }
}
