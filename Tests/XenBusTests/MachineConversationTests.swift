// SPDX-License-Identifier: MIT

import BlockIO
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

    init(guest: Int, guestStore: GuestStoreTransport = .direct) throws {
      var machineConfiguration = MachineConfiguration()
      machineConfiguration.guestStore = guestStore
      machineConfiguration.guestDomain = DomainID(rawValue: UInt16(guest))
      machine = try Machine(machineConfiguration)
      disk = try MemoryDisk(
        geometry: BlockGeometry(sectorCount: 131_072, discard: DiscardAbility(granularity: 4096)))
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

  func check(_ bench: Bench, _ capture: CapturedConversation, _ differences: [AcceptedDifference]) throws {
    let disk = try bench.machine.attach(bench.disk, as: bench.configuration)
    let ours = bench.recorder.take()
    let theirs = capture.changes.adapted(differences)
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
