// SPDX-License-Identifier: MIT

import CLinux
import Synchronization
public import XenWire

/// A XenStore in this process: the tree, its transactions, watches, permissions and quotas.
///
/// Domains reach it through a ``StoreConnection``. Calls from any thread are taken one at a time; none of them waits for
/// anything, and handlers run outside the lock, on the thread whose call caused the event.
public final class StoreServer: Sendable {
  private let state: Mutex<StoreState>
  /// Bugs that a test has planted.
  let faults: StoreFaults
  let interruption: (@Sendable () -> StoreError?)?

  /// Makes a store with the nodes of a fresh xenstored: `/`, `/tool/xenstored` and the special watches' nodes.
  ///
  /// - Parameters:
  ///   - clock: Nanoseconds that never go back; for the write-rate limit and for events that nobody takes.
  ///   - interruption: Asked before each call of a connection in this process that is more than a look; an error is what the
  ///     call then answers. For simulations.
  public convenience init(
    quotas: StoreQuotas = .xenstored, clock: (@Sendable () -> UInt64)? = nil,
    interruption: (@Sendable () -> StoreError?)? = nil
  ) {
    self.init(quotas: quotas, clock: clock, faults: StoreFaults(), interruption: interruption)
  }

  init(
    quotas: StoreQuotas, clock: (@Sendable () -> UInt64)?, faults: StoreFaults,
    interruption: (@Sendable () -> StoreError?)? = nil
  ) {
    self.faults = faults
    self.interruption = interruption
    var state = StoreState(quotas: quotas, clock: clock ?? { pv_monotonic_nanoseconds() })
    state.faults = faults
    self.state = Mutex(state)
  }

  init(state: consuming StoreState) {
    faults = state.faults
    interruption = nil
    self.state = Mutex(state)
  }

  /// Opens a connection for a domain.
  ///
  /// A privileged connection may do everything and has no quotas; by default that is the control domain's. Relative
  /// paths start at `/local/domain/<id>`.
  public func connect(as domain: DomainID, privileged: Bool? = nil) -> StoreConnection {
    let isPrivileged = privileged ?? (domain == .control)
    let id = perform { state in state.connect(as: domain, isPrivileged: isPrivileged) }
    return StoreConnection(server: self, id: id, domain: domain)
  }

  /// Tells the store that a domain exists (INTRODUCE): fires `@introduceDomain`.
  public func introduce(_ domain: DomainID) throws(StoreError) {
    try attempt { (state) throws(StoreError) in try state.introduce(domain) }
  }

  /// Tells the store that a domain is gone (RELEASE): closes its connections, removes its nodes and its rights
  /// everywhere, and fires `@releaseDomain`.
  public func release(_ domain: DomainID) throws(StoreError) {
    try attempt { (state) throws(StoreError) in try state.release(domain) }
  }

  /// Notes that a domain has shut down or crashed but is not gone yet: fires the watches of `@releaseDomain` that ask
  /// which domain it was.
  public func shutDown(_ domain: DomainID) throws(StoreError) {
    try attempt { (state) throws(StoreError) in try state.shutDown(domain) }
  }

  /// Whether a domain was introduced and not released since.
  public func isIntroduced(_ domain: DomainID) -> Bool {
    perform { state in state.domains[domain]?.isIntroduced == true }
  }

  /// What a domain is offered on its ring page.
  public func features(of domain: DomainID) -> StoreFeatures {
    perform { state in state.domains[domain]?.features ?? .all }
  }

  /// How much of everything there is now.
  public var statistics: StoreStatistics {
    perform { state in
      StoreStatistics(
        nodes: state.tree.count, connections: state.connections.count, watches: state.watches.records.count,
        transactions: state.transactionCount,
        waitingEvents: state.waitingEvents,
        accountedBytes: state.domains.values.reduce(0) { $0 + $1[.memory] })
    }
  }

  /// How much of a quota a domain uses now.
  public func usage(of quota: StoreQuota, by domain: DomainID) -> Int {
    perform { state in state.domains[domain]?[quota] ?? 0 }
  }

  /// The limits that new domains start with.
  public var quotas: StoreQuotas {
    get { perform { state in state.quotas } }
    set { perform { state in state.quotas = newValue } }
  }

  /// How long an unprivileged client may leave an event untaken before it is dropped, in nanoseconds (xenstored: 20 s);
  /// 0 for ever.
  public var eventPatience: UInt64 {
    get { perform { state in state.eventPatience } }
    set { perform { state in state.eventPatience = newValue } }
  }

  /// Whether nodes of a domain that is gone stay, as the control domain's (xenstored's `--keep-orphans`).
  public var keepsOrphans: Bool {
    get { perform { state in state.keepsOrphans } }
    set { perform { state in state.keepsOrphans = newValue } }
  }

  /// What is wrong with the store, in sentences; empty unless there is a bug.
  public func check() -> [String] { perform { state in state.inconsistencies() } }

  /// Runs an operation that may be refused, then calls the handlers that it woke.
  func attempt<R: Sendable>(_ body: (inout StoreState) throws(StoreError) -> R) throws(StoreError) -> R {
    let result = perform { state in
      Result<R, StoreError> { () throws(StoreError) -> R in try body(&state) }
    }
    return try result.get()
  }

  /// Runs an operation, then calls the handlers that it woke.
  func perform<R: Sendable>(_ body: (inout StoreState) -> R) -> R {
    let (result, wakes) = state.withLock { state in (body(&state), state.takeWakes()) }
    for wake in wakes { wake() }
    return result
  }
}

/// How much a store holds.
public struct StoreStatistics: Hashable, Sendable {
  /// Nodes, the two special ones included.
  public let nodes: Int
  /// Open connections, of the process and of sockets and rings.
  public let connections: Int
  /// Registered watches.
  public let watches: Int
  /// Open transactions.
  public let transactions: Int
  /// Events that their clients have not fetched yet.
  public let waitingEvents: Int
  /// Bytes accounted to all domains.
  public let accountedBytes: Int
}
