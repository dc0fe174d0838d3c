// SPDX-License-Identifier: MIT

import PVTestSupport
import Testing
import XenStore
import XenWire

@Suite("The store and a model of it")
struct ModelTests {
  /// The two side by side, driven by one seed.
  final class Pair {
    let server = StoreServer(quotas: .unlimited)
    let clients: [StoreConnection]
    var model = ModelStore()
    var random: SeededGenerator
    var open: [[(real: TransactionID, model: Int)]] = [[], [], []]
    var lastTransaction = 0
    let names = ["a", "b", "c"]

    init(seed: UInt64) throws {
      random = SeededGenerator(seed: seed)
      let server = server
      clients = (0..<3).map { server.connect(as: DomainID(rawValue: $0)) }
      for domain in 1...2 {
        try change { (client) throws(StoreError) in
          try client.makeDirectory("/local/domain/\(domain)")
          try client.setPermissions(
            "/local/domain/\(domain)", StorePermissions(owner: DomainID(rawValue: UInt16(domain))))
        } model: { (model) throws(ModelStore.Refusal) in
          try model.makeDirectory("/local/domain/\(domain)", 0, nil)
          try model.setPermissions("/local/domain/\(domain)", [("n", domain)], 0, nil)
        }
      }
    }

    private func change(
      _ real: (StoreConnection) throws(StoreError) -> Void,
      model change: (inout ModelStore) throws(ModelStore.Refusal) -> Void
    ) throws {
      try real(clients[0])
      try change(&model)
    }

    func pick<T>(_ choices: [T]) -> T { choices[Int.random(in: 0..<choices.count, using: &random)] }

    /// A path for a client: text as given, and what it means.
    func path(_ client: Int) -> (text: String, absolute: String) {
      let parts = (0..<Int.random(in: 1...3, using: &random)).map { _ in pick(names) }.joined(separator: "/")
      switch Int.random(in: 0..<8, using: &random) {
      case 0: return ("/", "/")
      case 1...3: return ("/" + parts, "/" + parts)
      case 4:
        let domain = Int.random(in: 0...2, using: &random)
        return ("/local/domain/\(domain)/" + parts, "/local/domain/\(domain)/" + parts)
      default: return (parts, "/local/domain/\(client)/" + parts)
      }
    }

    func outcome(_ body: () throws -> String) -> String {
      do { return try body() } catch { return "\(error)" }
    }

    /// One random operation on both; answers what it was and what each said.
    func step() -> (what: String, real: String, model: String) {
      let client = Int.random(in: 0..<3, using: &random)
      let (text, path) = path(client)
      let inside = open[client].isEmpty || Bool.random(using: &random) ? nil : pick(open[client])
      let real = clients[client], transaction = inside?.real, number = inside?.model
      let what = "client \(client), transaction \(number ?? 0), \(text): "
      switch Int.random(in: 0..<16, using: &random) {
      case 0...2:
        return (
          what + "read", outcome { try real.read(text, in: transaction) },
          outcome {
            guard let node = try model.find(path, ["r"], client, number) else { throw ModelStore.Refusal.ENOENT }
            return node.value
          }
        )
      case 3:
        return (
          what + "list", outcome { "\(try real.directory(text, in: transaction))" },
          outcome {
            guard let node = try model.find(path, ["r"], client, number) else { throw ModelStore.Refusal.ENOENT }
            return "\(node.children)"
          }
        )
      case 4...7:
        let value = "\(Int.random(in: 0..<10, using: &random))"
        return (
          what + "write", outcome { "\(try real.write(text, value, in: transaction))" },
          outcome { "\(try model.write(path, value, client, number))" }
        )
      case 8:
        return (
          what + "mkdir", outcome { "\(try real.makeDirectory(text, in: transaction))" },
          outcome { "\(try model.makeDirectory(path, client, number))" }
        )
      case 9:
        return (
          what + "rm", outcome { "\(try real.remove(text, in: transaction))" },
          outcome { "\(try model.remove(path, client, number))" }
        )
      case 10: return permit(client, what, text, path, transaction, number)
      case 11, 12: return transact(client, what)
      default: return watch(client, what, text, path)
      }
    }

