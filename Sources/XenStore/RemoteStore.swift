// SPDX-License-Identifier: MIT

import CLinux
import Glibc
import Synchronization
public import XenWire

/// A domain's way into a store that is elsewhere: behind a socket, a device of a real Xen's kernel, or a ring page.
///
/// Several handles may share one connection, as all drivers of a guest share its one ring page: each has its own watches and
/// events. Somebody must say when bytes may have come: ``listen()`` starts a thread for a descriptor; whoever holds a ring
/// page's event channel calls ``collect()``.
public final class RemoteStore: StoreHandle {
  /// The connection that handles share.
  private let line: StoreLine
  private let number: Int
  /// The domain that the handle speaks for.
  public var domain: DomainID { line.domain }

  /// Speaks for a domain through a client, which from now on belongs to the handle.
  public convenience init(_ client: consuming sending StoreClient, domain: DomainID) {
    self.init(line: StoreLine(client, domain: domain))
  }

  /// Connects to a store's socket and listens there for events.
  /// - Parameter patience: How many milliseconds the store may owe an answer; nil for as long as it takes.
  public convenience init(
    socket path: String, domain: DomainID = .control, patience: Int32? = nil
  ) throws(StoreClientError) {
    let transport = try StoreSocketTransport(path: path, patience: patience)
    let descriptor = transport.descriptor
    self.init(StoreClient(over: transport), domain: domain)
    listen(on: descriptor)
  }

  /// Opens the device by which a guest's kernel shares its connection, asks who the guest is, and listens for events.
  public convenience init(device path: String) throws(StoreClientError) {
    let transport = try StoreDeviceTransport(path: path)
    let descriptor = transport.descriptor
    let client = StoreClient(over: transport)
    let text = String(decoding: try client.readBytes("domid"), as: UTF8.self)
    guard let number = UInt16(text) else { throw .protocolViolation }
    self.init(client, domain: DomainID(rawValue: number))
    listen(on: descriptor)
  }

  private init(line: StoreLine) {
    self.line = line
    number = line.addShare()
  }

  deinit { close() }

  /// Another handle on the same connection, with watches and events of its own.
  public func share() -> RemoteStore { RemoteStore(line: line) }

  /// Ends the handle's watches and undelivered events; the connection ends with its last handle.
  public func close() { line.removeShare(number) }

  /// Takes the events that have come, without waiting, and calls the handlers of those whom they are for.
  public func collect() { line.collect() }

  /// Starts a thread that waits at a descriptor for events; it ends with the connection.
  public func listen(on descriptor: Int32) { line.listen(on: descriptor) }

  /// Ends the connection for all handles that share it; every further call is answered `EIO`.
  public func disconnect() { line.disconnect() }

  /// Whether the other end closed the connection or broke the protocol; every call is then answered `EIO`.
  public var isBroken: Bool { line.isBroken }

  // MARK: Operations

  /// A node's value.
  public func readBytes(
    _ path: some StorePathName, in transaction: TransactionID? = nil
  ) throws(StoreError) -> [UInt8] {
    try line.ask { (client) throws(StoreClientError) in try client.readBytes(path, in: transaction) }
  }

  /// Sets a node's value; the node and missing ancestors are created.
  public func write(
    _ path: some StorePathName, bytes: [UInt8], in transaction: TransactionID? = nil
  ) throws(StoreError) {
    try line.ask { (client) throws(StoreClientError) in try client.write(path, bytes: bytes, in: transaction) }
  }

  /// Whether a node is there.
  public func exists(_ path: some StorePathName, in transaction: TransactionID? = nil) throws(StoreError) -> Bool {
    try line.ask { (client) throws(StoreClientError) in try client.exists(path, in: transaction) }
  }

  /// The names of a node's children, oldest first.
  public func directory(
    _ path: some StorePathName, in transaction: TransactionID? = nil
  ) throws(StoreError) -> [String] {
    try line.ask { (client) throws(StoreClientError) in try client.directory(path, in: transaction) }
  }

