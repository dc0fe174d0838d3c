// SPDX-License-Identifier: MIT

import BlockBack
import BlockIO
import Glibc
import PVMachine
import PVTestSupport
import Testing
import XenBus
import XenRecords
import XenStore
import XenWire

@Suite("The conversation of a whole machine, against that of a real Xen")
struct MachineConversationTests {
  /// A machine whose guest has the capture's number, so that paths are equal as they are.
  struct Bench {
    let machine: Machine
    let disk: MemoryDisk
    let recorder: ConversationRecorder
    var configuration = DiskConfiguration()

    init(guest: Int, guestStore: GuestStoreTransport = .direct, sectors: UInt64 = 131_072) throws {
      var machineConfiguration = MachineConfiguration()
      machineConfiguration.guestStore = guestStore
      machineConfiguration.guestDomain = DomainID(rawValue: UInt16(guest))
      machine = try Machine(machineConfiguration)
      disk = try MemoryDisk(
        geometry: BlockGeometry(sectorCount: sectors, discard: DiscardAbility(granularity: 4096)))
      recorder = try ConversationRecorder(machine.store)
      configuration.params = "/dev/loop0"
      configuration.type = "phy"
    }
  }

  /// Differences from the captures that are meant.
  static let differences = [
    AcceptedDifference(
      "script", ours: nil, because: "no hotplug script runs: the disk is open before the folders are made"),
    AcceptedDifference(
      "physical-device", ours: nil, because: "the disk need not be a block device, so it has no device number"),
    AcceptedDifference("multi-queue-max-queues", ours: "8", because: "Linux offers as many queues as it has CPUs"),
  ]

  @Test(
    "two queues: every node of both ends, in Linux's order, with Linux's values, however the guest reaches the store",
    arguments: GuestStoreTransport.allCases)
  func twoQueues(guestStore: GuestStoreTransport) throws {
    let capture = try CapturedConversation("default-2vcpu")
    var bench = try Bench(guest: capture.guest, guestStore: guestStore)
    bench.configuration.queues = 2
    try check(bench, capture, Self.differences)
  }

  @Test("one queue of one page: no queue folders, no ring-page-order")
  func oneQueue() throws {
    let capture = try CapturedConversation("default-1vcpu")
    try check(try Bench(guest: capture.guest), capture, Self.differences)
  }

  @Test("two queues of four pages: ring-page-order, and ring-ref0...3 in each queue's folder")
  func largeRings() throws {
    let capture = try CapturedConversation("fe-2queues-order2-seg64")
    var bench = try Bench(guest: capture.guest)
    bench.configuration.queues = 2
    bench.configuration.ringPages = 4
    bench.configuration.indirectSegments = 64
    let segments = AcceptedDifference(
      "feature-max-indirect-segments", ours: "64",
      because: "one setting governs both ends here, where Linux has a parameter at each")
    try check(bench, capture, Self.differences + [segments])
  }

  /// A capture, and how a machine is set up to say the same.
  struct Scenario: CustomTestStringConvertible, Sendable {
    let testDescription: String
    var device = "xvda"
    var source = "/dev/loop0"
    var sectors: UInt64 = 131_072
    /// What a hotplug script wrote at another moment there, since it ran beside the two ends.
    var unordered: Set<String> = []
    let change: @Sendable (inout DiskConfiguration) -> Void

    init(
      _ name: String, device: String = "xvda", source: String = "/dev/loop0", sectors: UInt64 = 131_072,
      unordered: Set<String> = [],
      _ change: @escaping @Sendable (inout DiskConfiguration) -> Void
    ) {
      testDescription = name
      self.device = device
      self.source = source
      self.sectors = sectors
      self.unordered = unordered
      self.change = change
    }

    static let all: [Scenario] = [
      Scenario("fe-persistent-off") { $0.frontPersistent = false },
      Scenario("be-persistent-off") { $0.backPersistent = false },
      Scenario("be-old-order0-queue1") { configuration in
        configuration.queues = 2
        configuration.ringPages = 16
        var old = BackendKnobs()
        old.maxQueues = 1
        old.maxRingPageOrder = 0
        configuration.backend = old
      },
      Scenario("fe-ring-order2") { $0.ringPages = 4 },
      Scenario("fe-ring-order4") { $0.ringPages = 16 },
      Scenario("fe-max_queues1") { $0.queues = 1 },
      Scenario("fe-indirect256") { $0.indirectSegments = 256 },
      Scenario(
        "life-4-reattach", sectors: 196_608, unordered: ["physical-device-path", "hotplug-status"]
      ) { _ in },
      Scenario("read-only", device: "xvdb", source: "/dev/loop1") { $0.isReadOnly = true },
      Scenario("cdrom", device: "xvdd", source: "/dev/loop2") {
        $0.isReadOnly = true
        $0.isRemovable = true
      },
    ]
  }

