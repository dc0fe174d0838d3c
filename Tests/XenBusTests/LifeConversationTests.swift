// SPDX-License-Identifier: MIT

import BlockBack
import BlockFront
import BlockIO
import Glibc
import PVMachine
import PVTestSupport
import Synchronization
import Testing
import XenBus
import XenHypervisor
import XenRecords
import XenStore
import XenWire

@Suite("What both ends say while a disk comes and goes, against a real Xen")
struct LifeConversationTests {
  typealias Bench = MachineConversationTests.Bench

  /// What was said, once there is so much of it; what there is after ten seconds.
  func said(
    _ recorder: ConversationRecorder, count: Int, but ignored: ConversationRecorder.Change? = nil
  ) -> [ConversationRecorder.Change] {
    var said: [ConversationRecorder.Change] = []
    let deadline = time(nil) + 10
    repeat {
      said += recorder.take().filter { $0 != ignored }
      if said.count < count { usleep(500) }
    } while said.count < count && time(nil) < deadline
    return said
  }

  @Test("a driver that is unbound: closed at once, and the backend stays, closed")
  func unbind() throws {
    let capture = try CapturedConversation("unbind")
    let bench = try Bench(guest: capture.guest)
    let disk = try bench.machine.attach(bench.disk, as: bench.configuration)
    _ = bench.recorder.take()
    disk.unbindFrontend()
    #expect(said(bench.recorder, count: capture.changes.count) == capture.changes)
    #expect(disk.backend.handshakeState == .closed && disk.backend.folder.value(BackendKey.online))
    // A driver that is bound again starts anew, and the backend with it.
    disk.reopen()
    let deadline = time(nil) + 10
    while disk.phase != .connected, time(nil) < deadline { usleep(500) }
    #expect(disk.phase == .connected)
    disk.detach()
    bench.recorder.stop()
  }

  @Test("a detach of a disk that is in use: the frontend does not wait, its I/O fails, the folders go once it lets go")
  func busyDetach() throws {
    let capture = try CapturedConversation("detach-busy")
    let bench = try Bench(guest: capture.guest)
    let disk = try bench.machine.attach(bench.disk, as: bench.configuration)
    _ = bench.recorder.take()
    let expected = capture.changes
    do {
      var driver = QueueDriver(try disk.makeQueue(0, buffers: BufferDemand(count: 1, byteCount: 4096)))
      let memory = try ScatteredMemory(byteCount: 4096)
      #expect(driver.run(at: 0, 4096, .write, memory) == 0)
      try disk.definition.startDetach(in: bench.machine.toolstack)
      let deadline = time(nil) + 10
      while disk.phase != .gone, time(nil) < deadline {
        driver.queue.advance()
        usleep(500)
      }
      #expect(said(bench.recorder, count: 4) == Array(expected.prefix(4)))
      #expect(driver.run(at: 0, 4096, .write, memory) == EIO)
      #expect(bench.recorder.take().isEmpty, "nobody says more while the disk is in use")
    }
    #expect(disk.detach() == 0)
    #expect(bench.recorder.take() == Array(expected.dropFirst(4)))
    bench.recorder.stop()
  }

  @Test("a guest that was saved: its frontend's folder is gone before the backend is told, which closes once")
  func save() throws {
    let capture = try CapturedConversation("save")
    let bench = try Bench(guest: capture.guest)
    let disk = try bench.machine.attach(bench.disk, as: bench.configuration)
    _ = bench.recorder.take()
    let toolstack = bench.machine.toolstack
    let definition = disk.definition
    try toolstack.transaction { (transaction) throws(StoreError) in
      try toolstack.remove(definition.frontendPath, in: transaction)
      if let parent = definition.frontendPath.parent { try toolstack.remove(parent, in: transaction) }
      try toolstack.write(definition.backendPath / "online", "0", in: transaction)
      try toolstack.write(definition.backendPath / "state", "5", in: transaction)
    }
    // The backend may have answered the toolstack's own word before the recorder has read it.
    let own = capture.changes[3]
    #expect(own.path.hasSuffix("/state") && own.value == "5")
    let expected = capture.changes.prefix(5).filter { $0 != own }
    #expect(said(bench.recorder, count: expected.count, but: own) == expected)
    let deadline = time(nil) + 10
    while disk.phase != .gone, time(nil) < deadline { usleep(500) }
    #expect(disk.detach() == 0)
    #expect(bench.recorder.take() == Array(capture.changes.dropFirst(5)))
    bench.recorder.stop()
  }

  @Test("a guest that is restored: new folders, a probe, and a frontend that says all it said when it first came")
  func restore() throws {
    let capture = try CapturedConversation("restore")
    let bench = try Bench(guest: capture.guest)
    let disk = try bench.machine.attach(bench.disk, as: bench.configuration)
    let gate = Flag()
    disk.suspend { gate.raise() }
    #expect(gate.wait(), "suspended")
    _ = bench.recorder.take()
    disk.resume()
    let theirs = capture.changes.adapted(MachineConversationTests.differences)
    let ours = said(bench.recorder, count: theirs.count)
    #expect(ours.withoutRunNumbers == theirs.withoutRunNumbers)
    disk.detach()
    bench.recorder.stop()
  }