  /// Creates a node with an empty value; a node that exists keeps its value.
  public func makeDirectory(_ path: some StorePathName, in transaction: TransactionID? = nil) throws(StoreError) {
    try line.ask { (client) throws(StoreClientError) in try client.makeDirectory(path, in: transaction) }
  }

  /// Removes a node and everything below it.
  public func remove(_ path: some StorePathName, in transaction: TransactionID? = nil) throws(StoreError) {
    try line.ask { (client) throws(StoreClientError) in try client.remove(path, in: transaction) }
  }

  /// A node's permissions.
  public func permissions(
    _ path: some StorePathName, in transaction: TransactionID? = nil
  ) throws(StoreError) -> StorePermissions {
    try line.ask { (client) throws(StoreClientError) in try client.permissions(path, in: transaction) }
  }

  /// Sets a node's permissions.
  public func setPermissions(
    _ path: some StorePathName, _ permissions: StorePermissions, in transaction: TransactionID? = nil
  ) throws(StoreError) {
    try line.ask { (client) throws(StoreClientError) in
      try client.setPermissions(path, permissions, in: transaction)
    }
  }

  /// Opens a transaction.
  public func startTransaction() throws(StoreError) -> TransactionID {
    try line.ask { (client) throws(StoreClientError) in try client.startTransaction() }
  }

  /// Ends a transaction.
  public func endTransaction(_ transaction: TransactionID, commit: Bool) throws(StoreError) {
    try line.ask { (client) throws(StoreClientError) in try client.endTransaction(transaction, commit: commit) }
  }

  /// Asks to be told of changes at a path and below.
  public func watch(_ path: some StorePathName, token: String, depth: Int? = nil) throws(StoreError) {
    let wire = StoreLine.wireToken(number, token)
    try line.ask { (client) throws(StoreClientError) in try client.watch(path, token: wire, depth: depth) }
    line.remember(number, path.text, wire)
  }

  /// Ends a watch.
  public func unwatch(_ path: some StorePathName, token: String) throws(StoreError) {
    let wire = StoreLine.wireToken(number, token)
    line.forget(number, path.text, wire)
    try line.ask { (client) throws(StoreClientError) in try client.unwatch(path, token: wire) }
  }

  /// Takes the oldest event; nil when none waits.
  public func nextEvent() -> WatchEvent? {
    line.collect()
    return line.nextEvent(number)
  }

  /// Has a handler called whenever the queue of events stops being empty, and at once if it is not empty now.
  public func onEvents(_ handler: (@Sendable () -> Void)?) { line.setHandler(number, handler) }
}

/// A connection to a store elsewhere, and the handles that share it.
private final class StoreLine: Sendable {
  private struct Share {
    var events: [WatchEvent] = []
    var handler: (@Sendable () -> Void)?
    var watches: [(path: String, token: String)] = []
  }

  private struct State {
    var shares: [Int: Share] = [:]
    var last = 0
    var isBroken = false
    var isListening = false
  }

  /// The client, which is only touched under the line's lock.
  private struct GuardedClient: @unchecked Sendable {
    // SAFETY: made from a client that nobody else holds; every use is inside `client.withLock`.
    let client: StoreClient
  }

  let domain: DomainID
  private let client: Mutex<GuardedClient>
  private let state = Mutex(State())
  /// An eventfd that ends the listening thread.
  private let end = eventfd(0, CInt(EFD_CLOEXEC))

  init(_ client: consuming sending StoreClient, domain: DomainID) {
    self.client = Mutex(GuardedClient(client: client))
    self.domain = domain
  }

  deinit { Glibc.close(end) }

  var isBroken: Bool { state.withLock { $0.isBroken } }

  // MARK: Shares

  func addShare() -> Int {
    state.withLock { state in
      state.last += 1
      state.shares[state.last] = Share()
      return state.last
    }
  }

  func removeShare(_ number: Int) {
    let (share, isLast) = state.withLock { state in (state.shares.removeValue(forKey: number), state.shares.isEmpty) }
    guard let share else { return }
    for watch in share.watches {
      try? ask { (client) throws(StoreClientError) in try client.unwatch(watch.path, token: watch.token) }
    }
    if isLast, state.withLock({ $0.isListening }) {
      var one: UInt64 = 1
      // SAFETY: the address is of a local value of eight bytes.
      _ = unsafe Glibc.write(end, &one, 8)
    }
  }

