// SPDX-License-Identifier: MIT

/// What an unprivileged domain can have too much of (xenstored's quota names).
public enum StoreQuota: String, CaseIterable, Hashable, Sendable {
  /// Nodes owned by a domain.
  case nodes
  /// Watches of a domain.
  case watches
  /// Requests of a domain whose effects (replies, events) it has not taken yet.
  case outstanding
  /// Bytes that the store keeps for a domain: its nodes, watches, transactions and unread output.
  case memory
  /// Open transactions of a domain.
  case transactions
  /// Nodes touched by one transaction.
  case transactionNodes = "transaction-nodes"
  /// Entries in a permission list.
  case nodePermissions = "node-permissions"
  /// Bytes of a path, not counting `/local/domain/<id>/`.
  case pathMaximum = "path-max"
  /// Bytes of a node: header, permissions, value and children's names.
  case nodeSize = "node-size"

  /// A sentence for people.
  public var summary: String {
    switch self {
    case .nodes: "Nodes per domain"
    case .watches: "Watches per domain"
    case .outstanding: "Outstanding requests per domain"
    case .memory: "Total Xenstore memory per domain"
    case .transactions: "Active transactions per domain"
    case .transactionNodes: "Max. number of accessed nodes per transaction"
    case .nodePermissions: "Max. number of permissions per node"
    case .pathMaximum: "Max. length of a node path"
    case .nodeSize: "Max. size of a node"
    }
  }
}

/// The limits of unprivileged domains; 0 is no limit, and a limit of n allows n.
public struct StoreQuotas: Hashable, Sendable {
  /// The hard limits, by quota.
  private var hard: [Int]
  /// Bytes above which a domain is said to use much memory; nothing is refused for it.
  public var softMemory: Int

  /// The limits that C xenstored starts with.
  public static let xenstored = StoreQuotas(
    hard: [1000, 128, 20, 2_621_440, 10, 1024, 5, 2048, 2048], softMemory: 2_097_152)
  /// No limits.
  public static let unlimited = StoreQuotas(
    hard: Array(repeating: 0, count: StoreQuota.allCases.count), softMemory: 0)

  private init(hard: [Int], softMemory: Int) {
    self.hard = hard
    self.softMemory = softMemory
  }

  /// One limit.
  public subscript(quota: StoreQuota) -> Int {
    get { hard[quota.index] }
    set { hard[quota.index] = newValue }
  }

  /// Whether an amount is above a limit.
  func isExceeded(_ quota: StoreQuota, by amount: Int) -> Bool {
    let limit = self[quota]
    return limit > 0 && amount > limit
  }
}

extension StoreQuotas {
  /// The names that GET_QUOTA lists: one for each hard limit, and `soft-memory`.
  public static let names = StoreQuota.allCases.flatMap { quota in
    quota == .memory ? [quota.rawValue, "soft-memory"] : [quota.rawValue]
  }

  /// A limit by its name on the wire; nil when there is none of that name.
  public subscript(named name: String) -> Int? {
    get { name == "soft-memory" ? softMemory : StoreQuota(rawValue: name).map { self[$0] } }
    set {
      guard let newValue else { return }
      if name == "soft-memory" { softMemory = newValue }
      if let quota = StoreQuota(rawValue: name) { self[quota] = newValue }
    }
  }
}

extension StoreQuota {
  var index: Int {
    switch self {
    case .nodes: 0
    case .watches: 1
    case .outstanding: 2
    case .memory: 3
    case .transactions: 4
    case .transactionNodes: 5
    case .nodePermissions: 6
    case .pathMaximum: 7
    case .nodeSize: 8
    }
  }
}
