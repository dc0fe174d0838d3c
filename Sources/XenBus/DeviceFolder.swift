// SPDX-License-Identifier: MIT

public import XenStore

/// One end's folder of a device, with its nodes as typed values.
public struct DeviceFolder: Sendable {
  /// The store, as one domain sees it.
  public let store: any StoreHandle
  /// The folder.
  public let path: StorePath

  /// Opens a folder; it need not exist.
  public init(store: any StoreHandle, path: StorePath) {
    self.store = store
    self.path = path
  }

  /// A node's path.
  public func path<Value>(of key: NodeKey<Value>) -> StorePath { path / key.name }

  /// A node's value; nil when it is missing or makes no sense.
  public func read<Value>(_ key: NodeKey<Value>, in transaction: TransactionID? = nil) -> Value? {
    if let text = try? store.read(path(of: key), in: transaction) { return Value(nodeText: text) }
    for alias in key.aliases {
      if let text = try? store.read(path / alias, in: transaction) { return Value(nodeText: text) }
    }
    return nil
  }

  /// A node's value, or what its absence means; a key without a default is a programming error here.
  public func value<Value>(_ key: NodeKey<Value>, in transaction: TransactionID? = nil) -> Value {
    guard let value = read(key, in: transaction) ?? key.absent else {
      preconditionFailure("\(key.name) has no default")
    }
    return value
  }

  /// Writes a node.
  public func write<Value>(
    _ value: Value, to key: NodeKey<Value>, in transaction: TransactionID? = nil
  ) throws(StoreError) {
    try store.write(path(of: key), value.nodeText, in: transaction)
  }

  /// Moves the end to a state as Linux's `xenbus_switch_state` does: not again when it is there already, and never by
  /// bringing back a folder that the toolstack removed.
  /// - Parameter rewriting: writes the value even if it is there; a backend says "look again" that way (resize).
  public func switchState(to state: XenbusState, rewriting: Bool = false) throws(StoreError) {
    try store.transaction { (transaction) throws(StoreError) in
      guard let current = read(FrontendKey.state, in: transaction) else { return }
      if current != state || rewriting { try write(state, to: FrontendKey.state, in: transaction) }
    }
  }

  /// Where the end stands; unknown when the node is missing.
  public var state: XenbusState { value(FrontendKey.state) }

  /// Reports an error the way Linux does: `error/<device>/error` below the reporter's home, "<errno> <sentence>".
  public func reportError(code: Int32, _ sentence: String) {
    let home = StorePath.home(of: store.domain)
    let device = path.string.dropFirst(home.string.count + 1)
    try? store.write(home / "error" / String(device) / "error", "\(code) \(sentence)")
  }
}