  /// A token that says whose watch it is.
  static func wireToken(_ number: Int, _ token: String) -> String { "\(number)/\(token)" }

  func remember(_ number: Int, _ path: String, _ token: String) {
    state.withLock { $0.shares[number]?.watches.append((path, token)) }
  }

  func forget(_ number: Int, _ path: String, _ token: String) {
    state.withLock { $0.shares[number]?.watches.removeAll { $0.path == path && $0.token == token } }
  }

  func setHandler(_ number: Int, _ handler: (@Sendable () -> Void)?) {
    let hasEvents = state.withLock { state in
      state.shares[number]?.handler = handler
      return state.shares[number]?.events.isEmpty == false
    }
    if hasEvents { handler?() }
  }

  func nextEvent(_ number: Int) -> WatchEvent? {
    state.withLock { state in
      guard state.shares[number]?.events.isEmpty == false else { return nil }
      return state.shares[number]?.events.removeFirst()
    }
  }

  // MARK: Messages

  /// Carries out a request, then looks whether events came with its reply.
  func ask<R: Sendable>(_ body: (StoreClient) throws(StoreClientError) -> R) throws(StoreError) -> R {
    let result = client.withLock { guarded in
      Result<R, StoreClientError> { () throws(StoreClientError) -> R in
        guard !isBroken else { throw .disconnected }
        return try body(guarded.client)
      }
    }
    collect()
    switch result {
    case .success(let value): return value
    case .failure(.refused(let error)): throw error
    case .failure:
      state.withLock { $0.isBroken = true }
      throw .inputOutput
    }
  }

  /// Sorts the events that are there; a thread that finds another at it leaves them to that one.
  func collect() {
    guard let handlers = client.withLockIfAvailable({ sort($0.client) }) else { return }
    for handler in handlers { handler() }
  }

  func disconnect() { client.withLock { _ in state.withLock { $0.isBroken = true } } }

  /// Gives each event to its handle, and answers whom to tell.
  private func sort(_ client: StoreClient) -> [@Sendable () -> Void] {
    var found: [WatchEvent] = []
    var isBroken = false
    guard !self.isBroken else { return [] }
    do {
      while let event = try client.nextEvent(milliseconds: 0) { found.append(event) }
    } catch {
      isBroken = true
    }
    guard isBroken || !found.isEmpty else { return [] }
    return state.withLock { state in
      let isNews = isBroken && !state.isBroken
      var told = Set(isNews ? Array(state.shares.keys) : [])
      state.isBroken = state.isBroken || isBroken
      for event in found {
        guard let slash = event.token.firstIndex(of: "/"), let number = Int(event.token[..<slash]) else { continue }
        if state.shares[number]?.events.isEmpty == true { told.insert(number) }
        let token = String(event.token[event.token.index(after: slash)...])
        state.shares[number]?.events.append(WatchEvent(path: event.path, token: token))
      }
      return told.sorted().compactMap { state.shares[$0]?.handler }
    }
  }

  /// Waits at a descriptor until the last handle is gone or the connection breaks.
  func listen(on descriptor: CInt) {
    let isFirst = state.withLock { state in
      defer { state.isListening = true }
      return !state.isListening
    }
    guard isFirst else { return }
    let line = self
    let thread = ThreadHandle.start {
      while !line.isBroken {
        var entries = [
          pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0),
          pollfd(fd: line.end, events: Int16(POLLIN), revents: 0),
        ]
        // SAFETY: the address and the count are those of the array.
        _ = unsafe entries.withUnsafeMutableBufferPointer { unsafe poll($0.baseAddress, 2, -1) }
        if entries[1].revents != 0 { return }
        if entries[0].revents != 0 { line.collect() }
      }
    }
    // It may be the thread itself that lets the last handle go.
    thread?.detach()
  }
}
