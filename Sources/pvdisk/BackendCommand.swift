// SPDX-License-Identifier: MIT

import ArgumentParser
import BlockBack
import CLinux
import DiskImages
import Glibc
import XenBackend
import XenBus
import XenPlatform
import XenStore
import XenWire

/// `pvdisk backend`: serves disks to the guests of a real Xen host.
struct BackendCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "backend",
    abstract: "Serve disks to the guests of a real Xen host, from its control domain.",
    discussion: """
      Serves every disk below backend/pvdisk (see --kind) in the XenStore; 'pvdisk backend attach' makes one. SIGINT and
      SIGTERM end it; guests keep their disks and go on when it is started again.
      """,
    subcommands: [BackendServe.self, BackendAttach.self, BackendDetach.self], defaultSubcommand: BackendServe.self)
}

/// Which host, and which kind of backend.
struct BackendAddress: ParsableArguments {
  @OptionGroup var store: XenStoreAddress

  @Option(help: ArgumentHelp("The folder below 'backend' in the XenStore.", valueName: "name"))
  var kind = "pvdisk"

  /// Connects to the host's store.
  func connect() throws -> RemoteStore {
    do {
      return try RemoteStore(socket: store.path)
    } catch {
      throw Refusal(
        "cannot connect to the XenStore at \(store.path): \(error); run this in a control domain whose xenstored serves "
          + "a socket")
    }
  }

  func validate() throws {
    guard StorePath.root.appending(kind) != nil, !kind.contains("/"), kind != "vbd" else {
      throw ValidationError("'\(kind)' cannot be a backend's kind: a word, and not vbd, which is the kernel's own.")
    }
  }
}

/// `pvdisk backend serve`.
struct BackendServe: ParsableCommand {
  static let configuration = CommandConfiguration(commandName: "serve", abstract: "Serve disks until told to stop.")

  @OptionGroup var address: BackendAddress

  @Option(help: ArgumentHelp("The most queues of one disk.", valueName: "N"))
  var queues = 8
  @Option(help: ArgumentHelp("The most pages of one ring: 1, 2, 4, 8 or 16.", valueName: "N"))
  var ringPages = 16
  @Option(help: ArgumentHelp("Segments of an indirect request; 0 offers none.", valueName: "N"))
  var indirectSegments = 256
  @Flag(inversion: .prefixedNo, help: "Keep guests' pages mapped between requests.")
  var persistent = true

  @Option(help: ArgumentHelp("The most disks of one guest.", valueName: "N"))
  var guestDisks = 32
  @Option(help: ArgumentHelp("The most queues of all disks of one guest together.", valueName: "N"))
  var guestQueues = 64
  @Option(help: ArgumentHelp("The most pages of one guest that are mapped at once.", valueName: "N"))
  var guestPages = 65536
  @Option(
    help: ArgumentHelp(
      "Where queues note what they have taken and not answered, for a backend that is started after this one was killed.",
      valueName: "folder"))
  var notes = "/run/pvdisk"

  @Flag(help: "Return when disks can be made, and serve in the background.")
  var daemonize = false
  @Option(
    name: [.customShort("P"), .customLong("pid-file")],
    help: ArgumentHelp("Write the process number here when disks can be made.", valueName: "file"))
  var pidFile: String?

  func validate() throws {
    guard (1...64).contains(queues) else { throw ValidationError("--queues must be 1 to 64, not \(queues)") }
    guard [1, 2, 4, 8, 16].contains(ringPages) else {
      throw ValidationError("--ring-pages must be 1, 2, 4, 8 or 16, not \(ringPages)")
    }
    guard (0...256).contains(indirectSegments) else {
      throw ValidationError("--indirect-segments must be 0 to 256, not \(indirectSegments)")
    }
    for (name, value) in [("disks", guestDisks), ("queues", guestQueues), ("pages", guestPages)] where value < 1 {
      throw ValidationError("--guest-\(name) must be at least 1, not \(value)")
    }
  }

  private var settings: BackendService<XenPlatform>.Settings {
    var settings = BackendService<XenPlatform>.Settings()
    settings.kind = address.kind
    settings.knobs.maxQueues = queues
    settings.knobs.maxRingPageOrder = ringPages.trailingZeroBitCount
    settings.knobs.maxIndirectSegments = indirectSegments
    settings.knobs.featurePersistent = persistent
    settings.limits.disks = guestDisks
    settings.limits.queues = guestQueues
    return settings
  }

  func run() throws {
    if let pidFile { try PIDFile.check(path: pidFile) }
    let ready = daemonize ? pv_daemonize_begin() : -1
    if daemonize, ready < 0 { throw Refusal("cannot go to the background: \(Refusal.reason)") }
    DaemonSignals.block()
    let host: XenHost
    do { host = try XenHost(pagesOfDomain: guestPages) } catch { throw Refusal("\(error)") }
    let folder: NotesFolder
    do { folder = try NotesFolder(path: notes) } catch {
      throw Refusal("cannot use the folder \(notes) (\(error)); name another one with --notes, best in memory")
    }
    let service = BackendService(
      platform: XenPlatform(host), store: try address.connect(), settings: settings, notes: folder
    ) { line in say("pvdisk: \(line)") }
    let notifier = ServiceNotifier()
    Background.start {
      while DaemonSignals.wait() == SIGHUP {}
      notifier?.stopping()
      service.stop()
    }
    let pid = try serve(service, notifier) { if ready >= 0 { pv_daemonize_end(ready) } }
    pid?.remove()
    say("pvdisk: ended; \(host.mappingCount) pages and \(host.portCount) ports left")
  }

