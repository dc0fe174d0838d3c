// SPDX-License-Identifier: MIT

/// A XenStore as one would write it on a napkin: dictionaries of strings, whole copies, recursion, no index.
///
/// It knows nothing of the real one's code, only of what the protocol promises, and answers with the wire's error names.
struct ModelStore {
  struct Node: Equatable {
    var value = ""
    /// Letter and domain, owner first.
    var permissions: [(letter: Character, domain: Int)]
    var children: [String] = []
    var version: Int

    static func == (left: Node, right: Node) -> Bool {
      left.value == right.value && left.children == right.children
        && left.permissions.map { "\($0)" } == right.permissions.map { "\($0)" }
    }
  }

  struct Watch {
    let client: Int
    let path: String
    let token: String
    let depth: Int?
    let isRelative: Bool
  }

  struct Transaction {
    /// What was seen at first touch, and what it is now.
    var seen: [String: Int?] = [:]
    var original: [String: Node?] = [:]
    var now: [String: Node?] = [:]
    var changed: Set<String> = []
    var touched: [String] = []
    var fires: [String: Bool] = [:]
  }

  enum Refusal: String, Error {
    case EINVAL, EACCES, ENOENT, EAGAIN, EEXIST, EPERM
  }

  var nodes: [String: Node]
  var watches: [Watch] = []
  var events: [Int: [String]] = [:]
  var transactions: [Int: [Int: Transaction]] = [:]
  var version = 1

  init() {
    nodes = ["/": Node(permissions: [("n", 0)], children: ["tool"], version: 0)]
    nodes["/tool"] = Node(permissions: [("n", 0)], children: ["xenstored"], version: 0)
    nodes["/tool/xenstored"] = Node(permissions: [("n", 0)], version: 0)
  }

  // MARK: Seeing

  static func parent(_ path: String) -> String {
    let parts = path.split(separator: "/").dropLast()
    return "/" + parts.joined(separator: "/")
  }

  static func name(_ path: String) -> String { path.split(separator: "/").last.map(String.init) ?? "" }

  mutating func look(_ path: String, _ client: Int, _ transaction: Int?) -> Node? {
    guard let transaction, var state = transactions[client]?[transaction] else { return nodes[path] }
    if state.touched.contains(path) { return state.now[path] ?? nil }
    state.touched.append(path)
    state.seen[path] = nodes[path]?.version
    state.original[path] = nodes[path]
    state.now[path] = nodes[path]
    transactions[client]?[transaction] = state
    return nodes[path]
  }

  static func rights(_ node: Node, _ client: Int) -> Set<Character> {
    if client == 0 || node.permissions[0].domain == client { return ["r", "w", "o"] }
    let entry = node.permissions.dropFirst().first { $0.domain == client } ?? node.permissions[0]
    switch entry.letter {
    case "b": return ["r", "w"]
    case "n": return []
    default: return [entry.letter]
    }
  }

  mutating func find(_ path: String, _ needed: Set<Character>, _ client: Int, _ transaction: Int?) throws(Refusal)
    -> Node?
  {
    let node = look(path, client, transaction)
    if let node, Self.rights(node, client).isSuperset(of: needed) { return node }
    var ancestor = path
    repeat { ancestor = Self.parent(ancestor) } while look(ancestor, client, transaction) == nil
    let isAllowedToKnow = look(ancestor, client, transaction).map { !Self.rights($0, client).isDisjoint(with: needed) }
    guard node == nil, isAllowedToKnow == true else { throw .EACCES }
    return nil
  }

  // MARK: Changing

  mutating func set(_ path: String, _ node: Node?, _ client: Int, _ transaction: Int?) {
    version += 1
    var node = node
    node?.version = version
    if let transaction {
      transactions[client]?[transaction]?.now[path] = .some(node)
      transactions[client]?[transaction]?.changed.insert(path)
    } else {
      nodes[path] = node
    }
  }

  mutating func create(_ path: String, _ value: String, _ client: Int, _ transaction: Int?) {
    let above = Self.parent(path)
    if look(above, client, transaction) == nil { create(above, "", client, transaction) }
    guard var parent = look(above, client, transaction) else { return }
    parent.children.append(Self.name(path))
    set(above, parent, client, transaction)
    var permissions = parent.permissions
    if client != 0 { permissions[0].domain = client }
    _ = look(path, client, transaction)
    set(path, Node(value: value, permissions: permissions, version: 0), client, transaction)
  }

  mutating func write(_ path: String, _ value: String, _ client: Int, _ transaction: Int?) throws(Refusal) {
    if var node = try find(path, ["w"], client, transaction) {
      node.value = value
      set(path, node, client, transaction)
    } else {
      try checkRoom(for: path, client, transaction)
      create(path, value, client, transaction)
    }
    fire(path, true, nodes[path], nil, client, transaction)
  }

  /// A transaction may have seen a parent that lists a child and then that the child is gone.
  private mutating func checkRoom(for path: String, _ client: Int, _ transaction: Int?) throws(Refusal) {
    let above = Self.parent(path)
    guard let parent = look(above, client, transaction) else { return try checkRoom(for: above, client, transaction) }
    if parent.children.contains(Self.name(path)) { throw .EAGAIN }
  }