  @Test("a medium that goes and comes: what it is, how large it is, and the same state once more")
  func medium() throws {
    var machineConfiguration = MachineConfiguration()
    machineConfiguration.guestDomain = DomainID(rawValue: 6)
    let machine = try Machine(machineConfiguration)
    let image = try MemoryDisk(geometry: BlockGeometry(sectorCount: 8), growsTo: 4096)
    var configuration = DiskConfiguration()
    configuration.isReadOnly = true
    configuration.isRemovable = true
    let disk = try machine.attach(image, as: configuration)
    let recorder = try ConversationRecorder(machine.store)
    let folder = "/local/domain/0/backend/vbd/6/51712"
    for (sectors, params) in [(UInt64(0), ""), (6, "/images/two.iso"), (8, "/images/one.iso")] {
      image.grow(toSectorCount: sectors)
      disk.writeParams(params)
      #expect(try disk.announceCapacity())
      let spoken = recorder.take().map(\.description)
      let named = params.isEmpty ? [] : ["params", "physical-device-path"].map { "WRITE \(folder)/\($0) \(params)" }
      #expect(spoken == named + ["WRITE \(folder)/sectors \(sectors)", "WRITE \(folder)/state 4"])
      #expect(try machine.toolstack.read("\(folder)/params") == params)
      let deadline = time(nil) + 10
      while disk.geometry.sectorCount != sectors, time(nil) < deadline { usleep(500) }
      #expect(disk.geometry.sectorCount == sectors)
    }
    #expect(disk.frontend.handshakeState == .connected, "through it all")
    disk.detach()
    recorder.stop()
  }

  @Test("QEMU's qdisk: our frontend says to it what Linux's says, and closes as Linux's does")
  func qdisk() throws {
    let capture = try CapturedConversation("qdisk")
    var machineConfiguration = MachineConfiguration()
    machineConfiguration.guestDomain = DomainID(rawValue: UInt16(capture.guest))
    let machine = try Machine(machineConfiguration)
    let recorder = try ConversationRecorder(machine.store)
    let platform = EmulatedPlatform(hypervisor: machine.hypervisor, domain: machine.guest)
    let path = StorePath.home(of: machine.guest.id) / "device/vbd/51712"
    let frontend = FrontendDevice(
      platform: platform, folder: DeviceFolder(store: machine.store.connect(as: machine.guest.id), path: path),
      knobs: FrontendKnobs(), blockProtocol: .x86_64)
    var offer: DiskOffer?
    var hasProbed = false
    for line in capture.lines {
      guard line.actor == "domU" else {
        try play(line, in: machine)
        if hasProbed {
          for event in frontend.handleWatches() {
            if case .connected(let found) = event { offer = found }
            if case .closing = event { frontend.finishClosing() }
          }
        }
        continue
      }
      if !hasProbed {
        hasProbed = true
        try frontend.probe()
        _ = frontend.handleWatches()
      }
      if line.path.hasSuffix("/state"), line.value == "5" { frontend.startClosing() }
    }
    let theirs = capture.changes
    let ours = recorder.take().filter { $0.path.hasPrefix("\(path)/") || $0.path.contains("/qdisk/") }
    let mine = ours.filter { $0.path.hasPrefix("\(path)/") && $0.value != nil }.withoutRunNumbers
    let real = theirs.filter { $0.path.hasPrefix("\(path)/") && $0.value != nil }.withoutRunNumbers
    #expect(mine == real)
    #expect(offer?.geometry.sectorCount == 131_072 && offer?.geometry.logicalSectorSize == 512)
    #expect(offer?.abilities.canFlush == true && offer?.abilities.canBarrier == false)
    #expect(offer?.abilities.canDiscard == true && offer?.abilities.canDiscardSecurely == false)
    #expect(offer?.abilities.isPersistent == false, "QEMU keeps no grants mapped")
    #expect(offer?.abilities.maxSegments == 11, "and takes no indirect requests")
    #expect(frontend.handshakeState == .closed)
    recorder.stop()
  }

  /// Lets a toolstack or a backend of dom0 say a line.
  private func play(_ line: CapturedConversation.Line, in machine: Machine) throws {
    let path = try #require(StorePath(line.path))
    switch line.operation {
    case "WRITE": try machine.toolstack.write(path, line.value)
    case "RM": if try machine.toolstack.exists(path) { try machine.toolstack.remove(path) }
    case "MKDIR":
      try machine.toolstack.makeDirectory(path)
      let isGuests = line.path.contains("/device/")
      let permissions = StorePermissions(
        owner: isGuests ? machine.guest.id : .control, others: [],
        [StorePermission(.read, isGuests ? .control : machine.guest.id)])
      try machine.toolstack.setPermissions(path, permissions)
    default: Issue.record("\(line)")
    }
  }
}

/// Something that has happened, waited for with an end.
final class Flag: Sendable {
  private let isUp = Atomic<Bool>(false)
  func raise() { isUp.store(true, ordering: .releasing) }
  func wait() -> Bool {
    let deadline = time(nil) + 10
    while !isUp.load(ordering: .acquiring), time(nil) < deadline { usleep(500) }
    return isUp.load(ordering: .acquiring)
  }
}
