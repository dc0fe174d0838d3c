// SPDX-License-Identifier: MIT

import ArgumentParser
import CLinux
import Glibc
import XenStore
import XenWire

/// `pvdisk xenstored`: the store alone, for stock clients.
struct XenStoredCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "xenstored",
    abstract: "Serve a XenStore on a Unix socket.",
    discussion: """
      Stock clients find it through XENSTORED_PATH:  XENSTORED_PATH=/tmp/xs xenstore-ls -fp
      SIGINT and SIGTERM end it and remove the socket; SIGHUP reopens the trace file.
      The options of xenstored 4.17 are accepted, with their letters. Unlike it, this stays in the foreground unless
      --daemonize says otherwise.
      """,
    helpNames: [.short, .long, .customShort("H")])

  @Option(
    help: ArgumentHelp(
      "Where the socket is to be; otherwise XENSTORED_PATH, or XENSTORED_RUNDIR/socket.", valueName: "path"))
  var socket: String?

  @Option(help: ArgumentHelp("The socket's permission bits, octal.", valueName: "bits"))
  var socketMode = "600"

  @OptionGroup(title: "Options of xenstored's")
  var xenstored: XenStoredCompatibilityOptions

  @OptionGroup(title: "Quotas of unprivileged domains (0 is no limit)")
  var limits: XenStoredQuotaOptions

  @Option(
    help: ArgumentHelp(
      "Another socket, whose clients speak for a guest: permissions and quotas apply to them. May be repeated.",
      valueName: "domid=path"))
  var guestSocket: [String] = []

  @Option(
    name: [.customShort("T"), .long], help: ArgumentHelp("Write every message to a file.", valueName: "file"))
  var traceFile: String?

  @Option(help: "How the trace is written: text (as xenstored -T) or json (one object a line).")
  var traceFormat = TraceFormat.text

  @Flag(help: "Go to the background once clients can connect.")
  var daemonize = false

  @Flag(name: [.customShort("P"), .long], help: "Print the process number once clients can connect.")
  var outputPid = false

  @Flag(
    name: [.customShort("N"), .long],
    help: ArgumentHelp("Stay in the foreground: what happens anyway.", visibility: .hidden))
  var noFork = false

  @Option(
    name: [.customShort("F"), .customLong("pid-file")],
    help: ArgumentHelp("Write the process number to a file once clients can connect.", valueName: "file"))
  var pidFile: String?

  @Option(help: ArgumentHelp("Start with a state that --save has written.", valueName: "file"))
  var restore: String?

  @Option(help: ArgumentHelp("Write the state to a file at the end.", valueName: "file"))
  var save: String?

  enum TraceFormat: String, ExpressibleByArgument, CaseIterable {
    case text, json
  }

  func validate() throws {
    guard UInt32(socketMode, radix: 8).map({ $0 <= 0o777 }) == true else {
      throw ValidationError("'\(socketMode)' is no octal permission mask; try 600 or 660.")
    }
    guard !(daemonize && noFork) else { throw ValidationError("--daemonize and --no-fork contradict each other.") }
    _ = try limits.apply(to: .xenstored)
    _ = try guests
    _ = try path
  }

  /// The socket's path, from the option or from where stock clients look.
  private var path: String {
    get throws {
      if let path = socket ?? StoreLocation.fromEnvironment { return path }
      throw ValidationError("Say where the socket is to be, with --socket or XENSTORED_PATH.")
    }
  }

  /// The guests' sockets by domain.
  private var guests: [(domain: DomainID, path: String)] {
    get throws {
      try guestSocket.map { text in
        let parts = text.split(separator: "=", maxSplits: 1)
        guard parts.count == 2, let number = UInt16(parts[0]), number > 0, DomainID(rawValue: number).isReal else {
          throw ValidationError("'\(text)' is no guest's socket; write it as domid=path, for example 5=/tmp/xs5.")
        }
        return (DomainID(rawValue: number), String(parts[1]))
      }
    }
  }

  func run() throws {
    let ready = daemonize ? pv_daemonize_begin() : -1
    if daemonize, ready < 0 { throw Refusal("cannot go to the background: fork failed") }
    DaemonSignals.block()
    let file = traceFile ?? (xenstored.verbose ? "/dev/stderr" : nil)
    let trace = try file.map { path throws -> StoreTrace in
      guard let trace = StoreTrace(path: path, format: traceFormat == .text ? .text : .json) else {
        throw Refusal("cannot write the trace file \(path): \(Refusal.reason)")
      }
      return trace
    }
    let store = try makeStore()
    try xenstored.apply(to: store)
    let listeners = try listen(store, trace)
    defer { for listener in listeners { listener.stop() } }
    let pid = try pidFile.map { path throws in try PIDFile(path: path) }
    defer { pid?.remove() }
    if ready >= 0 { pv_daemonize_end(ready) }
    if outputPid { print(getpid()) }
    fflush(nil)
    while DaemonSignals.wait() == SIGHUP { trace?.reopen() }
    for listener in listeners { listener.stop() }
    if let save {
      do {
        try store.save(to: save)
      } catch {
        throw Refusal("cannot save the state to \(save): \(error)")
      }
    }
  }

  /// Serves the tools' socket and the guests'.
  private func listen(_ store: StoreServer, _ trace: StoreTrace?) throws -> [StoreSocketServer] {
    let mode = UInt32(socketMode, radix: 8) ?? 0o600
    var listeners: [StoreSocketServer] = []
    do {
      listeners.append(try StoreSocketServer(server: store, path: try path, mode: mode, trace: trace))
      let control = store.connect(as: .control)
      for (domain, path) in try guests {
        if !store.isIntroduced(domain) {
          try control.makeDirectory(StorePath.home(of: domain))
          try control.setPermissions(StorePath.home(of: domain), StorePermissions(owner: domain))
          try store.introduce(domain)
        }
        listeners.append(
          try StoreSocketServer(server: store, path: path, mode: mode, trace: trace) { _ in .guest(domain) })
      }
      return listeners
    } catch let error as StoreSocketError {
      for listener in listeners { listener.stop() }
      throw Refusal("\(error)")
    }
  }

  private func makeStore() throws -> StoreServer {
    guard let restore else { return StoreServer(quotas: try limits.apply(to: .xenstored)) }
    do {
      let store = try StoreServer(restoringFrom: restore)
      store.quotas = try limits.apply(to: store.quotas)
      return store
    } catch {
      throw Refusal("cannot restore the state in \(restore): \(error)")
    }
  }
}