  @Test("ten other ways to come up, each word by word", arguments: Scenario.all)
  func otherWays(scenario: Scenario) throws {
    let capture = try CapturedConversation(scenario.testDescription)
    var bench = try Bench(guest: capture.guest, sectors: scenario.sectors)
    bench.configuration.device = scenario.device
    bench.configuration.params = scenario.source
    scenario.change(&bench.configuration)
    let isOld = bench.configuration.backend != nil
    try check(
      bench, capture, isOld ? Self.differences.filter { $0.node != "multi-queue-max-queues" } : Self.differences,
      unordered: scenario.unordered)
  }

  @Test("a resize: the capacity, and the same state once more")
  func resize() throws {
    let capture = try CapturedConversation("life-2-resize")
    var machineConfiguration = MachineConfiguration()
    machineConfiguration.guestDomain = DomainID(rawValue: 16)
    let machine = try Machine(machineConfiguration)
    let image = try MemoryDisk(geometry: BlockGeometry(sectorCount: 131_072), growsTo: 196_608 * 512)
    let disk = try machine.attach(image)
    let recorder = try ConversationRecorder(machine.store)
    image.grow(toSectorCount: 196_608)
    #expect(try disk.announceCapacity())
    let expected = capture.changes
    #expect(recorder.take() == expected)
    disk.detach()
    recorder.stop()
  }

  @Test("a guest that powers off: closing and closed, each answered by the backend, which stays")
  func shutdown() throws {
    let capture = try CapturedConversation("shutdown")
    let bench = try Bench(guest: capture.guest)
    let disk = try bench.machine.attach(bench.disk, as: bench.configuration)
    _ = bench.recorder.take()
    disk.closeFrontend()
    var said: [ConversationRecorder.Change] = []
    let deadline = time(nil) + 60
    while said.count < 4, time(nil) < deadline {
      said += bench.recorder.take()
      usleep(1000)
    }
    #expect(said == capture.changes)
    disk.detach()
    bench.recorder.stop()
  }

  func check(
    _ bench: Bench, _ capture: CapturedConversation, _ differences: [AcceptedDifference], unordered: Set<String> = []
  ) throws {
    let disk = try bench.machine.attach(bench.disk, as: bench.configuration)
    func isOrdered(_ change: ConversationRecorder.Change) -> Bool {
      !unordered.contains(change.path.split(separator: "/").last.map(String.init) ?? "")
    }
    let ours = bench.recorder.take().filter(isOrdered)
    let theirs = capture.changes.adapted(differences).filter(isOrdered)
    #expect(ours.count == theirs.count)
    for (mine, real) in zip(ours.withoutRunNumbers, theirs.withoutRunNumbers) { #expect(mine == real) }
    let runNumbers = ours.filter { $0.path.contains("/ring-ref") }.compactMap(\.value)
    #expect(Set(runNumbers).count == runNumbers.count, "each ring page has a grant of its own")
    #expect(runNumbers.compactMap { UInt32($0) }.allSatisfy { $0 >= 8 }, "the reserved ones are not handed out")
    try checkPermissions(bench, capture, differences)
    disk.detach()
    bench.recorder.stop()
  }

  /// The folders hold the captured nodes and no others, with the captured permissions.
  func checkPermissions(
    _ bench: Bench, _ capture: CapturedConversation, _ differences: [AcceptedDifference]
  ) throws {
    let toolstack = bench.machine.toolstack
    var known: Set<String> = []
    for node in capture.nodes {
      let name = node.path.split(separator: "/").last.map(String.init) ?? ""
      if differences.contains(where: { $0.node == name && $0.ours == nil }) { continue }
      known.insert(node.path)
      guard try toolstack.exists(node.path) else {
        Issue.record("\(node.path) is missing")
        continue
      }
      let permissions = "\(try toolstack.permissions(node.path))".replacing(" ", with: ",")
      #expect(permissions == node.permissions, "\(node.path)")
    }
    for node in capture.nodes where node.value.isEmpty {
      for child in try toolstack.directory(node.path) { #expect(known.contains("\(node.path)/\(child)")) }
    }
  }

  @Test("a detach: offline and closing, both ends closed, the folders gone, as in Linux's")
  func detach() throws {
    let capture = try CapturedConversation("life-3-detach")
    let bench = try Bench(guest: capture.guest)
    let disk = try bench.machine.attach(bench.disk, as: bench.configuration)
    _ = bench.recorder.take()
    #expect(disk.detach() == 0)
    #expect(bench.recorder.take() == capture.changes)
    bench.recorder.stop()
  }

  @Test("a disk that was detached can be attached again, with the same words")
  func again() throws {
    let bench = try Bench(guest: 7)
    var conversations: [[ConversationRecorder.Change]] = []
    for _ in 0..<2 {
      let disk = try bench.machine.attach(bench.disk, as: bench.configuration)
      disk.detach()
      conversations.append(bench.recorder.take().withoutRunNumbers)
    }
    #expect(conversations[0] == conversations[1])
    #expect(conversations[0].count > 40)
    bench.recorder.stop()
  }
}
