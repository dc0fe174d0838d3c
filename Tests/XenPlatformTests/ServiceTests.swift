// SPDX-License-Identifier: MIT

import BlockBack
import BlockFront
import BlockIO
import CLinux
import Glibc
import PVTestSupport
import Synchronization
import Testing
import XenBackend
import XenBus
import XenFrontend
import XenHypervisor
import XenPlatform
import XenStore
import XenWire

/// A host without Xen: a store behind a socket, two domains, and a service.
final class ServiceBench {
  let folder: String
  let host: LoopbackHost
  let server: StoreServer
  let sockets: StoreSocketServer
  let toolstack: RemoteStore
  private let log = Log()

  private final class Log: Sendable {
    let lines = Mutex<[String]>([])
  }

  private var service: BackendService<LoopbackPlatform>?
  private var ended: PeerThread?

  init() throws {
    folder = "/tmp/pvdisk-service-\(getpid())-\(UInt32.random(in: 0 ... .max))"
    try #require(unsafe mkdir(folder, 0o700) == 0)
    host = try LoopbackHost()
    server = StoreServer()
    sockets = try StoreSocketServer(server: server, path: folder + "/xs")
    toolstack = try RemoteStore(socket: folder + "/xs")
    let home = StorePath.home(of: LoopbackHost.guestID)
    try toolstack.makeDirectory(home)
    try toolstack.write(home / "vm", "/vm/some-guest")
  }

  deinit {
    stop()
    sockets.stop()
    let files = ["xs", "a.img", "b.img", "c.img", "notes"]
    for file in files { unsafe _ = unlink("\(folder)/\(file)") }
    unsafe _ = rmdir(folder + "/notes")
    unsafe _ = rmdir(folder)
  }

  /// What the service has said so far.
  var said: [String] { log.lines.withLock { $0 } }

  /// Starts a service, as a process would.
  func start(_ change: (inout BackendService<LoopbackPlatform>.Settings) -> Void = { _ in }) throws {
    var settings = BackendService<LoopbackPlatform>.Settings()
    change(&settings)
    let service = BackendService(
      platform: LoopbackPlatform(host, host.control), store: try RemoteStore(socket: folder + "/xs"),
      settings: settings, notes: try NotesFolder(path: folder + "/notes")
    ) { [log] line in log.lines.withLock { $0.append(line) } }
    self.service = service
    ended = PeerThread { try? service.run(onReady: { _ in }) }
  }

  func stop() {
    service?.stop()
    ended?.join()
    service = nil
    ended = nil
  }
}

/// The service and the guest's frontend, both ends of them ours, over memory that both really share.
@Suite("The backend's service and the guest's frontend, without Xen", .timeLimit(.minutes(2)))
struct ServiceTests {
  typealias Disk = GuestDisk<LoopbackPlatform>

  let bench: ServiceBench

  init() throws { bench = try ServiceBench() }

  func makeImage(_ name: String, megabytes: Int = 4) throws -> String {
    let path = "\(bench.folder)/\(name)"
    let descriptor = unsafe pv_open(path, O_RDWR | O_CREAT, 0o600)
    try #require(descriptor >= 0 && ftruncate(descriptor, megabytes << 20) == 0)
    close(descriptor)
    return path
  }

