// SPDX-License-Identifier: MIT

import BlockBack
import BlockFront
import BlockIO
import PVMachine
import SharedRing
import Testing
import XenBus
import XenHypervisor
import XenStore
import XenWire

/// A backend's folder, and what blkfront makes of it.
struct BackendKeys: CustomTestStringConvertible, Sendable {
  struct Choice: Equatable, Sendable {
    var queues = 1
    var order = 0
    var segments = 11
    var isPersistent = false
    var sectors: UInt64 = 2048
    var sectorSize = 512
    var physicalSectorSize = 512
    var canFlush = false
    var canDiscard = false
    var granularity: Int?
    var isReadOnly = false
  }

  enum Outcome: Sendable {
    case connected(Choice)
    /// The error node; `B` stands for the backend's folder.
    case refused(String)
  }

  let testDescription: String
  let outcome: Outcome
  let change: @Sendable (inout [String: String]) -> Void

  init(
    _ name: String, _ choose: (inout Choice) -> Void = { _ in },
    change: @escaping @Sendable (inout [String: String]) -> Void
  ) {
    testDescription = name
    var choice = Choice()
    choose(&choice)
    outcome = .connected(choice)
    self.change = change
  }

  init(_ name: String, refused text: String, change: @escaping @Sendable (inout [String: String]) -> Void) {
    testDescription = name
    outcome = .refused(text)
    self.change = change
  }

  /// The frontend would take two queues, rings of four pages, 32 segments, persistent grants.
  static let all: [BackendKeys] = [
    BackendKeys("an old backend that offers nothing") { _ in },
    BackendKeys("queues, up to its own limit") {
      $0.queues = 2
    } change: {
      $0["multi-queue-max-queues"] = "16"
    },
    BackendKeys("no queue counts as one") { $0["multi-queue-max-queues"] = "0" },
    BackendKeys("a senseless number of queues counts as one") { $0["multi-queue-max-queues"] = "all" },
    BackendKeys("ring pages, the smaller order") {
      $0.order = 1
    } change: {
      $0["max-ring-page-order"] = "1"
    },
    BackendKeys("ring pages, up to its own limit") {
      $0.order = 2
    } change: {
      $0["max-ring-page-order"] = "4000000000"
    },
    BackendKeys("ring pages by the deprecated key") {
      $0.order = 1
    } change: {
      $0["max-ring-pages"] = "2"
    },
    BackendKeys("both keys: the order counts") {
      $0.order = 0
    } change: {
      $0["max-ring-page-order"] = "0"
      $0["max-ring-pages"] = "4"
    },
    BackendKeys("indirect segments, the smaller number") {
      $0.segments = 20
    } change: {
      $0["feature-max-indirect-segments"] = "20"
    },
    BackendKeys("indirect segments, up to its own limit") {
      $0.segments = 32
    } change: {
      $0["feature-max-indirect-segments"] = "4294967295"
    },
    BackendKeys("fewer indirect than direct segments") { $0["feature-max-indirect-segments"] = "8" },
    BackendKeys("persistent grants") {
      $0.isPersistent = true
    } change: {
      $0["feature-persistent"] = "1"
    },
    BackendKeys("flush") {
      $0.canFlush = true
    } change: {
      $0["feature-flush-cache"] = "1"
    },
    BackendKeys("discard without granularity: a physical sector") {
      $0.canDiscard = true
      $0.granularity = 4096
      $0.physicalSectorSize = 4096
    } change: {
      $0["feature-discard"] = "1"
      $0["physical-sector-size"] = "4096"
    },
    BackendKeys("discard granularity") {
      $0.canDiscard = true
      $0.granularity = 65536
    } change: {
      $0["feature-discard"] = "1"
      $0["discard-granularity"] = "65536"
    },
    BackendKeys("sectors of 4096 bytes; the capacity stays in units of 512") {
      $0.sectorSize = 4096
      $0.physicalSectorSize = 4096
    } change: {
      $0["sector-size"] = "4096"
    },
    BackendKeys("a read-only disk") {
      $0.isReadOnly = true
    } change: {
      $0["info"] = "4"
    },
    BackendKeys("no capacity", refused: "2 reading backend fields at B") { $0["sectors"] = nil },
    BackendKeys("a senseless capacity", refused: "2 reading backend fields at B") { $0["sectors"] = "big" },
    BackendKeys("no sector size", refused: "2 reading backend fields at B") { $0["sector-size"] = nil },
    BackendKeys("a sector size of 0", refused: "2 reading backend fields at B") { $0["sector-size"] = "0" },
    BackendKeys("a sector size that is no power of two", refused: "2 reading backend fields at B") {
      $0["sector-size"] = "520"
    },
    BackendKeys("no info", refused: "2 reading backend fields at B") { $0["info"] = nil },
  ]
}

@Suite("What a frontend makes of a backend's keys")
struct FrontendNegotiationTests {
  static let late: Set<String> = ["sectors", "sector-size", "physical-sector-size", "info"]

