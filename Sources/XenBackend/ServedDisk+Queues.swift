// SPDX-License-Identifier: MIT

import BlockBack
import BlockIO
import DiskImages
import GuestMemory
import SharedRing
import XenBus
import XenHypervisor
import XenPlatform
import XenStore
import XenWire

/// The queues of a disk: made at a connection, stopped at its end.
extension ServedDisk {
  /// What the names of the disk's notes begin with.
  var notesPrefix: String {
    let parts = path.string.split(separator: "/").suffix(3).map { $0.replacing("/", with: "_") }
    return parts.joined(separator: "-") + "-"
  }

  /// The names of the notes that are in use.
  var notesInUse: [String] { threads.indices.map { "\(notesPrefix)\($0)" } }

  /// Makes all queues, or none: what is left of a failure is unmapped and closed.
  func startQueues(_ negotiation: Negotiation<Platform>) throws(HandshakeFailure) {
    let identity = connectionIdentity()
    for index in negotiation.links.indices {
      do throws(HandshakeFailure) { try startQueue(index, negotiation, identity) } catch {
        // Threads that have not started let go of their queue when they go; the other links have no owner yet.
        for link in negotiation.links[index...] {
          device.platform.close(link.port)
          device.platform.unmap(link.ring)
        }
        threads = []
        counters = []
        throw error
      }
    }
  }

  private func startQueue(
    _ index: Int, _ negotiation: Negotiation<Platform>, _ identity: UInt64
  ) throws(HandshakeFailure) {
    let link = negotiation.links[index]
    let ring: BackRing
    do throws(RingViolation) {
      ring = try BackRing(attachingTo: link.ring.region, RingGeometry(negotiation.plan))
    } catch { throw HandshakeFailure("the ring is not sane (\(error))") }
    let slots = Int(ring.layout.slotCount)
    do {
      let notes = try surroundings.notes.open(
        "\(notesPrefix)\(index)",
        byteCount: TakenRequests.byteCount(slots: slots, stride: ring.layout.requestStride))
      let cache = try PersistentGrantCache(knobs: device.knobs)
      let table = try CounterTable(count: QueueCounter.allCases.count)
      let queue = try image.makeQueue(index, buffers: BufferDemand(count: slots, byteCount: 0))
      let platform = device.platform.specialised(for: link.port)
      var connection = BackConnection(
        platform: platform, peer: negotiation.peer, port: link.port, ringPages: link.ring, plan: negotiation.plan,
        abilities: device.abilities(for: image.geometry, isPersistent: negotiation.isPersistent),
        policy: device.knobs.notify)
      connection.maxBufferPages = device.knobs.maxBufferPages
      connection.bufferSqueezeMilliseconds = device.knobs.bufferSqueezeMilliseconds
      connection.taken = (notes.region, identity &+ UInt64(index))
      connection.onWithdrawal = { [device, enqueue = surroundings.enqueue] operation in
        enqueue { device.withdraw(operation) }
      }
      counters.append(table)
      threads.append(
        QueueThread(
          queue: BackQueue(
            connection: connection, ring: ring, cache: cache, image: queue, geometry: image.geometry,
            counters: table.writer),
          platform: platform, port: link.port, notes: notes))
    } catch { throw HandshakeFailure("no room for a queue (\(error))", code: 12) }
  }

  /// What tells this connection from every other one: the guest's UUID, and all that the frontend has published (FNV-1a).
  private func connectionIdentity() -> UInt64 {
    var hash: UInt64 = 0xCBF2_9CE4_8422_2325
    func add(_ text: String) {
      for byte in text.utf8 { hash = (hash ^ UInt64(byte)) &* 0x100_0000_01B3 }
      hash = (hash ^ 0xFF) &* 0x100_0000_01B3
    }
    let store = device.folder.store
    add((try? store.read(StorePath.home(of: domain) / "vm")) ?? "")
    guard let frontend = device.folder.read(BackendKey.frontend).flatMap(StorePath.init) else { return hash }
    func addFolder(_ folder: StorePath, depth: Int) {
      for name in ((try? store.directory(folder, in: nil)) ?? []).sorted() where name != "state" {
        guard let node = folder.appending(name) else { continue }
        add(name)
        add((try? store.read(node)) ?? "")
        if depth > 0 { addFolder(node, depth: depth - 1) }
      }
    }
    addFolder(frontend, depth: 1)
    return hash
  }

  /// Stops the queues once they have answered what they took.
  func stopQueues() {
    for thread in threads { thread.stop() }
    let resumed = threads.reduce(0) { $0 + $1.resumedCount }
    if let requests = totals() { say(requests + (resumed > 0 ? ", taken over from a former process \(resumed)" : "")) }
    threads = []
    counters = []
    announcedSectors = nil
  }

  /// What was served, in a line.
  private func totals() -> String? {
    guard !counters.isEmpty else { return nil }
    let sums = QueueCounter.allCases.map { counter in
      "\(counter) \(counters.reduce(0) { $0 + $1[counter.rawValue] })"
    }
    return "served: " + sums.joined(separator: ", ")
  }
}
