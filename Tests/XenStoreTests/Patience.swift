// SPDX-License-Identifier: MIT

import Glibc
import Testing
import XenStore

/// Every wait of a test has an end: a store that does not answer fails the test that asked it, and no other.
enum Patience {
  /// How many milliseconds anything may take on a machine that is busy with other things.
  static let milliseconds: Int32 = 60_000

  /// Waits for a condition; false when it has not come in time.
  static func wait(until condition: () -> Bool) -> Bool {
    for _ in 0..<milliseconds {
      if condition() { return true }
      usleep(1000)
    }
    return condition()
  }
}

extension StoreSocketTransport {
  /// Connects, and gives up on a store that does not answer.
  init(patient path: String) throws { try self.init(path: path, patience: Patience.milliseconds) }
}

extension StoreClient {
  /// Connects, and gives up on a store that does not answer.
  convenience init(patient path: String) throws { self.init(over: try StoreSocketTransport(patient: path)) }
}

extension RemoteStore {
  /// Connects, listens, and gives up on a store that does not answer.
  convenience init(patient path: String) throws {
    try self.init(socket: path, patience: Patience.milliseconds)
  }
}