  mutating func makeDirectory(_ path: String, _ client: Int, _ transaction: Int?) throws(Refusal) {
    guard try find(path, ["w"], client, transaction) == nil else { return }
    try checkRoom(for: path, client, transaction)
    create(path, "", client, transaction)
    fire(path, true, nodes[path], nil, client, transaction)
  }

  mutating func setPermissions(
    _ path: String, _ list: [(letter: Character, domain: Int)], _ client: Int, _ transaction: Int?
  ) throws(Refusal) {
    guard var node = try find(path, ["w", "o"], client, transaction) else { throw .ENOENT }
    guard client == 0 || list[0].domain == node.permissions[0].domain else { throw .EPERM }
    let old = node
    node.permissions = list
    set(path, node, client, transaction)
    fire(path, true, node, old, client, transaction)
  }

  mutating func remove(_ path: String, _ client: Int, _ transaction: Int?) throws(Refusal) {
    guard try find(path, ["w"], client, transaction) != nil else {
      guard look(Self.parent(path), client, transaction) != nil else { throw .ENOENT }
      return
    }
    guard path != "/" else { throw .EINVAL }
    guard let above = look(Self.parent(path), client, transaction) else { throw .EAGAIN }
    try touchAll(path, client, transaction)
    guard above.children.contains(Self.name(path)) else { throw .EAGAIN }
    removeAll(path, true, client, transaction)
    guard var parent = look(Self.parent(path), client, transaction) else { return }
    parent.children.removeAll { $0 == Self.name(path) }
    set(Self.parent(path), parent, client, transaction)
  }

  private mutating func touchAll(_ path: String, _ client: Int, _ transaction: Int?) throws(Refusal) {
    guard let node = look(path, client, transaction) else { throw .EAGAIN }
    for name in node.children { try touchAll("\(path)/\(name)", client, transaction) }
  }

  private mutating func removeAll(_ path: String, _ isTop: Bool, _ client: Int, _ transaction: Int?) {
    let node = look(path, client, transaction)
    for name in node?.children ?? [] { removeAll("\(path)/\(name)", false, client, transaction) }
    set(path, nil, client, transaction)
    fire(path, isTop, node, nil, client, transaction)
  }

  // MARK: Transactions

  mutating func end(_ client: Int, _ transaction: Int, commit: Bool) throws(Refusal) {
    guard let state = transactions[client]?.removeValue(forKey: transaction) else { throw .ENOENT }
    guard commit else { return }
    for path in state.touched where state.seen[path] ?? nil != nodes[path]?.version { throw .EAGAIN }
    for path in state.touched where state.changed.contains(path) {
      if (state.now[path] ?? nil) == nil && nodes[path] == nil { continue }
      set(path, state.now[path] ?? nil, client, nil)
    }
    for path in state.touched {
      if let isDeep = state.fires[path] { fire(path, isDeep, nodes[path], state.original[path] ?? nil, client, nil) }
    }
  }

  // MARK: Watches

  mutating func watch(_ path: String, _ token: String, _ depth: Int?, isRelative: Bool, _ client: Int) throws(Refusal) {
    if watches.contains(where: { $0.client == client && $0.path == path && $0.token == token }) { throw .EEXIST }
    let watch = Watch(client: client, path: path, token: token, depth: depth, isRelative: isRelative)
    watches.append(watch)
    tell(watch, path)
  }

  mutating func unwatch(_ path: String, _ token: String, _ client: Int) throws(Refusal) {
    guard let index = watches.firstIndex(where: { $0.client == client && $0.path == path && $0.token == token }) else {
      throw .ENOENT
    }
    watches.remove(at: index)
  }

  private mutating func fire(
    _ path: String, _ isDeep: Bool, _ node: Node?, _ old: Node?, _ client: Int, _ transaction: Int?
  ) {
    if let transaction {
      let before = transactions[client]?[transaction]?.fires[path] ?? false
      transactions[client]?[transaction]?.fires[path] = isDeep || before
      return
    }
    let witnesses = [node, old, path == "/" ? nil : nodes[Self.parent(path)]]
    for watch in watches {
      guard witnesses.contains(where: { $0.map { Self.rights($0, watch.client).contains("r") } ?? false }) else {
        continue
      }
      let top = watch.path == "/" ? "" : watch.path
      let isSame = path == watch.path
      let isBelow = isDeep && path.hasPrefix(top + "/") && path != "/"
      let levels = path.dropFirst(top.count).filter { $0 == "/" }.count
      if isSame || isBelow && levels <= watch.depth ?? .max { tell(watch, path) }
    }
  }

  private mutating func tell(_ watch: Watch, _ path: String) {
    let home = "/local/domain/\(watch.client)/"
    let event = (watch.isRelative ? String(path.dropFirst(home.count)) : path) + " " + watch.token
    if events[watch.client, default: []].contains(event) { return }
    events[watch.client, default: []].append(event)
  }
}
