// SPDX-License-Identifier: MIT

import ArgumentParser
import Glibc
import XenStore

/// `pvdisk xenstore`: looks into a store and changes it.
struct XenStoreCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "xenstore",
    abstract: "Look into a XenStore and change it.",
    subcommands: [
      XenStoreList.self, XenStoreTree.self, XenStoreRead.self, XenStoreWrite.self, XenStoreRemove.self,
      XenStoreExists.self, XenStorePermit.self, XenStoreWatch.self,
    ])
}

/// Which store a subcommand talks to.
struct XenStoreAddress: ParsableArguments {
  @Option(
    help: ArgumentHelp(
      "The store's socket; otherwise XENSTORED_PATH, XENSTORED_RUNDIR/socket or /var/run/xenstored/socket.",
      valueName: "path"))
  var socket: String?

  /// Where the store is.
  var path: String { socket ?? StoreLocation.fromEnvironment ?? "/var/run/xenstored/socket" }

  /// Connects.
  func connect() throws -> StoreClient {
    do {
      return try StoreClient(socket: path)
    } catch {
      throw Refusal("cannot connect to the XenStore at \(path): \(error)")
    }
  }
}

/// Where stock clients look for a store's socket.
enum StoreLocation {
  /// What XENSTORED_PATH or XENSTORED_RUNDIR say; nil when neither is set.
  static var fromEnvironment: String? {
    variable("XENSTORED_PATH") ?? variable("XENSTORED_RUNDIR").map { $0 + "/socket" }
  }

  private static func variable(_ name: String) -> String? {
    guard let value = unsafe getenv(name) else { return nil }
    return unsafe String(cString: value)
  }
}

/// `pvdisk xenstore list`: the names of a node's children.
struct XenStoreList: ParsableCommand {
  static let configuration = CommandConfiguration(commandName: "list", abstract: "List the children of nodes.")
  @OptionGroup var address: XenStoreAddress
  @Flag(name: [.customShort("p"), .long], help: "Show whole paths.") var prefix = false
  @Flag(help: "Print one JSON object: path to names.") var json = false
  @Argument(help: "Nodes.") var paths: [String]

  func run() throws {
    let store = try address.connect()
    var fields: [String] = []
    for path in paths {
      let names = try StoreOutput.refusing("could not list path \(path)") { () throws(StoreClientError) in
        try store.directory(path)
      }
      if json {
        fields.append("\(StoreOutput.quoted(path)):[\(names.map(StoreOutput.quoted).joined(separator: ","))]")
      } else {
        for name in names { print(prefix ? (path == "/" ? "/\(name)" : "\(path)/\(name)") : name) }
      }
    }
    if json { print("{\(fields.joined(separator: ","))}") }
  }
}

/// `pvdisk xenstore ls`: a subtree with its values.
struct XenStoreTree: ParsableCommand {
  static let configuration = CommandConfiguration(commandName: "ls", abstract: "Show a subtree with its values.")
  @OptionGroup var address: XenStoreAddress
  @Flag(name: [.customShort("f"), .long], help: "Show whole paths.") var fullPaths = false
  @Flag(name: [.customShort("p"), .long], help: "Show permissions.") var permissions = false
  @Flag(help: "Print one JSON object a node: path, value, permissions.") var json = false
  @Argument(help: "The top of the subtree.") var path = "/"

  func run() throws {
    let store = try address.connect()
    var stack = try children(of: path, depth: 0, store, isTop: true)
    while let (path, name, depth) = stack.popLast() {
      let value = try? store.readBytes(path)
      let entries = permissions || json ? (try? store.permissions(path))?.entries.map(\.description) : nil
      if json {
        let list = (entries ?? []).map(StoreOutput.quoted).joined(separator: ",")
        let text = value.map { StoreOutput.quoted(StoreOutput.readable($0)) } ?? "null"
        print("{\"path\":\(StoreOutput.quoted(path)),\"value\":\(text),\"permissions\":[\(list)]}")
      } else {
        var line = fullPaths ? path : String(repeating: " ", count: depth) + name
        line += value.map { " = \"\(StoreOutput.readable($0))\"" } ?? ":"
        if let entries {
          line += " "
          // xenstore-ls leads the eye to its column of permissions.
          if !fullPaths, value != nil {
            for column in line.utf8.count..<max(Self.permissionColumn, line.utf8.count) {
              line += column % 2 == 1 ? "." : " "
            }
          }
          line += "  (\(entries.joined(separator: ",")))"
        }
        print(line)
      }
      stack += try children(of: path, depth: depth + 1, store, isTop: false)
    }
  }

