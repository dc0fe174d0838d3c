// SPDX-License-Identifier: MIT

public import XenWire

/// One client of the wire protocol: request bytes in, reply and event bytes out.
///
/// A session does no I/O; a transport (``StoreSocketServer``, ``StoreRingServer``) carries its bytes. Requests are
/// carried out in the order in which they came, each before the next is looked at, and replies and events form one
/// stream: an event stands before the reply of every request that was carried out after the change.
///
/// A client that does not read what it is sent is not listened to once ``outputLimit`` bytes wait, nor is a guest that
/// has used up its `outstanding` or `memory` quota or its write credit. Meanwhile its events wait in the store, where
/// equal ones are merged.
///
/// **Assumptions.** One thread at a time.
public final class StoreSession {
  /// The domain that the client speaks for.
  public let domain: DomainID
  /// Whether the client is free of permissions and quotas.
  public let isPrivileged: Bool
  /// Why the session is dead (the client broke the protocol or let too many events pile up); `.none` while it lives.
  public private(set) var failure = StoreRingError.none

  /// The unsent bytes above which no further request is carried out.
  public static let outputLimit = 1 << 16
  /// The unsent bytes above which events stay in the store, where equal ones are merged and a guest's grow old.
  static let eventBatch = 4096
  /// The most bytes of events that wait for a privileged client before it is given up.
  public static let eventLimit = 16 << 20

  let server: StoreServer
  let id: ConnectionID
  /// The client as a caller outside of transactions, without a target's rights.
  private let identity: StoreCaller
  let trace: StoreTrace?
  private var isClosed = false
  private var input = ByteQueue()
  private var output = ByteQueue()
  /// The stream position up to which bytes were sent, and where the replies of unsettled requests end.
  private var sentByteCount = 0
  private var unsettled: [(end: Int, request: UInt64)] = []
  /// A whole request waits for a quota or for write credit.
  private var isHeldUp = false

  /// Opens a session for a client that speaks for a domain.
  /// - Parameters:
  ///   - privileged: Whether it may do everything; by default if it speaks for the control domain.
  ///   - trace: Where its messages are written down.
  ///   - onOutput: Called, with no lock held, when ``collect()`` has something to do: on any thread.
  public init(
    server: StoreServer, domain: DomainID, privileged: Bool? = nil, trace: StoreTrace? = nil,
    onOutput: @escaping @Sendable () -> Void
  ) {
    self.server = server
    self.domain = domain
    let isPrivileged = privileged ?? (domain == .control)
    self.isPrivileged = isPrivileged
    self.trace = trace
    id = server.perform { state in
      let id = state.connect(as: domain, isPrivileged: isPrivileged)
      state.connections[id]?.handler = onOutput
      state.connections[id]?.eventLimit = Self.eventLimit
      return id
    }
    identity = StoreCaller(
      connection: id, domain: domain, isPrivileged: isPrivileged, home: .home(of: domain))
    trace?.create("connection", id.number)
  }

  deinit { if !isClosed { close() } }

  /// Ends the session: its watches and transactions are gone.
  public func close() {
    isClosed = true
    server.perform { state in
      account(&state, -output.count)
      for entry in unsettled { state.settle(entry.request) }
      state.disconnect(id)
    }
    unsettled = []
    output.removeAll()
    input.removeAll()
    trace?.destroy("connection", id.number)
  }

  // MARK: Bytes in

  /// Whether the transport should fetch more bytes from the client.
  public var wantsInput: Bool {
    failure == .none && output.count < Self.outputLimit
      && input.count < StoreMessageHeader.byteCount + StoreMessageHeader.maximumPayload
  }

  /// Takes bytes from the client and carries out the requests that they complete.
  public func receive(_ bytes: some Collection<UInt8>) {
    input.append(bytes)
    serve()
  }

  /// Takes bytes from a descriptor, by way of the caller's memory, and answers what `read(2)` did.
  func receive(from descriptor: Int32, by scratch: UnsafeMutableRawBufferPointer) -> Int {
    // SAFETY: the buffer is the caller's, for the time of the call.
    let count = unsafe input.fill(from: descriptor, by: scratch)
    if count > 0 { serve() }
    return count
  }