/// The quota options of xenstored, with its names and letters.
struct XenStoredQuotaOptions: ParsableArguments {
  @Option(name: [.customShort("E"), .customLong("entry-nb")], help: "Nodes a domain may own (1000).")
  var entries: Int?
  @Option(name: [.customShort("W"), .customLong("watch-nb")], help: "Watches a domain may have (128).")
  var watches: Int?
  @Option(name: [.customShort("S"), .customLong("entry-size")], help: "Bytes a node may have (2048).")
  var entrySize: Int?
  @Option(name: [.customShort("t"), .customLong("transaction")], help: "Transactions a domain may have open (10).")
  var transactions: Int?
  @Option(name: [.customShort("A"), .customLong("perm-nb")], help: "Permissions a node may have (5).")
  var permissions: Int?
  @Option(name: [.customShort("M"), .customLong("path-max")], help: "Bytes a path may have (2048).")
  var pathMaximum: Int?
  @Option(
    name: [.customShort("Q"), .customLong("quota")],
    help: ArgumentHelp(
      "Any limit by name: nodes, watches, outstanding, memory, transactions, transaction-nodes, node-permissions, "
        + "path-max, node-size.", valueName: "name=number"))
  var quota: [String] = []
  @Option(
    name: [.customShort("q"), .customLong("quota-soft")],
    help: ArgumentHelp("The soft limit of memory.", valueName: "memory=number"))
  var softQuota: [String] = []

  /// Limits with those replaced that the options ask for.
  func apply(to limits: StoreQuotas) throws -> StoreQuotas {
    var quotas = limits
    let singles: [(StoreQuota, Int?)] = [
      (.nodes, entries), (.watches, watches), (.nodeSize, entrySize), (.transactions, transactions),
      (.nodePermissions, permissions), (.pathMaximum, pathMaximum),
    ]
    for case (let quota, let value?) in singles {
      guard value >= 0 else { throw ValidationError("A limit cannot be negative.") }
      quotas[quota] = value
    }
    for (texts, prefix) in [(quota, ""), (softQuota, "soft-")] {
      for text in texts {
        let parts = text.split(separator: "=", maxSplits: 1)
        guard parts.count == 2, let value = Int(parts[1]), value >= 0, quotas[named: prefix + parts[0]] != nil else {
          throw ValidationError("'\(text)' is no quota; write it as name=number, for example nodes=1000.")
        }
        quotas[named: prefix + parts[0]] = value
      }
    }
    return quotas
  }
}

/// What else xenstored can be told.
struct XenStoredCompatibilityOptions: ParsableArguments {
  @Flag(
    name: [.customShort("D"), .customLong("no-domain-init")],
    help: "Accepted: domain 0 has no ring page here that would have to be left out.")
  var noDomainInit = false
  @Option(
    name: [.customShort("w"), .long],
    help: ArgumentHelp(
      "How long a guest may leave an event untaken before it is dropped (20 seconds; 0 is for ever).",
      valueName: "watch-event=seconds"))
  var timeout: [String] = []
  @Flag(
    name: [.customShort("R"), .customLong("no-recovery")],
    help: "Accepted: there is nothing to recover, because nodes are never on disk.")
  var noRecovery = false
  @Option(
    name: [.customShort("I"), .customLong("internal-db")],
    help: ArgumentHelp("Accepted: nodes are in memory, always ('off' is refused; see --save).", valueName: "on"))
  var internalDB: String?
  @Flag(
    name: [.customShort("K"), .customLong("keep-orphans")],
    help: "Keep the nodes of a domain that is gone, as domain 0's (a security risk).")
  var keepOrphans = false
  @Flag(name: [.customShort("V"), .long], help: "Write every message to standard error, unless there is a trace file.")
  var verbose = false

  /// The time that a guest has to take an event, in nanoseconds; nil to leave it as it is.
  private var eventPatience: UInt64? {
    get throws {
      try timeout.map { text throws -> UInt64 in
        let parts = text.split(separator: "=", maxSplits: 1)
        guard parts.count == 2, parts[0] == "watch-event", let seconds = UInt64(parts[1]), seconds <= 1_000_000 else {
          throw ValidationError("'\(text)' is no timeout; write it as watch-event=seconds.")
        }
        return seconds * 1_000_000_000
      }.last
    }
  }

  func validate() throws {
    _ = try eventPatience
    guard internalDB == nil || internalDB == "on" else {
      throw ValidationError(
        "Nodes are kept in memory alone: '--internal-db on' is all there is; --save writes them to a file.")
    }
  }

  /// Tells a store what it was asked for.
  func apply(to store: StoreServer) throws {
    if let eventPatience = try eventPatience { store.eventPatience = eventPatience }
    store.keepsOrphans = keepOrphans
  }
}
