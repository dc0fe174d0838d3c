// SPDX-License-Identifier: MIT

import BlockBack
import BlockIO
import DiskImages
import GuestMemory
import PVMachine
import SharedRing
import XenBus
import XenHypervisor
import XenPlatform
import XenStore
import XenWire

/// What all disks of a service share.
struct DiskSurroundings<Platform: HostPlatform>: Sendable {
  let platform: Platform
  let store: RemoteStore
  let knobs: BackendKnobs
  let notes: NotesFolder
  let log: @Sendable (String) -> Void
  /// Says that the service's thread should look.
  let wake: @Sendable () -> Void
  /// Leaves work for the service's thread.
  let enqueue: @Sendable (@escaping @Sendable () -> Void) -> Void
}

/// One guest's disk: its folder, its image and its queues.
///
/// **Assumptions.** One thread, the service's own, calls it; the queues have threads of their own.
final class ServedDisk<Platform: HostPlatform> {
  /// Where the backend's folder is.
  let path: StorePath
  /// The guest's domain.
  let domain: DomainID
  let surroundings: DiskSurroundings<Platform>
  let device: BackendDevice<Platform>
  let image: RawImage
  var threads: [QueueThread<Platform, RawImageQueue>] = []
  var counters: [CounterTable] = []
  /// Sectors that the guest has been told of; nil while it is not connected.
  var announcedSectors: UInt64?
  /// The device is gone or was given up: the service may forget it.
  private(set) var isOver = false

  /// Opens the image that the folder names, and makes the offer to the guest.
  init(_ path: StorePath, in surroundings: DiskSurroundings<Platform>) throws(HandshakeFailure) {
    self.path = path
    self.surroundings = surroundings
    let folder = DeviceFolder(store: surroundings.store.share(), path: path)
    domain = try Self.frontendDomain(of: folder)
    device = BackendDevice(platform: surroundings.platform, folder: folder, knobs: surroundings.knobs)
    guard let params = folder.read(BackendKey.params), params.hasPrefix("/") else {
      throw HandshakeFailure("\(path)/params names no image by its whole path")
    }
    let isReadOnly = !folder.value(BackendKey.mode).contains("w")
    var options = ImageOptions(access: isReadOnly ? .readOnly : .readWrite)
    options.queueCount = max(1, surroundings.knobs.maxQueues)
    do throws(BlockError) { image = try RawImage.open(path: params, options: options) } catch {
      throw HandshakeFailure(error.sentence, code: 5)
    }
    folder.store.onEvents(surroundings.wake)
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

  /// The guest's number, from a folder whose path and nodes agree: a slip of a toolstack must not show one guest's disk to
  /// another.
  private static func frontendDomain(of folder: DeviceFolder) throws(HandshakeFailure) -> DomainID {
    guard let number = folder.read(BackendKey.frontendID), number < 0x7FF0 else {
      throw HandshakeFailure("\(folder.path)/frontend-id is no domain's number")
    }
    let domain = DomainID(rawValue: UInt16(number))
    let parts = folder.path.string.split(separator: "/")
    guard parts.count >= 2, parts[parts.count - 2] == "\(number)" else {
      throw HandshakeFailure("\(folder.path)/frontend-id is \(number), which is not the domain in the path")
    }
    let home = StorePath.home(of: domain).string + "/"
    guard let frontend = folder.read(BackendKey.frontend), StorePath(frontend) != nil, frontend.hasPrefix(home) else {
      throw HandshakeFailure("\(folder.path)/frontend names no folder of domain \(number)")
    }
    return domain
  }

  func say(_ what: String) { surroundings.log("\(path): \(what)") }

  /// Queues that serve the guest.
  var queueCount: Int { threads.count }

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

  private func handle(_ event: BackendDevice<Platform>.Event) {
    switch event {
    case .frontendReady: connect()
    case .frontendClosing: say("closing")
    case .frontendClosed(let isOnline):
      stopQueues()
      device.finishClosing()
      if isOnline { say("closed") } else { drop("detached") }
    case .frontendGone:
      drop("the guest is gone")
      removeFolders()
    case .failed(let sentence): drop(sentence)
    }
  }

  /// Nobody else clears up after a guest that is no more: its toolstack knows nothing of disks of this kind.
  private func removeFolders() {
    let parts = path.string.split(separator: "/")
    guard parts.count >= 3, let device = parts.last.flatMap({ VirtualDevice(String($0)) }) else { return }
    var definition = DiskDefinition(frontend: domain, device: device, params: "", type: "file")
    definition.backend = surroundings.store.domain
    definition.backendKind = String(parts[parts.count - 3])
    try? definition.remove(from: surroundings.store)
  }

  private func connect() {
    stopQueues()
    do throws(HandshakeFailure) {
      let negotiation = try device.connectRings()
      try startQueues(negotiation)
      let geometry = image.geometry
      try device.announce(geometry)
      announcedSectors = geometry.sectorCount
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

  /// Looks at the image's size and tells the guest of a new one: first the queues, which must take what the guest may ask.
  func followImage() {
    guard let announced = announcedSectors else { return }
    do throws(BlockError) { _ = try image.refreshGeometry() } catch { return say(error.sentence) }
    let sectors = image.geometry.sectorCount
    guard sectors != announced, sectors > 0 else { return }
    for thread in threads {
      let gate = DispatchGate()
      thread.mailbox.post { queue in
        queue.resize(to: sectors)
        gate.open()
      }
      gate.wait()
    }
    do throws(HandshakeFailure) { try device.announceCapacity(sectors) } catch { return say(error.sentence) }
    announcedSectors = sectors
    say("resized to \(sectors) sectors")
  }
}