  func definition(_ name: String, _ image: String) throws -> DiskDefinition {
    var definition = DiskDefinition(
      frontend: LoopbackHost.guestID, device: try #require(VirtualDevice(name)), params: image, type: "file")
    definition.backendKind = "pvdisk"
    return definition
  }

  func attach(_ name: String, _ image: String) throws -> DiskDefinition {
    let definition = try definition(name, image)
    try definition.create(in: bench.toolstack)
    return definition
  }

  func frontend(_ definition: DiskDefinition, _ change: (inout FrontendKnobs) -> Void = { _ in }) throws -> Disk {
    var knobs = FrontendKnobs()
    change(&knobs)
    let store = try RemoteStore(socket: bench.folder + "/xs", domain: LoopbackHost.guestID)
    return try Disk(
      platform: LoopbackPlatform(bench.host, bench.host.guest),
      folder: DeviceFolder(store: store, path: definition.frontendPath), knobs: knobs, milliseconds: 20_000)
  }

  /// Waits for something that another thread brings about.
  func eventually(_ what: String, _ condition: () -> Bool) {
    for _ in 0..<2000 {
      if condition() { return }
      usleep(10_000)
    }
    Issue.record("never: \(what); the service said \(bench.said)")
  }

  func backendState(_ definition: DiskDefinition) -> XenbusState {
    DeviceFolder(store: bench.toolstack, path: definition.backendPath).state
  }

  func errorNode(_ definition: DiskDefinition) -> String? {
    let device = definition.backendPath.string.dropFirst("/local/domain/0/".count)
    return try? bench.toolstack.read(StorePath.home(of: .control) / "error" / String(device) / "error")
  }

  @Test("data goes through, both ends close, and nothing stays behind")
  func roundTrip() throws {
    try bench.start()
    let definition = try attach("xvda", try makeImage("a.img"))
    let disk = try frontend(definition) { $0.maxQueues = 2 }
    #expect(disk.geometry.sectorCount == 8192)
    #expect(disk.queueCount == 2)
    let bytes = (0..<100_000 / 512 * 512).map { UInt8(truncatingIfNeeded: $0 &* 7 &+ $0 >> 8) }
    do {
      var queue = try disk.blockingQueue(1, bufferByteCount: 1 << 16)
      try queue.write(bytes, at: 4096)
      try queue.flush()
      #expect(try queue.read(bytes.count, at: 4096) == bytes)
    }
    disk.close()
    eventually("the backend waits for a frontend again") { backendState(definition) == .initWait }
    let again = try frontend(definition)
    do {
      var queue = try again.blockingQueue(0, bufferByteCount: 1 << 16)
      #expect(try queue.read(bytes.count, at: 4096) == bytes)
    }
    again.close()
    bench.stop()
    #expect(bench.host.portCount == 0)
    #expect(bench.host.hypervisor.ledger.mappings == 0)
  }

  @Test("a service that is started again finds its guests connected, and serves them on")
  func restart() throws {
    try bench.start()
    let definition = try attach("xvda", try makeImage("a.img"))
    let disk = try frontend(definition)
    var queue = try disk.blockingQueue(0, bufferByteCount: 1 << 16)
    let bytes = [UInt8](repeating: 0x3C, count: 8192)
    try queue.write(bytes, at: 0)
    bench.stop()
    try bench.start()
    #expect(try queue.read(bytes.count, at: 0) == bytes)
    _ = consume queue
    disk.close()
  }

  @Test("an image that grows is a disk that grows")
  func resize() throws {
    try bench.start()
    let path = try makeImage("a.img")
    let disk = try frontend(try attach("xvda", path))
    _ = try makeImage("a.img", megabytes: 6)
    eventually("the frontend sees 12288 sectors") { disk.geometry.sectorCount == 12288 }
    do {
      var queue = try disk.blockingQueue(0, bufferByteCount: 1 << 16)
      try queue.write([UInt8](repeating: 1, count: 4096), at: (6 << 20) - 4096)
    }
    disk.close()
  }

  @Test("a toolstack takes the disk away: I/O ends with EIO, and the user hears of it")
  func detach() throws {
    try bench.start()
    let definition = try attach("xvda", try makeImage("a.img"))
    let disk = try frontend(definition)
    let told = Mutex<String?>(nil)
    disk.onEnd { why in told.withLock { $0 = why } }
    do {
      var queue = try disk.blockingQueue(0, bufferByteCount: 1 << 16)
      _ = try queue.read(512, at: 0)
      try definition.startDetach(in: bench.toolstack)
      eventually("the frontend is told") { told.withLock { $0 } != nil }
      #expect(throws: BlockError.self) { _ = try queue.read(512, at: 0) }
    }
    eventually("the backend has let go") { backendState(definition) == .closed }
    #expect(told.withLock { $0 } == "the backend closed the disk")
  }

  @Test("when a guest is gone, so are its folders, pages and ports")
  func guestGone() throws {
    try bench.start()
    let definition = try attach("xvda", try makeImage("a.img"))
    let disk = try frontend(definition)
    try bench.toolstack.remove(StorePath.home(of: LoopbackHost.guestID))
    eventually("the backend's folder is gone") {
      (try? bench.toolstack.exists(definition.backendPath)) == false
        && bench.said.contains { $0.contains("guest is gone") }
    }
    #expect(bench.host.hypervisor.ledger.mappings == 0)
    disk.close()
  }

  @Test("a guest may have so many disks and queues and no more; what is refused has an error node, and the rest works")
  func limits() throws {
    try bench.start { settings in
      settings.limits.disks = 2
      settings.limits.queues = 3
    }
    let first = try attach("xvda", try makeImage("a.img"))
    let disk = try frontend(first) { $0.maxQueues = 8 }
    #expect(disk.queueCount == 3, "as many as the guest may have")
    let second = try attach("xvdb", try makeImage("b.img"))
    eventually("the second is refused, for its queues") { backendState(second) == .closed }
    #expect(errorNode(second) == "28 domain 7 has 3 queues, and may have no more")
    do {
      var queue = try disk.blockingQueue(0, bufferByteCount: 1 << 16)
      try queue.write([UInt8](repeating: 9, count: 512), at: 0)
    }
    disk.close()
  }

  @Test("more disks than a guest may have are refused")
  func tooManyDisks() throws {
    try bench.start { $0.limits.disks = 1 }
    let first = try attach("xvda", try makeImage("a.img"))
    eventually("the first is offered") { backendState(first) == .initWait }
    let second = try attach("xvdb", try makeImage("b.img"))
    eventually("the second is refused") { backendState(second) == .closed }
    #expect(errorNode(second) == "28 domain 7 has 1 disks, and may have no more")
  }

  @Test(
    "nonsense of a toolstack is refused with a sentence that names the node",
    arguments: [
      ("frontend-id", "banana", "frontend-id is no domain's number"),
      ("frontend-id", "8", "frontend-id is 8, which is not the domain in the path"),
      ("frontend", "/local/domain/0/device/vbd/51712", "frontend names no folder of domain 7"),
      ("frontend", "no path at all", "frontend names no folder of domain 7"),
      ("params", "relative.img", "params names no image by its whole path"),
      ("params", "/nowhere/at/all", "/nowhere/at/all does not exist"),
    ])
  func nonsense(node: String, value: String, sentence: String) throws {
    let definition = try definition("xvda", try makeImage("a.img"))
    try definition.create(in: bench.toolstack)
    try bench.toolstack.write(definition.backendPath / node, value)
    try bench.start()
    eventually("it is refused") { backendState(definition) == .closed }
    #expect(errorNode(definition)?.contains(sentence) == true, "\(errorNode(definition) ?? "no error node")")
    let good = try attach("xvdb", try makeImage("b.img"))
    let disk = try frontend(good)
    disk.close()
  }

  @Test("pages that cannot be mapped are an I/O error, and the next request that can is none")
  func refusedMappings() throws {
    try bench.start { $0.knobs.featurePersistent = false }
    let disk = try frontend(try attach("xvda", try makeImage("a.img"))) { $0.featurePersistent = false }
    do {
      var queue = try disk.blockingQueue(0, bufferByteCount: 1 << 16)
      bench.host.refusesMappings.store(true, ordering: .relaxed)
      #expect(throws: BlockError.self) { _ = try queue.read(4096, at: 0) }
      bench.host.refusesMappings.store(false, ordering: .relaxed)
      #expect(try queue.read(4096, at: 0).count == 4096)
    }
    disk.close()
  }

  @Test("a frontend whose backend never answers says so, and leaves its folder as it was")
  func noBackend() throws {
    let definition = try attach("xvda", try makeImage("a.img"))
    let store = try RemoteStore(socket: bench.folder + "/xs", domain: LoopbackHost.guestID)
    let folder = DeviceFolder(store: store, path: definition.frontendPath)
    let error = #expect(throws: BlockError.self) {
      _ = try Disk(
        platform: LoopbackPlatform(bench.host, bench.host.guest), folder: folder, knobs: FrontendKnobs(),
        milliseconds: 300)
    }
    #expect(error?.sentence.contains("did not answer") == true)
    #expect(folder.state == .initialising)
    #expect(bench.host.portCount == 0)
  }

  @Test("a disk that another driver has is not taken")
  func takenAlready() throws {
    try bench.start()
    let definition = try attach("xvda", try makeImage("a.img"))
    let disk = try frontend(definition)
    let error = #expect(throws: BlockError.self) { _ = try frontend(definition) }
    #expect(error?.sentence.contains("somebody else has the disk") == true)
    disk.close()
  }
}