  func makeFrontend(_ bench: NegotiationBench) -> FrontendDevice<EmulatedPlatform> {
    var knobs = FrontendKnobs()
    knobs.maxQueues = 2
    knobs.maxRingPageOrder = 2
    let store = bench.machine.store.connect(as: bench.machine.guest.id)
    return FrontendDevice(
      platform: bench.guest, folder: DeviceFolder(store: store, path: bench.definition.frontendPath), knobs: knobs,
      blockProtocol: .x86_64)
  }

  @Test("every key and every mismatch has blkfront's outcome", arguments: BackendKeys.all)
  func keys(row: BackendKeys) throws {
    let bench = try NegotiationBench()
    let before = bench.machine.ledger
    let frontend = makeFrontend(bench)
    try frontend.probe()
    _ = frontend.handleWatches()
    var nodes = ["sectors": "2048", "sector-size": "512", "info": "0"]
    row.change(&nodes)
    let folder = bench.definition.backendPath
    try bench.write(folder, nodes.filter { !Self.late.contains($0.key) })
    try bench.write(folder, ["state": "2"])
    #expect(frontend.handleWatches().isEmpty)
    #expect(bench.read(bench.definition.frontendPath, "state") == "3")
    try bench.write(folder, nodes.filter { Self.late.contains($0.key) })
    try bench.write(folder, ["state": "4"])
    let events = frontend.handleWatches()
    switch row.outcome {
    case .connected(let choice): try check(bench, frontend, events, choice)
    case .refused(let text):
      #expect(
        bench.error(of: bench.machine.guest.id, bench.definition.frontendPath)
          == text.replacing("B", with: folder.string))
      #expect(bench.read(bench.definition.frontendPath, "state") == "5")
    }
    closePorts(bench, frontend)
    #expect(frontend.finishClosing() == 0)
    #expect(bench.machine.ledger == before)
  }

  /// What a queue's end would do with its port.
  func closePorts(_ bench: NegotiationBench, _ frontend: FrontendDevice<EmulatedPlatform>) {
    for name in ["event-channel", "queue-0/event-channel", "queue-1/event-channel"] {
      if let port = bench.read(bench.definition.frontendPath, name).flatMap({ UInt32($0) }) {
        bench.guest.close(EventPort(rawValue: port))
      }
    }
  }

  func check(
    _ bench: NegotiationBench, _ frontend: FrontendDevice<EmulatedPlatform>,
    _ events: [FrontendDevice<EmulatedPlatform>.Event], _ choice: BackendKeys.Choice
  ) throws {
    guard case .connected(let offer)? = events.first else {
      Issue.record("not connected: \(events)")
      return
    }
    let path = bench.definition.frontendPath
    #expect(frontend.queueCount == choice.queues)
    #expect(bench.read(path, "multi-queue-num-queues") == (choice.queues > 1 ? "\(choice.queues)" : nil))
    #expect(bench.read(path, "ring-page-order") == (choice.order > 0 ? "\(choice.order)" : nil))
    let first = choice.order > 0 ? "ring-ref0" : "ring-ref"
    #expect(bench.read(path, choice.queues > 1 ? "queue-1/\(first)" : first) != nil)
    #expect(bench.read(path, choice.queues > 1 ? first : "queue-0/\(first)") == nil)
    #expect(offer.abilities.maxSegments == choice.segments)
    #expect(offer.abilities.isPersistent == choice.isPersistent)
    #expect(offer.abilities.canFlush == choice.canFlush)
    #expect(offer.abilities.canDiscard == choice.canDiscard)
    #expect(offer.geometry.discard?.granularity == choice.granularity)
    #expect(offer.geometry.sectorCount == choice.sectors)
    #expect(offer.geometry.logicalSectorSize == choice.sectorSize)
    #expect(offer.geometry.physicalSectorSize == choice.physicalSectorSize)
    #expect(offer.geometry.isReadOnly == choice.isReadOnly)
    #expect(bench.read(path, "state") == "4")
  }

  @Test("a backend that goes straight to connected is followed: rings first, then connect")
  func shortCut() throws {
    let bench = try NegotiationBench()
    let frontend = makeFrontend(bench)
    try frontend.probe()
    _ = frontend.handleWatches()
    try bench.write(
      bench.definition.backendPath, ["sectors": "8", "sector-size": "512", "info": "0", "state": "4"])
    let events = frontend.handleWatches()
    #expect(events.count == 1 && bench.read(bench.definition.frontendPath, "ring-ref") != nil)
    #expect(bench.read(bench.definition.frontendPath, "state") == "4")
  }

  @Test("a backend that was refused and says again and again that it is connected costs no more than one ring")
  func refusedAgain() throws {
    let bench = try NegotiationBench()
    let before = bench.machine.ledger
    let frontend = makeFrontend(bench)
    try frontend.probe()
    try bench.write(bench.definition.backendPath, ["state": "2"])
    _ = frontend.handleWatches()
    let published = bench.machine.ledger
    for _ in 0..<20 {
      try bench.write(bench.definition.backendPath, ["state": "4"])
      guard case .failed? = frontend.handleWatches().first else {
        Issue.record("a backend without a capacity was not refused")
        return
      }
    }
    #expect(bench.machine.ledger == published)
    #expect(frontend.finishClosing() == 0)
    #expect(bench.machine.ledger == before)
  }
}