    private func permit(
      _ client: Int, _ what: String, _ text: String, _ path: String, _ transaction: TransactionID?, _ number: Int?
    ) -> (String, String, String) {
      let list = (0..<Int.random(in: 1...3, using: &random)).map { _ in
        (letter: pick(Array("nrwb")), domain: Int.random(in: 0...2, using: &random))
      }
      let permissions = StorePermissions(list.map { "\($0.letter)\($0.domain)" })
      return (
        what + "chmod \(list)",
        outcome {
          guard let permissions else { return "malformed" }
          return "\(try clients[client].setPermissions(text, permissions, in: transaction))"
        }, outcome { "\(try model.setPermissions(path, list, client, number))" }
      )
    }

    private func transact(_ client: Int, _ what: String) -> (String, String, String) {
      if open[client].count < 2, Bool.random(using: &random) {
        lastTransaction += 1
        let number = lastTransaction
        model.transactions[client, default: [:]][number] = .init()
        return (
          what + "start",
          outcome {
            open[client].append((try clients[client].startTransaction(), number))
            return ""
          }, ""
        )
      }
      guard !open[client].isEmpty else { return (what, "", "") }
      let ended = open[client].remove(at: Int.random(in: 0..<open[client].count, using: &random))
      let commit = Int.random(in: 0..<4, using: &random) > 0
      return (
        what + "end \(ended.model) \(commit)",
        outcome { "\(try clients[client].endTransaction(ended.real, commit: commit))" },
        outcome { "\(try model.end(client, ended.model, commit: commit))" }
      )
    }

    private func watch(_ client: Int, _ what: String, _ text: String, _ path: String) -> (String, String, String) {
      let token = pick(["t", "u"])
      if Bool.random(using: &random) {
        let depth = pick([nil, nil, 0, 1, 2] as [Int?])
        let isRelative = !text.hasPrefix("/")
        return (
          what + "watch \(token)", outcome { "\(try clients[client].watch(text, token: token, depth: depth))" },
          outcome { "\(try model.watch(path, token, depth, isRelative: isRelative, client))" }
        )
      }
      return (
        what + "unwatch \(token)", outcome { "\(try clients[client].unwatch(text, token: token))" },
        outcome { "\(try model.unwatch(path, token, client))" }
      )
    }

    /// The whole tree as the real store has it.
    func tree() throws -> [String: ModelStore.Node] {
      var found: [String: ModelStore.Node] = [:]
      var stack = ["/"]
      while let path = stack.popLast() {
        let entries = try clients[0].permissions(path).entries
        let children = try clients[0].directory(path)
        found[path] = ModelStore.Node(
          value: try clients[0].read(path), permissions: entries.map { ($0.access.letter, Int($0.domain.rawValue)) },
          children: children, version: 0)
        stack += children.map { path == "/" ? "/\($0)" : "\(path)/\($0)" }
      }
      return found
    }

    func events(_ client: Int) -> [String] {
      var found: [String] = []
      while let event = clients[client].nextEvent() { found.append("\(event.path) \(event.token)") }
      return found
    }
  }

  @Test(
    "answer the same, hold the same tree and send the same events after every step",
    arguments: 1...40 as ClosedRange<UInt64>)
  func equality(seed: UInt64) throws {
    let pair = try Pair(seed: seed)
    for number in 0..<250 {
      let (what, real, model) = pair.step()
      try #require(real == model, "seed \(seed), step \(number): \(what)")
      let tree = try pair.tree()
      try #require(tree == pair.model.nodes, "seed \(seed), step \(number): \(what)")
      if number % 3 == 0 {
        for client in 0..<3 {
          let events = pair.events(client)
          try #require(
            events == pair.model.events.removeValue(forKey: client) ?? [], "seed \(seed), step \(number): \(what)")
        }
      }
    }
    #expect(pair.server.check() == [], "seed \(seed)")
  }
}
