// SPDX-License-Identifier: MIT

/// What was written into a real XenStore while a disk came or went (Xen 4.17, Linux 6.1 at both ends).
public struct CapturedConversation: Sendable {
  /// One request.
  public struct Line: Equatable, Sendable {
    /// `domU`, `dom0-kernel`, or one of dom0's programs.
    public let actor: String
    /// `WRITE`, `MKDIR`, `RM` or `SET_PERMS`.
    public let operation: String
    /// The node's absolute path.
    public let path: String
    /// What was written.
    public let value: String
  }

  /// A node as it stood once both ends were connected.
  public struct Node: Equatable, Sendable {
    /// The node's absolute path.
    public let path: String
    /// Owner and readers, as `n5,r0`.
    public let permissions: String
    /// Its value.
    public let value: String
  }

  /// The requests in order.
  public let lines: [Line]
  /// The folders of both ends once they were connected, in the order of the nodes' creation.
  public let nodes: [Node]
  /// The guest's domain number.
  public let guest: Int

  /// Reads a conversation by its scenario's name.
  public init(_ name: String) throws {
    var lines: [Line] = []
    var nodes: [Node] = []
    var guest = 0
    for text in try Records.lines("conversations/\(name).txt") where !text.hasPrefix("#") {
      let words = text.split(separator: " ", maxSplits: 3, omittingEmptySubsequences: false).map(String.init)
      if words[1] == "NODE" {
        let rest = words[3].split(separator: " ", maxSplits: 1, omittingEmptySubsequences: false).map(String.init)
        nodes.append(Node(path: words[2], permissions: rest[0], value: rest.count > 1 ? rest[1] : ""))
      } else {
        lines.append(
          Line(actor: words[0], operation: words[1], path: words[2], value: words.count > 3 ? words[3] : ""))
      }
      let path = words[2].split(separator: "/").map(String.init)
      if path.count > 3, path[3] == "device" { guest = Int(path[2]) ?? 0 }
    }
    self.lines = lines
    self.nodes = nodes
    self.guest = guest
  }
}