  /// Carries out the requests that are complete, as far as the client may go on.
  private func serve() {
    isHeldUp = false
    while failure == .none, output.count < Self.outputLimit, let header = StoreMessageHeader(input.bytes) {
      let isSmall =
        server.faults.has(.lengthIsSigned)
        ? Int32(bitPattern: header.payloadByteCount) <= StoreMessageHeader.maximumPayload
        : header.payloadByteCount <= UInt32(StoreMessageHeader.maximumPayload)
      guard isSmall else {
        return fail(.protocolViolation)
      }
      let length = StoreMessageHeader.byteCount + Int(header.payloadByteCount)
      guard input.count >= length else { return }
      let payload = input.bytes.prefix(length).dropFirst(StoreMessageHeader.byteCount)
      guard exchange(header, StoreArguments(bytes: payload)) else {
        isHeldUp = true
        return
      }
      input.removeFirst(length)
    }
    if output.count >= Self.outputLimit, !input.isEmpty { mustCollect = true }
  }

  /// Carries out one request and puts its reply and the events before it into the output; false when it must wait.
  private func exchange(_ header: StoreMessageHeader, _ arguments: StoreArguments) -> Bool {
    let before = output.count
    let isServed = server.perform { state in
      guard isPrivileged || state.mayServe(id) else { return false }
      trace?.message(.incoming, id.number, domain, header, arguments.bytes)
      let request = isPrivileged ? 0 : state.beginRequest(of: domain)
      let isWatch = header.type == .watch
      let result = Result<StoreReply, StoreError> { () throws(StoreError) -> StoreReply in
        try perform(header, arguments, &state)
      }
      state.requests.end()
      if !isWatch { takeEvents(&state, limit: .max) }
      reply(to: header, result)
      if isWatch { takeEvents(&state, limit: .max) }
      account(&state, output.count - before)
      if request != 0 { unsettled.append((sentByteCount + output.count, request)) }
      if !state.isOpen(id) { failure = .communication }
      return true
    }
    return isServed
  }

  /// The client as the caller of a request.
  func caller(in number: UInt32, _ state: inout StoreState) throws(StoreError) -> StoreCaller {
    if number == 0, isPrivileged, state.isOpen(id) { return identity }
    return try state.caller(id, in: number == 0 ? nil : TransactionID(rawValue: number))
  }

  /// Whether nothing is half-done here: no part of a request, no reply that waits, and no more of them coming.
  var isAtRest: Bool {
    failure == .none && input.isEmpty && output.isEmpty && unsettled.isEmpty && !isHeldUp && !mustCollect
  }

  // MARK: Bytes out

  /// The number of bytes that wait to be sent.
  public var outputByteCount: Int { output.count }
  /// The bytes that wait to be sent.
  public var outputBytes: ArraySlice<UInt8> { output.bytes }

  /// Fetches events that wait in the store, and goes on with requests that had to wait.
  public func collect() {
    guard failure == .none else { return }
    let before = output.count
    let isAlive = server.perform { state in
      guard let record = state.connections[id], !record.isOverrun else { return false }
      if output.count < Self.eventBatch { takeEvents(&state, limit: Self.eventBatch) }
      mustCollect = state.connections[id]?.events.isEmpty == false
      account(&state, output.count - before)
      return true
    }
    guard isAlive else { return fail(.communication) }
    serve()
  }

  /// Whether ``collect()`` would find something now that there is room for output: events that were left in the store,
  /// or requests that had to wait for the room.
  public private(set) var mustCollect = false

  /// Whether requests wait for write credit, or events grow old behind unsent output: nobody will call then, so the
  /// transport must call ``collect()``, send, and call ``expireEvents()`` every ``tick``.
  var isWaitingForTime: Bool {
    guard !isPrivileged, failure == .none, isHeldUp || mustCollect else { return false }
    return server.perform { state in
      isHeldUp && state.domains[domain]?.writeCredit.isSpent == true || state.connections[id]?.events.isEmpty == false
    }
  }

