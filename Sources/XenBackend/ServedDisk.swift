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

/// One guest's disk: its folder, its image and its queues.
///
/// **Assumptions.** One thread, the service's own, calls it; the queues have threads of their own.
final class ServedDisk {
  /// Where the backend's folder is.
  let path: StorePath
  private let device: BackendDevice<XenPlatform>
  private let image: RawImage
  private let log: (String) -> Void
  private var threads: [QueueThread<RawImageQueue>] = []
  private var counters: [CounterTable] = []
  /// The device is gone or was given up: the service may forget it.
  private(set) var isOver = false

  /// Opens the image that the folder names, and makes the offer to the guest.
  init(
    _ path: StorePath, host: XenHost, store: RemoteStore, knobs: BackendKnobs, log: @escaping (String) -> Void,
    wake: @escaping @Sendable () -> Void
  ) throws(HandshakeFailure) {
    self.path = path
    self.log = log
    let folder = DeviceFolder(store: store.share(), path: path)
    device = BackendDevice(platform: XenPlatform(host), folder: folder, knobs: knobs)
    guard let params = folder.read(BackendKey.params), params.hasPrefix("/") else {
      throw HandshakeFailure("\(path)/params names no image by its whole path")
    }
    let isReadOnly = !folder.value(BackendKey.mode).contains("w")
    var options = ImageOptions(access: isReadOnly ? .readOnly : .readWrite)
    options.queueCount = max(1, knobs.maxQueues)
    do throws(BlockError) { image = try RawImage.open(path: params, options: options) } catch {
      throw HandshakeFailure(error.sentence, code: 5)
    }
    folder.store.onEvents(wake)
    do throws(HandshakeFailure) { try device.probe() } catch {
      try? image.close()
      throw error
    }
    try? folder.write(params, to: BackendKey.physicalDevicePath)
    try? folder.write("connected", to: BackendKey.hotplugStatus)
    say("offered, \(params)\(isReadOnly ? ", read-only" : "")")
    // A frontend that was connected before this process began goes on where it was.
    for event in device.lookAtFrontend() { handle(event) }
  }

  private func say(_ what: String) { log("\(path): \(what)") }

  /// Handles what the guest has said since the last call.
  func handleWatches() {
    for event in device.handleWatches() { handle(event) }
  }

  /// The toolstack removed the folder, or the service ends: lets go of everything.
  func drop(_ why: String) {
    guard !isOver else { return }
    stopQueues()
    device.folder.store.close()
    do throws(BlockError) { try image.close() } catch { say(error.sentence) }
    isOver = true
    say(why)
  }

  private func handle(_ event: BackendDevice<XenPlatform>.Event) {
    switch event {
    case .frontendReady: connect()
    case .frontendClosing: say("closing")
    case .frontendClosed(let isOnline):
      stopQueues()
      device.finishClosing()
      if isOnline { say("closed") } else { drop("detached") }
    case .frontendGone: drop("the guest is gone")
    case .failed(let sentence): drop(sentence)
    }
  }

  private func connect() {
    stopQueues()
    do throws(HandshakeFailure) {
      let negotiation = try device.connectRings()
      for index in negotiation.links.indices { try startQueue(index, negotiation) }
      try device.announce(image.geometry)
      let pages = (negotiation.links.first?.ring.region.byteCount ?? 0) / PageGeometry.pageSize
      say(
        "connected, queues: \(negotiation.links.count), pages in each ring: \(pages)"
          + (negotiation.isPersistent ? ", persistent grants" : ""))
      for thread in threads { thread.start(name: "pvdisk-queue") }
    } catch {
      device.fail(error)
      drop(error.sentence)
    }
  }

  private func startQueue(_ index: Int, _ negotiation: Negotiation<XenPlatform>) throws(HandshakeFailure) {
    let link = negotiation.links[index]
    let platform = negotiation.links.isEmpty ? device.platform : device.platform.specialised(for: link.port)
    let ring: BackRing
    do throws(RingViolation) {
      ring = try BackRing(attachingTo: link.ring.region, RingGeometry(negotiation.plan))
    } catch { throw HandshakeFailure("the ring is not sane (\(error))") }
    do {
      let cache = try PersistentGrantCache(knobs: device.knobs)
      let table = try CounterTable(count: QueueCounter.allCases.count)
      let queue = try image.makeQueue(
        index, buffers: BufferDemand(count: Int(ring.layout.slotCount), byteCount: 0))
      var connection = BackConnection(
        platform: platform, peer: negotiation.peer, port: link.port, ringPages: link.ring, plan: negotiation.plan,
        abilities: device.abilities(for: image.geometry, isPersistent: negotiation.isPersistent),
        policy: device.knobs.notify)
      connection.maxBufferPages = device.knobs.maxBufferPages
      connection.bufferSqueezeMilliseconds = device.knobs.bufferSqueezeMilliseconds
      counters.append(table)
      threads.append(
        QueueThread(
          queue: BackQueue(
            connection: connection, ring: ring, cache: cache, image: queue, geometry: image.geometry,
            counters: table.writer), platform: platform, port: link.port))
    } catch { throw HandshakeFailure("no room for a queue (\(error))", code: 12) }
  }

  private func stopQueues() {
    for thread in threads { thread.stop() }
    if let requests = totals() { say(requests) }
    threads = []
    counters = []
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
