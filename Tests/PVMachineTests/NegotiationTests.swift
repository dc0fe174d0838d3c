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

/// The folders of one disk on a machine, with one end written by hand.
struct NegotiationBench {
  let machine: Machine
  let definition: DiskDefinition
  let guest: EmulatedPlatform
  let control: EmulatedPlatform

  init() throws {
    machine = try Machine()
    var definition = DiskDefinition(
      frontend: machine.guest.id, device: try #require(VirtualDevice("xvda")), params: "", type: "file")
    definition.blockProtocol = .x86_64
    self.definition = definition
    try definition.create(in: machine.toolstack)
    guest = EmulatedPlatform(hypervisor: machine.hypervisor, domain: machine.guest)
    control = EmulatedPlatform(hypervisor: machine.hypervisor, domain: machine.control)
  }

  func read(_ path: StorePath, _ name: String) -> String? { try? machine.toolstack.read(path / name) }
  func write(_ path: StorePath, _ nodes: [String: String]) throws {
    for (name, value) in nodes { try machine.toolstack.write(path / name, value) }
  }
  func error(of domain: DomainID, _ folder: StorePath) -> String? {
    let home = StorePath.home(of: domain)
    return read(home, "error/\(folder.string.dropFirst(home.string.count + 1))/error")
  }
}

/// A frontend's folder, and what blkback makes of it.
struct FrontendKeys: CustomTestStringConvertible, Sendable {
  enum Outcome: Equatable, Sendable {
    case connected(queues: Int, pages: Int, BlockProtocol, isPersistent: Bool)
    /// The error node; `F` stands for the frontend's folder, `P` for its port.
    case refused(String)
  }

  let testDescription: String
  let outcome: Outcome
  let change: @Sendable (inout [String: String]) -> Void

  init(_ name: String, _ outcome: Outcome, _ change: @escaping @Sendable (inout [String: String]) -> Void) {
    testDescription = name
    self.outcome = outcome
    self.change = change
  }

  static func plain(
    _ queues: Int = 1, _ pages: Int = 1, _ abi: BlockProtocol = .x86_64, _ isPersistent: Bool = true
  ) -> Outcome { .connected(queues: queues, pages: pages, abi, isPersistent: isPersistent) }

  /// The backend offers two queues, rings of four pages, persistent grants.
  static let all: [FrontendKeys] =
    good + [
      FrontendKeys("an unknown protocol", .refused("38 unknown fe protocol sparc-abi")) {
        $0["protocol"] = "sparc-abi"
      },
      FrontendKeys("no queue", .refused("38 guest requested 0 queues, exceeding the maximum of 2.")) {
        $0["multi-queue-num-queues"] = "0"
      },
      FrontendKeys("three queues", .refused("38 guest requested 3 queues, exceeding the maximum of 2.")) {
        $0["multi-queue-num-queues"] = "3"
      },
      FrontendKeys("an order above the maximum", .refused("22 requested ring page order 3 exceed max:2")) {
        $0["ring-page-order"] = "3"
      },
      FrontendKeys("no event channel", .refused("22 reading F/event-channel")) { $0["event-channel"] = nil },
      FrontendKeys("an event channel that is no number", .refused("22 reading F/event-channel")) {
        $0["event-channel"] = "many"
      },
      FrontendKeys("no ring", .refused("22 reading F/ring-ref")) { $0["ring-ref"] = nil },
      FrontendKeys("a ring of two pages with one reference", .refused("22 reading F/ring-ref1")) {
        $0["ring-page-order"] = "1"
        $0["ring-ref1"] = nil
      },
      FrontendKeys("two queues, the keys of one", .refused("22 reading F/queue-0/event-channel")) {
        $0["multi-queue-num-queues"] = "2"
        $0 = $0.filter { !$0.key.hasPrefix("queue-") }
      },
      FrontendKeys("two queues, the second without a ring", .refused("22 reading F/queue-1/ring-ref")) {
        $0["multi-queue-num-queues"] = "2"
        $0["queue-1/ring-ref"] = nil
      },
      FrontendKeys("a reference that is not granted", .refused("22 mapping ring-ref port P")) {
        $0["ring-ref"] = "900"
      },
      FrontendKeys("a reference beyond the table", .refused("22 mapping ring-ref port P")) {
        $0["ring-ref"] = "4294967295"
      },
      FrontendKeys("a port that is not open", .refused("22 mapping ring-ref port 4000")) {
        $0["event-channel"] = "4000"
      },
    ]

