// SPDX-License-Identifier: MIT

/// The events that a connection has not fetched yet, oldest first.
struct EventQueue: Sendable {
  struct Entry: Sendable {
    let event: WatchEvent
    /// The request of an unprivileged client that caused the event; 0 for none.
    let cause: UInt64
    /// When the event came, on the state's clock; 0 when its age does not matter.
    let since: UInt64
  }

  private var entries: [Entry] = []
  private var head = 0
  private var pending: Set<WatchEvent> = []
  /// The bytes that the events will have as messages.
  private(set) var byteCount = 0

  var isEmpty: Bool { head == entries.count }
  var count: Int { entries.count - head }
  /// The oldest entry.
  var first: Entry? { isEmpty ? nil : entries[head] }

  /// Whether the same event waits already; special events are told apart even when they look the same.
  func holds(_ event: WatchEvent) -> Bool { pending.contains(event) }

  mutating func append(_ entry: Entry) {
    entries.append(entry)
    if entry.event.path.utf8.first != UInt8(ascii: "@") { pending.insert(entry.event) }
    byteCount += entry.event.messageByteCount
  }

  mutating func popFirst() -> Entry? {
    guard head < entries.count else { return nil }
    let entry = entries[head]
    head += 1
    if head == entries.count {
      entries.removeAll(keepingCapacity: entries.count <= 64)
      head = 0
    } else if head >= 1024, head * 2 >= entries.count {
      entries.removeFirst(head)
      head = 0
    }
    pending.remove(entry.event)
    byteCount -= entry.event.messageByteCount
    return entry
  }
}
