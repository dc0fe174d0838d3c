// SPDX-License-Identifier: MIT

import HashTreeCollections

/// The names of a node's children in the order in which they came.
///
/// Few names are kept in an array; many in a persistent dictionary, so that adding one to a copy costs the same however
/// many there are.
struct ChildNames: Sendable {
  private enum Storage {
    case few([String])
    case many(TreeDictionary<String, UInt64>, next: UInt64)
  }

  private static let fewLimit = 48
  private var storage = Storage.few([])
  /// The bytes of all names with a NUL behind each, as DIRECTORY answers them.
  private(set) var byteCount = 0

  var count: Int {
    switch storage {
    case .few(let names): names.count
    case .many(let names, _): names.count
    }
  }

  /// The names, oldest first.
  var inOrder: [String] {
    switch storage {
    case .few(let names): names
    case .many(let names, _): names.sorted { $0.value < $1.value }.map(\.key)
    }
  }

  func contains(_ name: String) -> Bool {
    switch storage {
    case .few(let names): names.contains(name)
    case .many(let names, _): names[name] != nil
    }
  }

  /// Adds a name that is not there.
  mutating func append(_ name: String) {
    byteCount += name.utf8.count + 1
    switch storage {
    case .few(var names):
      storage = .few([])
      names.append(name)
      if names.count <= Self.fewLimit {
        storage = .few(names)
      } else {
        let numbered = names.enumerated().map { ($1, UInt64($0)) }
        storage = .many(TreeDictionary(uniqueKeysWithValues: numbered), next: UInt64(names.count))
      }
    case .many(var names, let next):
      storage = .few([])
      names[name] = next
      storage = .many(names, next: next + 1)
    }
  }

  /// Removes a name that is there.
  mutating func remove(_ name: String) {
    byteCount -= name.utf8.count + 1
    switch storage {
    case .few(var names):
      storage = .few([])
      guard let index = names.firstIndex(of: name) else { preconditionFailure("no such child: \(name)") }
      names.remove(at: index)
      storage = .few(names)
    case .many(var names, let next):
      storage = .few([])
      let removed = names.removeValue(forKey: name)
      precondition(removed != nil, "no such child: \(name)")
      storage = .many(names, next: next)
    }
  }
}

/// What the tree keeps under a path.
struct StoreNode: Sendable {
  var value: [UInt8] = []
  var permissions: StorePermissions
  var children = ChildNames()
  /// The state's generation count when the node was last changed; two states of a node never share one.
  var generation: UInt64

  /// The bytes that the node-size quota counts: header, 8 a permission, value and children's names.
  var byteCount: Int { 16 + 8 * permissions.entries.count + value.count + children.byteCount }
}

/// All nodes by path: an immutable value whose copies share what they have in common.
///
/// Parents hold their children's names, and every node but the root has a parent that names it. Copying the tree costs
/// nothing and changing a copy costs a few small blocks, so an operation that may fail half-way works on a copy.
struct StoreTree: Sendable {
  /// A node under one reference, so that copying a block of the dictionary counts two references a node, not six.
  private final class Leaf: Sendable {
    let node: StoreNode
    init(_ node: StoreNode) { self.node = node }
  }

  private var nodes: TreeDictionary<StorePath, Leaf> = [:]

  /// The number of nodes, special ones included.
  var count: Int { nodes.count }

  subscript(path: StorePath) -> StoreNode? {
    get { nodes[path]?.node }
    set { nodes[path] = newValue.map(Leaf.init) }
  }
}