  static let good: [FrontendKeys] = [
    FrontendKeys("as Linux writes them", plain()) { _ in },
    FrontendKeys("no protocol means 32 bits", plain(1, 1, .x86_32)) { $0["protocol"] = nil },
    FrontendKeys("32 bits", plain(1, 1, .x86_32)) { $0["protocol"] = "x86_32-abi" },
    FrontendKeys("Arm", plain(1, 1, .arm)) { $0["protocol"] = "arm-abi" },
    FrontendKeys("no persistent grants", plain(1, 1, .x86_64, false)) { $0["feature-persistent"] = "0" },
    FrontendKeys("no word on persistent grants", plain(1, 1, .x86_64, false)) { $0["feature-persistent"] = nil },
    FrontendKeys("a senseless word on persistent grants", plain(1, 1, .x86_64, false)) {
      $0["feature-persistent"] = "yes"
    },
    FrontendKeys("order 0 written out: ring-ref0", plain()) { $0["ring-page-order"] = "0" },
    FrontendKeys("four pages", plain(1, 4)) { $0["ring-page-order"] = "2" },
    FrontendKeys("four pages by the deprecated key", plain(1, 4)) { $0["num-ring-pages"] = "4" },
    FrontendKeys("both keys: the new one counts", plain(1, 2)) {
      $0["ring-page-order"] = "1"
      $0["num-ring-pages"] = "4"
    },
    FrontendKeys("two queues", plain(2)) { $0["multi-queue-num-queues"] = "2" },
    FrontendKeys("one queue, written out", plain()) { $0["multi-queue-num-queues"] = "1" },
    FrontendKeys("a senseless number of queues counts as one", plain()) { $0["multi-queue-num-queues"] = "some" },
    FrontendKeys("two queues of two pages", plain(2, 2)) {
      $0["multi-queue-num-queues"] = "2"
      $0["ring-page-order"] = "1"
    },
  ]
}

@Suite("What a backend makes of a frontend's keys")
struct BackendNegotiationTests {
  @Test("every key and every mismatch has blkback's outcome", arguments: FrontendKeys.all)
  func keys(row: FrontendKeys) throws {
    let bench = try NegotiationBench()
    let before = bench.machine.ledger
    var knobs = BackendKnobs()
    knobs.maxQueues = 2
    knobs.maxRingPageOrder = 2
    let backend = BackendDevice(
      platform: bench.control,
      folder: DeviceFolder(store: bench.machine.store.connect(as: .control), path: bench.definition.backendPath),
      knobs: knobs)
    try backend.probe()
    let frontend = bench.definition.frontendPath
    // Everything that any row may name: four pages for each of two queues, whose first is the disk's own.
    let pages = try bench.guest.allocatePages(8)
    let references = try bench.guest.allocateReferences(8)
    for (index, reference) in references.enumerated() {
      let frame = FrameNumber(rawValue: pages.firstFrame.rawValue + UInt64(index))
      bench.guest.grantAccess(reference, to: .control, frame: frame, isReadOnly: false)
    }
    let ports = [
      try bench.guest.allocateUnbound(remote: .control), try bench.guest.allocateUnbound(remote: .control),
    ]
    var nodes = ["protocol": "x86_64-abi", "feature-persistent": "1"]
    for (prefix, queue) in [("", 0), ("queue-0/", 0), ("queue-1/", 1)] {
      nodes["\(prefix)event-channel"] = "\(ports[queue].rawValue)"
      nodes["\(prefix)ring-ref"] = "\(references[queue * 4].rawValue)"
      for page in 0..<4 { nodes["\(prefix)ring-ref\(page)"] = "\(references[queue * 4 + page].rawValue)" }
    }
    row.change(&nodes)
    // The toolstack's own word on it.
    if nodes["protocol"] == nil { try bench.machine.toolstack.remove(frontend / "protocol") }
    try bench.write(frontend, nodes)
    try bench.write(frontend, ["state": "3"])
    #expect(backend.handleWatches().contains(.frontendReady))
    switch row.outcome {
    case .connected(let queues, let pages, let abi, let isPersistent):
      let negotiation = try backend.connectRings()
      #expect(negotiation.links.count == queues)
      #expect(negotiation.links.allSatisfy { $0.ring.handles.count == pages })
      #expect(negotiation.plan.blockProtocol == abi)
      #expect(negotiation.isPersistent == isPersistent)
      for link in negotiation.links {
        bench.control.close(link.port)
        bench.control.unmap(link.ring)
      }
    case .refused(let text):
      #expect(throws: HandshakeFailure.self) { _ = try backend.connectRings() }
      let expected = text.replacing("F", with: frontend.string).replacing("P", with: "\(ports[0].rawValue)")
      #expect(bench.error(of: .control, bench.definition.backendPath) == expected)
      #expect(bench.read(bench.definition.backendPath, "state") == "5")
    }
    for reference in references { #expect(bench.guest.endAccess(reference), "a page stayed mapped") }
    bench.guest.freeReferences(references)
    bench.guest.freePages(pages)
    for port in ports { bench.guest.close(port) }
    #expect(bench.machine.ledger == before)
  }
}