  private static let permissionColumn = 60

  private func children(
    of path: String, depth: Int, _ store: StoreClient, isTop: Bool
  ) throws -> [(path: String, name: String, depth: Int)] {
    do {
      let base = path.hasSuffix("/") ? path : path + "/"
      return try store.directory(path).reversed().map { (base + $0, $0, depth) }
    } catch StoreClientError.refused(.noSuchEntry) where !isTop {
      return []
    } catch {
      throw Refusal("could not list path \(path): \(error)", status: 1)
    }
  }
}

/// `pvdisk xenstore read`: the values of nodes.
struct XenStoreRead: ParsableCommand {
  static let configuration = CommandConfiguration(commandName: "read", abstract: "Read the values of nodes.")
  @OptionGroup var address: XenStoreAddress
  @Flag(name: [.customShort("p"), .long], help: "Show paths.") var prefix = false
  @Flag(name: [.customShort("R"), .long], help: "Write the bytes as they are.") var raw = false
  @Flag(help: "Print one JSON object: path to value.") var json = false
  @Argument(help: "Nodes.") var paths: [String]

  func run() throws {
    let store = try address.connect()
    var fields: [String] = []
    for path in paths {
      let value = try StoreOutput.refusing("couldn't read path \(path)") { () throws(StoreClientError) in
        try store.readBytes(path)
      }
      if json {
        fields.append("\(StoreOutput.quoted(path)):\(StoreOutput.quoted(StoreOutput.readable(value)))")
      } else if raw {
        StoreOutput.write(value)
      } else {
        print((prefix ? "\(path): " : "") + StoreOutput.readable(value))
      }
    }
    if json { print("{\(fields.joined(separator: ","))}") }
  }
}

/// `pvdisk xenstore write`: the values of nodes, all at once.
struct XenStoreWrite: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "write", abstract: "Write nodes, in one transaction.",
    usage: "pvdisk xenstore write <path> <value> ...")
  @OptionGroup var address: XenStoreAddress
  @Argument(help: "Paths and values by turns.") var pairs: [String]

  func validate() throws {
    guard pairs.count % 2 == 0 else { throw ValidationError("Every path needs a value.") }
  }

  func run() throws {
    let store = try address.connect()
    try StoreOutput.refusing("could not write path \(pairs[0])") { () throws(StoreClientError) in
      try store.transaction { (transaction) throws(StoreClientError) in
        for index in stride(from: 0, to: pairs.count, by: 2) {
          try store.write(pairs[index], pairs[index + 1], in: transaction)
        }
      }
    }
  }
}

/// `pvdisk xenstore rm`: removes nodes and what is below them.
struct XenStoreRemove: ParsableCommand {
  static let configuration = CommandConfiguration(commandName: "rm", abstract: "Remove nodes and all below them.")
  @OptionGroup var address: XenStoreAddress
  @Argument(help: "Nodes.") var paths: [String]

  func run() throws {
    let store = try address.connect()
    for path in paths {
      try StoreOutput.refusing("could not remove path \(path)") { () throws(StoreClientError) in
        try store.remove(path)
      }
    }
  }
}

/// `pvdisk xenstore exists`: exit status 0 when all nodes are there, 1 otherwise.
struct XenStoreExists: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "exists", abstract: "Succeed if all the nodes are there (exit status 1 otherwise).")
  @OptionGroup var address: XenStoreAddress
  @Flag(help: "Print one JSON object: path to true or false.") var json = false
  @Argument(help: "Nodes.") var paths: [String]

  func run() throws {
    let store = try address.connect()
    var found: [(String, Bool)] = []
    for path in paths {
      found.append(
        (
          path,
          try StoreOutput.refusing("could not look for path \(path)") { () throws(StoreClientError) in
            try store.exists(path)
          }
        ))
    }
    if json { print("{\(found.map { "\(StoreOutput.quoted($0.0)):\($0.1)" }.joined(separator: ","))}") }
    if found.contains(where: { !$0.1 }) { throw ExitCode(1) }
  }
}

