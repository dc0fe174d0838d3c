// SPDX-License-Identifier: MIT

/// What `xenstore-ls -fp /` showed on a real host (Xen 4.17, Debian 12).
public struct CapturedTree: Sendable {
  /// A node.
  public struct Node: Equatable, Sendable {
    /// The absolute path.
    public let path: String
    /// The value.
    public let value: String
    /// Owner, others' rights and exceptions, as `n5,r0`.
    public let permissions: String

    /// Describes a node.
    public init(path: String, value: String, permissions: String) {
      self.path = path
      self.value = value
      self.permissions = permissions
    }
  }

  /// The nodes in the order of the listing: folders before their children, children in the order of their creation.
  public let nodes: [Node]

  /// Reads a listing by its scenario's name.
  public init(_ name: String) throws {
    nodes = try Records.lines("trees/\(name).txt").filter { $0.hasPrefix("/") }.map { line in
      let parts = line.split(separator: " = \"", maxSplits: 1).map(String.init)
      let rest = parts[1].split(separator: "\"   (", maxSplits: 1, omittingEmptySubsequences: false).map(String.init)
      return Node(path: parts[0], value: rest[0], permissions: String(rest[1].dropLast()))
    }
  }
}
