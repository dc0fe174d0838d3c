// SPDX-License-Identifier: MIT

import PVPeers
import SharedRing
import Synchronization
import XenHypervisor
import XenWire

@testable import BlockBack
@testable import BlockFront
@testable import XenBus
@testable import XenStore

/// A machine with a disk of which one end is honest, and waits for the other to write its nodes.
final class HandshakeWorld {
  private static let keys = [
    "state", "ring-ref", "ring-ref0", "ring-ref1", "ring-page-order", "num-ring-pages", "event-channel", "protocol",
    "feature-persistent", "multi-queue-num-queues", "multi-queue-max-queues", "max-ring-page-order", "sectors",
    "sector-size", "physical-sector-size", "info", "feature-max-indirect-segments", "feature-discard",
    "discard-granularity", "discard-alignment", "feature-flush-cache", "feature-barrier", "queue-0/ring-ref",
    "queue-0/event-channel", "max-request-segments", "request-size", "response-ring-ref", "ring-alignment",
  ]
  /// What an end may write for a good reason; 8 to 11 are references of granted pages, 1 is a port.
  private static let values = [
    "0", "1", "2", "3", "4", "5", "6", "8", "9", "10", "11", "x86_64-abi", "x86_32-abi", "512", "4096", "",
  ]

  private let hasHostileFrontend: Bool
  private let machine: PlainMachine
  private let server: StoreServer
  private let toolstack: StoreConnection
  private let hostileFolder: StorePath
  private let backend: BackendDevice<PlainPlatform>
  private let frontend: FrontendDevice<PlainPlatform>
  private let storeBefore: StoreState
  private let backendBefore: BackendDevice<PlainPlatform>.State
  private let frontendBefore: FrontendDevice<PlainPlatform>.State
  private let ledgerBefore: ResourceLedger

  init(hasHostileFrontend: Bool) throws {
    self.hasHostileFrontend = hasHostileFrontend
    machine = try PlainMachine(guestPages: 1024)
    server = StoreServer(quotas: .xenstored, clock: { 1_000_000_000 })
    toolstack = server.connect(as: .control)
    try server.introduce(PlainMachine.guestID)
    guard let device = VirtualDevice("xvda") else { preconditionFailure("a name that every guest knows") }
    let definition = DiskDefinition(frontend: PlainMachine.guestID, device: device, params: "", type: "file")
    try definition.create(in: toolstack)
    hostileFolder = hasHostileFrontend ? definition.frontendPath : definition.backendPath
    var knobs = BackendKnobs()
    knobs.rings = .everything
    backend = BackendDevice(
      platform: machine.control,
      folder: DeviceFolder(store: server.connect(as: .control), path: definition.backendPath), knobs: knobs)
    frontend = FrontendDevice(
      platform: machine.guest,
      folder: DeviceFolder(store: server.connect(as: PlainMachine.guestID), path: definition.frontendPath),
      knobs: FrontendKnobs(), blockProtocol: .x86_64)
    if hasHostileFrontend {
      try backend.probe()
      try Self.grantRings(machine)
    } else {
      try frontend.probe()
    }
    storeBefore = server.perform { $0 }
    backendBefore = backend.state.withLock { $0 }
    frontendBefore = frontend.state.withLock { $0 }
    ledgerBefore = machine.ledger
  }

  /// Pages and a port that a frontend of bad will can name.
  private static func grantRings(_ machine: PlainMachine) throws {
    let pages = try machine.guest.allocatePages(4)
    for (index, reference) in try machine.guest.allocateReferences(4).enumerated() {
      let frame = FrameNumber(rawValue: pages.firstFrame.rawValue + UInt64(index))
      machine.guest.grantAccess(reference, to: .control, frame: frame, isReadOnly: false)
    }
    _ = try machine.guest.allocateUnbound(remote: .control)
  }

  func play(_ input: inout FuzzInput, isThorough: Bool) throws -> UInt64 {
    var outcome = Outcome()
    var steps = 0
    while !input.isAtEnd, steps < 40 {
      steps += 1
      write(&input)
      if input.byte() & 3 == 0 { look(&outcome) }
    }
    look(&outcome)
    outcome.note(frontend.finishClosing())
    if isThorough {
      demand(machine.ledger == ledgerBefore, "nothing is left behind: \(machine.ledger)")
      demand(server.check().isEmpty, "the store's books balance")
    }
    server.perform { $0 = storeBefore }
    backend.state.withLock { $0 = backendBefore }
    frontend.state.withLock { $0 = frontendBefore }
    return outcome.value
  }

  private func write(_ input: inout FuzzInput) {
    let key = Self.keys[Int(input.byte()) % Self.keys.count]
    let choice = input.byte()
    let value: String
    switch choice & 3 {
    case 0: value = "\(input.number(UInt32.self) >> (UInt32(choice >> 2) & 31))"
    case 1: value = input.text()
    default: value = Self.values[Int(choice >> 2) % Self.values.count]
    }
    try? toolstack.write(hostileFolder / key, value)
  }

  private func look(_ outcome: inout Outcome) {
    if hasHostileFrontend {
      for event in backend.lookAtFrontend() where event == .frontendReady {
        guard let negotiation = try? backend.connectRings() else {
          outcome.note(1)
          continue
        }
        outcome.note(2 + negotiation.links.count)
        for link in negotiation.links {
          machine.control.close(link.port)
          machine.control.unmap(link.ring)
        }
      }
    } else {
      for event in frontend.lookAtBackend() { follow(event, &outcome) }
    }
  }

  /// What a disk does about the frontend's events, without queues.
  private func follow(_ event: FrontendDevice<PlainPlatform>.Event, _ outcome: inout Outcome) {
    switch event {
    case .connected:
      outcome.note(frontend.queueCount)
      for queue in 0..<frontend.queueCount {
        if let connection = frontend.connection(ofQueue: queue) { machine.guest.close(connection.port) }
      }
    case .resized(let sectors): outcome.note(sectors)
    case .closing: outcome.note(frontend.finishClosing())
    case .failed: outcome.note(1)
    }
  }
}