  /// Serves until the end, and tells the service manager, where there is one.
  private func serve(
    _ service: BackendService<XenPlatform>, _ notifier: ServiceNotifier?, onReady: () -> Void
  ) throws -> PIDFile? {
    var pid: PIDFile?
    var known = 0
    func status(_ disks: Int) -> String { "serving \(disks) disk\(disks == 1 ? "" : "s")" }
    do {
      try service.run { disks in
        known = disks
        pid = pidFile.flatMap { try? PIDFile(path: $0) }
        onReady()
        notifier?.ready(status(disks))
      } onTurn: { disks in
        if notifier?.watchdogMilliseconds != nil { notifier?.alive() }
        if disks != known { notifier?.status(status(disks)) }
        known = disks
      }
    } catch {
      pid?.remove()
      throw Refusal("the XenStore went away (\(error.wireName)); start again when it is back")
    }
    return pid
  }
}

/// `pvdisk backend attach`: gives a guest a disk.
struct BackendAttach: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "attach", abstract: "Give a guest a disk that 'pvdisk backend' serves.")

  @OptionGroup var address: BackendAddress
  @Argument(help: ArgumentHelp("The guest's number ('xl domid NAME').", valueName: "domid")) var domain: UInt16
  @Argument(help: ArgumentHelp("A raw disk image or block device.", valueName: "image")) var image: String
  @Option(help: ArgumentHelp("The disk's name or number in the guest.", valueName: "name")) var vdev = "xvda"
  @Flag(name: [.customShort("r"), .customLong("read-only")], help: "Refuse writes.") var isReadOnly = false
  @Flag(inversion: .prefixedNo, help: "Wait until the backend has opened the image.") var wait = true

  func run() throws {
    guard let device = VirtualDevice(vdev) else {
      throw Refusal("'\(vdev)' is not a disk name; use xvda, xvdb, ... or a device number", status: ExitStatus.usage)
    }
    guard unsafe access(image, isReadOnly ? R_OK : R_OK | W_OK) == 0 else {
      throw Refusal("\(image): \(Refusal.reason)", status: ExitStatus.image)
    }
    let store = try address.connect()
    let guest = DomainID(rawValue: domain)
    var definition = DiskDefinition(frontend: guest, device: device, params: absolutePath(image), type: "file")
    definition.backendKind = address.kind
    definition.isReadOnly = isReadOnly
    do {
      guard try store.exists(StorePath.home(of: guest)) else { throw Refusal("there is no domain \(domain)") }
      guard try !store.exists(definition.frontendPath) else {
        throw Refusal("domain \(domain) has a disk \(device.name) already; detach it or choose another --vdev")
      }
      try definition.create(in: store)
      try store.watch(definition.backendPath, token: "attach")
    } catch let error as StoreError { throw Refusal("the XenStore refused: \(error.wireName)") }
    guard wait else { return }
    let folder = DeviceFolder(store: store, path: definition.backendPath)
    for _ in 0..<300 {
      if folder.read(BackendKey.hotplugStatus) != nil { return }
      if folder.state == .closed {
        let place = StorePath.home(of: .control) / "error/backend" / address.kind / guest / device.number
        let error = try? store.read(place / "error")
        try? definition.remove(from: store)
        throw Refusal("the backend refused the disk: \(error ?? "it does not say why")")
      }
      usleep(100_000)
    }
    throw Refusal("no backend took the disk up; is 'pvdisk backend' running in this domain?")
  }
}

/// `pvdisk backend detach`: takes a disk away from a guest.
struct BackendDetach: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "detach", abstract: "Take a disk away from a guest, when the guest lets go of it.")

  @OptionGroup var address: BackendAddress
  @Argument(help: ArgumentHelp("The guest's number.", valueName: "domid")) var domain: UInt16
  @Argument(help: ArgumentHelp("The disk's name or number in the guest.", valueName: "vdev")) var vdev: String
  @Option(help: ArgumentHelp("How long to wait for the guest, in seconds.", valueName: "seconds")) var timeout = 30

  func run() throws {
    guard let device = VirtualDevice(vdev) else {
      throw Refusal("'\(vdev)' is not a disk name; use xvda, xvdb, ... or a device number", status: ExitStatus.usage)
    }
    let store = try address.connect()
    var definition = DiskDefinition(
      frontend: DomainID(rawValue: domain), device: device, params: "", type: "file")
    definition.backendKind = address.kind
    let folder = DeviceFolder(store: store, path: definition.backendPath)
    do {
      guard try store.exists(definition.backendPath) else { throw Refusal("domain \(domain) has no disk \(vdev)") }
      try definition.startDetach(in: store)
      for _ in 0..<(max(timeout, 1) * 10) {
        if folder.state == .closed || folder.state == .unknown {
          try definition.remove(from: store)
          return
        }
        usleep(100_000)
      }
    } catch let error as StoreError { throw Refusal("the XenStore refused: \(error.wireName)") }
    throw Refusal("domain \(domain) still uses the disk after \(timeout) s; it goes when the guest lets go of it")
  }
}
