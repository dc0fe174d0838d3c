// SPDX-License-Identifier: MIT

import PVMachine
import Synchronization
import XenStore
import XenWire

/// Tells on standard error what happens to the devices in a store, as it happens.
final class StoreNarrator: Sendable {
  private let connection: StoreConnection
  private let last = Mutex<[String: String]>([:])

  private init(_ store: StoreServer) { connection = store.connect(as: .control) }

  /// Starts to tell; goes on as long as the store lives.
  static func start(_ store: StoreServer) {
    let narrator = StoreNarrator(store)
    try? narrator.connection.watch("/local/domain", token: "narrator")
    narrator.connection.onEvents { narrator.tell() }
  }

  private func tell() {
    while let event = connection.nextEvent() {
      let path = "\(event.path)"
      guard path.contains("/vbd/") || path.contains("/error/") else { continue }
      let value = try? connection.read(path)
      let isNews = last.withLock { last in
        defer { last[path] = value }
        return last[path] != value
      }
      guard isNews, let value, !value.isEmpty else { continue }
      say("  \(path) = \"\(value)\"\(Self.meaning(of: path, value))")
    }
  }

  /// A state's name behind its number.
  private static func meaning(of path: String, _ value: String) -> String {
    let states = [
      "Unknown", "Initialising", "InitWait", "Initialised", "Connected", "Closing", "Closed", "Reconfiguring",
      "Reconfigured",
    ]
    guard path.hasSuffix("/state"), let number = Int(value), states.indices.contains(number) else { return "" }
    return "  (\(states[number]))"
  }
}