  /// How often a transport looks at sessions that wait for time to pass, in nanoseconds.
  public static let tick: UInt64 = 20_000_000

  /// Drops events that have waited for too long behind output that the client does not take.
  func expireEvents() {
    guard !isPrivileged, output.count > 0 || mustCollect else { return }
    server.perform { state in state.expireEvents(of: id) }
  }

  /// Notes that bytes went to the client.
  public func removeOutput(_ count: Int) {
    output.removeFirst(count)
    noteSent(count)
  }

  /// Sends to a socket without blocking, and answers what `send(2)` did.
  func sendOutput(to descriptor: Int32) -> Int {
    let count = output.drain(to: descriptor)
    if count > 0 { noteSent(count) }
    return count
  }

  private func noteSent(_ count: Int) {
    guard !isPrivileged else { return }
    sentByteCount += count
    let settled = unsettled.prefix { $0.end <= sentByteCount }
    unsettled.removeFirst(settled.count)
    server.perform { state in
      account(&state, -count)
      for entry in settled { state.settle(entry.request) }
    }
  }

  /// Drops the client's watches, transactions and everything half-done, and starts anew.
  func restart() {
    server.perform { state in
      account(&state, -output.count)
      for entry in unsettled { state.settle(entry.request) }
      state.reset(id)
    }
    unsettled = []
    sentByteCount += output.count
    output.removeAll()
    input.removeAll()
    mustCollect = false
    isHeldUp = false
    failure = .none
  }

  /// Gives the client up: nothing of it is heard any more, but its domain stays known (XSA-325).
  func fail(_ reason: StoreRingError) {
    restart()
    if server.faults.has(.violatorForgotten) { server.perform { $0.domains[domain] = nil } }
    failure = reason
  }

  private func takeEvents(_ state: inout StoreState, limit: Int) {
    var taken = 0
    while taken < limit, let event = state.nextEvent(id) {
      let header = StoreMessageHeader(
        type: .watchEvent, requestID: 0, transactionID: 0,
        payloadByteCount: UInt32(event.messageByteCount - StoreMessageHeader.byteCount))
      let start = output.count + StoreMessageHeader.byteCount
      output.withStorage { header.append(to: &$0) }
      output.append(event.path.utf8)
      output.append(0)
      output.append(event.token.utf8)
      output.append(0)
      trace?.message(.outgoing, id.number, domain, header, output.bytes.dropFirst(start))
      taken += event.messageByteCount
    }
  }

  private func reply(to request: StoreMessageHeader, _ result: Result<StoreReply, StoreError>) {
    var type = request.type
    var payload: [UInt8]
    switch result {
    case .success(.okay): payload = Self.okay
    case .success(.text(let text)): payload = Array(text.utf8) + [0]
    case .success(.bytes(let bytes)): payload = bytes
    case .failure(let error):
      type = .error
      payload = Array(error.wireName.utf8) + [0]
    }
    if payload.count > StoreMessageHeader.maximumPayload, !server.faults.has(.longReplySent) {
      type = .error
      payload = Array(StoreError.tooBig.wireName.utf8) + [0]
    }
    let header = StoreMessageHeader(
      type: type, requestID: request.requestID, transactionID: request.transactionID,
      payloadByteCount: UInt32(payload.count))
    output.withStorage { header.append(to: &$0) }
    output.append(payload)
    trace?.message(.outgoing, id.number, domain, header, payload[...])
  }

  private static let okay: [UInt8] = [0x4F, 0x4B, 0]

  private func account(_ state: inout StoreState, _ bytes: Int) {
    // Without its connection the domain that ran up the bytes is gone: a later one under its number owes nothing.
    guard !isPrivileged, bytes != 0, state.isOpen(id) else { return }
    state.domains[domain]?.add(.memory, bytes)
    if bytes < 0 { state.wakeStalled(domain) }
  }
}
