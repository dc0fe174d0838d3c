// SPDX-License-Identifier: MIT

import Synchronization
import XenRecords
import XenStore
import XenWire

/// Writes down what happens in a store, in order: each value as it stood when its watch event came.
final class ConversationRecorder: Sendable {
  /// One change: a value, or nil for a node that is gone.
  struct Change: Equatable, CustomStringConvertible {
    let path: String
    let value: String?
    var description: String { value.map { "WRITE \(path) \($0)" } ?? "RM \(path)" }
  }

  private let connection: StoreConnection
  private let changes = Mutex<[Change]>([])

  init(_ store: StoreServer) throws {
    connection = store.connect(as: .control)
    try connection.watch("/local/domain", token: "recorder")
    while connection.nextEvent() != nil {}
    connection.onEvents { [weak self] in self?.note() }
  }

  /// What was written since the last call, without folders and without what the store says twice.
  func take() -> [Change] {
    changes.withLock { changes in
      defer { changes = [] }
      return changes
    }
  }

  func stop() { connection.onEvents(nil) }

  private func note() {
    while let event = connection.nextEvent() {
      let path = "\(event.path)"
      guard path.contains("/vbd") else { continue }
      let value = try? connection.read(path)
      if value == "" { continue }
      let change = Change(path: path, value: value)
      // Two events of one node whose second value was there before the first was read.
      changes.withLock { if $0.last != change { $0.append(change) } }
    }
  }
}

extension CapturedConversation {
  /// What was written or removed, in the form of the recorder.
  var changes: [ConversationRecorder.Change] {
    lines.compactMap { line in
      switch line.operation {
      case "WRITE": ConversationRecorder.Change(path: line.path, value: line.value)
      case "RM": ConversationRecorder.Change(path: line.path, value: nil)
      default: nil
      }
    }
  }
}

/// A difference from what real Xen wrote that is meant, with its reason.
struct AcceptedDifference {
  /// The last part of the path.
  let node: String
  /// What ours writes in its place; nil: nothing.
  let ours: String?
  /// Why.
  let reason: String

  init(_ node: String, ours: String?, because reason: String) {
    self.node = node
    self.ours = ours
    self.reason = reason
  }
}

extension [ConversationRecorder.Change] {
  /// What real Xen wrote, as ours is to write it: each accepted difference applied, run-time numbers blanked.
  func adapted(_ differences: [AcceptedDifference]) -> Self {
    compactMap { change in
      let node = change.path.split(separator: "/").last.map(String.init) ?? ""
      guard let difference = differences.first(where: { $0.node == node }) else { return change }
      return difference.ours.map { ConversationRecorder.Change(path: change.path, value: $0) }
    }
  }

  /// Grant references and ports are what the run made of them: their values are blanked here, and judged apart.
  var withoutRunNumbers: Self {
    map { change in
      let node = change.path.split(separator: "/").last ?? ""
      let isRunNumber = node.hasPrefix("ring-ref") || node == "event-channel"
      return ConversationRecorder.Change(path: change.path, value: isRunNumber ? "#" : change.value)
    }
  }
}