/// `pvdisk xenstore chmod`: sets permissions.
struct XenStorePermit: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "chmod", abstract: "Set a node's permissions: owner first, such as n0 r6.")
  @OptionGroup var address: XenStoreAddress
  @Flag(name: [.customShort("r"), .long], help: "Set them for all nodes below too.") var recurse = false
  @Argument(help: "A node.") var path: String
  @Argument(help: "n (none), r (read), w (write) or b (both) and a domain's number.") var modes: [String]

  func validate() throws {
    guard !modes.isEmpty, StorePermissions(modes) != nil else {
      throw ValidationError("'\(modes.joined(separator: " "))' are no permissions; write them as n0 r6.")
    }
  }

  func run() throws {
    let store = try address.connect()
    guard let permissions = StorePermissions(modes) else { return }
    var stack = [path]
    while let path = stack.popLast() {
      try StoreOutput.refusing("could not set permissions of \(path)") { () throws(StoreClientError) in
        try store.setPermissions(path, permissions)
        guard recurse else { return }
        let base = path == "/" ? path : path + "/"
        for name in try store.directory(path) { stack.append(base + name) }
      }
    }
  }
}

/// `pvdisk xenstore watch`: prints the path of every change.
struct XenStoreWatch: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "watch", abstract: "Print a path at once and at every change.")
  @OptionGroup var address: XenStoreAddress
  @Option(name: [.customShort("n"), .long], help: "End after so many events.") var count: Int?
  @Option(help: "How many levels below count; all by default.") var depth: Int?
  @Flag(help: "Print one JSON object an event: path, token.") var json = false
  @Argument(help: "Nodes, or @introduceDomain, @releaseDomain.") var paths: [String]

  func run() throws {
    let store = try address.connect()
    for path in paths {
      try StoreOutput.refusing("could not watch \(path)") { () throws(StoreClientError) in
        try store.watch(path, token: path, depth: depth)
      }
    }
    var seen = 0
    while count.map({ seen < $0 }) ?? true {
      guard let event = try store.nextEvent() else { continue }
      seen += 1
      let token = StoreOutput.quoted(event.token)
      print(json ? "{\"path\":\(StoreOutput.quoted(event.path)),\"token\":\(token)}" : event.path)
      fflush(nil)
    }
  }
}

/// How the store's bytes are shown.
enum StoreOutput {
  /// Turns a refusal of the store into a sentence and exit status 1.
  static func refusing<R>(_ sentence: String, _ body: () throws(StoreClientError) -> R) throws -> R {
    do throws(StoreClientError) {
      return try body()
    } catch {
      throw Refusal("\(sentence): \(error)", status: 1)
    }
  }

  /// Bytes as text, those that are not printable as the stock clients escape them.
  static func readable(_ bytes: [UInt8]) -> String {
    var text = ""
    for byte in bytes {
      switch byte {
      case UInt8(ascii: "\t"): text += "\\t"
      case UInt8(ascii: "\n"): text += "\\n"
      case UInt8(ascii: "\r"): text += "\\r"
      case UInt8(ascii: "\\"): text += "\\\\"
      case 0x20...0x7E: text.unicodeScalars.append(UnicodeScalar(byte))
      case 0..<8: text += "\\00\(byte)"
      default: text += "\\x" + (byte < 16 ? "0" : "") + String(byte, radix: 16)
      }
    }
    return text
  }

  /// Writes bytes to standard output as they are.
  static func write(_ bytes: [UInt8]) {
    var rest = bytes[...]
    while !rest.isEmpty {
      // SAFETY: the address and the count are those of the slice's own bytes.
      let count = unsafe rest.withUnsafeBytes { unsafe Glibc.write(1, $0.baseAddress, $0.count) }
      guard count > 0 else { return }
      rest = rest.dropFirst(count)
    }
  }

  /// A JSON string.
  static func quoted(_ text: String) -> String {
    var result = "\""
    for scalar in text.unicodeScalars {
      switch scalar {
      case "\"", "\\": result += "\\" + String(scalar)
      case _ where scalar.value < 0x20:
        result += "\\u00" + (scalar.value < 16 ? "0" : "") + String(scalar.value, radix: 16)
      default: result.unicodeScalars.append(scalar)
      }
    }
    return result + "\""
  }
}
