// SPDX-License-Identifier: MIT

import Synchronization
public import XenWire

/// A XenStore in this process: the tree, its transactions, watches, permissions and quotas.
///
/// Domains reach it through a ``StoreConnection``. Calls from any thread are taken one at a time; none of them waits for
/// anything, and handlers run outside the lock, on the thread whose call caused the event.
public final class StoreServer: Sendable {
  private let state: Mutex<StoreState>

  /// Makes a store with the nodes of a fresh xenstored: `/`, `/tool/xenstored` and the special watches' nodes.
  public init(quotas: StoreQuotas = .xenstored) {
    state = Mutex(StoreState(quotas: quotas))
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
