// SPDX-License-Identifier: MIT

import Glibc
import XenStore
import XenWire

/// Hostile clients at a store, next to one of good will: three guests and a privileged one, some of which never read.
public struct HostileStoreRun {
  /// Messages sent so far.
  public private(set) var messages: UInt64 = 0
  /// Sessions that were opened, most of them to replace one that the store had given up.
  public private(set) var sessions = 0
  /// Bytes of answers and events that the clients took.
  public private(set) var answers = 0
  private let server = StoreServer()
  private let good: StoreConnection
  private var source: HostileStoreMessages
  private var clients: [StoreSession] = []
  private var steps = 0

  /// Starts a run.
  public init(seed: UInt64) {
    source = HostileStoreMessages(seed: seed)
    good = server.connect(as: DomainID(rawValue: 100), privileged: true)
  }

  private static let domains: [UInt16] = [1, 2, 5, 0]

  private mutating func open(_ index: Int) -> StoreSession {
    sessions += 1
    let domain = DomainID(rawValue: Self.domains[index])
    if index < 3, !server.isIntroduced(domain) {
      try? good.makeDirectory("/local/domain/\(domain)/data")
      try? good.setPermissions("/local/domain/\(domain)/data", StorePermissions(owner: domain))
      try? server.introduce(domain)
    }
    return StoreSession(server: server, domain: domain) {}
  }

  /// Sends messages, and answers what is wrong, in a sentence, or nil.
  public mutating func step(messages count: UInt64) -> String? {
    if clients.isEmpty { clients = (0..<Self.domains.count).map { open($0) } }
    var bytes: [UInt8] = []
    var sent: UInt64 = 0
    while sent < count {
      let index = Int(truncatingIfNeeded: messages % UInt64(clients.count))
      bytes.removeAll(keepingCapacity: true)
      for _ in 0..<8 { source.append(to: &bytes) }
      sent += 8
      messages += 8
      clients[index].receive(bytes)
      clients[index].collect()
      // One client in five does not read for a while.
      if !source.chance(5) {
        answers += clients[index].outputByteCount
        clients[index].removeOutput(clients[index].outputByteCount)
      }
      if clients[index].failure != .none || !clients[index].wantsInput || source.chance(500) {
        clients[index].close()
        clients[index] = open(index)
      }
    }
    steps += 1
    return verdict()
  }

  /// The client of good will does something, and the books are checked.
  private mutating func verdict() -> String? {
    do throws(StoreError) {
      try good.write("/good/\(steps % 7)", "\(steps)")
      guard try good.read("/good/\(steps % 7)") == "\(steps)" else { return "a node lost its value" }
      // The privileged client may make as many nodes as it likes; what it made goes.
      for name in try good.directory("/") where name != "good" && name != "local" && name != "tool" {
        try good.remove("/\(name)")
      }
    } catch { return "a client of good will was refused: \(error.wireName)" }
    let complaints = server.check()
    if !complaints.isEmpty { return complaints.joined(separator: "; ") }
    for domain in Self.domains where domain != 0 {
      for (quota, limit) in [(StoreQuota.nodes, 1000), (.watches, 128), (.transactions, 10), (.memory, 2_700_000)]
      where server.usage(of: quota, by: DomainID(rawValue: domain)) > limit {
        return "domain \(domain) has more \(quota.rawValue) than its quota allows"
      }
    }
    return nil
  }

  /// The memory that this process holds.
  public static var residentByteCount: Int {
    let descriptor = unsafe Glibc.open("/proc/self/statm", O_RDONLY)
    guard descriptor >= 0 else { return 0 }
    defer { Glibc.close(descriptor) }
    var bytes = [UInt8](repeating: 0, count: 128)
    // SAFETY: the address and the count are those of the array.
    let count = unsafe bytes.withUnsafeMutableBytes { unsafe read(descriptor, $0.baseAddress, $0.count) }
    let words = String(decoding: bytes.prefix(max(count, 0)), as: UTF8.self).split(separator: " ")
    return words.count > 1 ? (Int(words[1]) ?? 0) * 4096 : 0
  }
}
