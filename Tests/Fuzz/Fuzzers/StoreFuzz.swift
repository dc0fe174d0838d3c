// SPDX-License-Identifier: MIT

import BlockBack
import BlockFront
import BlockIO
import PVPeers
import XenBus
import XenHypervisor
import XenStore
import XenWire

/// Bytes of a guest and of a privileged client, against the store's wire protocol.
enum WireFuzz {
  static func run(_ input: inout FuzzInput) throws {
    let server = StoreServer(quotas: .xenstored, clock: { 1_000_000_000 })
    let control = server.connect(as: .control)
    let domain = DomainID(rawValue: 5)
    try server.introduce(domain)
    try control.makeDirectory(StorePath.home(of: domain))
    try control.setPermissions(StorePath.home(of: domain), StorePermissions(owner: domain))
    let sessions = [
      StoreSession(server: server, domain: domain) {}, StoreSession(server: server, domain: .control) {},
    ]
    while !input.isAtEnd {
      let choice = input.byte()
      let session = sessions[Int(choice & 1)]
      if choice & 2 != 0 {
        session.receive(input.take(Int(input.byte())))
      } else {
        let payload = input.take(Int(input.byte() & 63))
        var bytes: [UInt8] = []
        StoreMessageHeader(
          type: StoreMessageType(rawValue: UInt32(input.byte() % 32)), requestID: 1,
          transactionID: UInt32(input.byte() & 3), payloadByteCount: UInt32(payload.count)
        ).append(to: &bytes)
        session.receive(bytes + payload)
      }
      session.collect()
      if choice & 4 == 0 { session.removeOutput(session.outputByteCount) }
    }
    demand(server.check().isEmpty, "the store's books balance: \(server.check())")
    for session in sessions { session.close() }
    demand(server.check().isEmpty, "the books balance afterwards: \(server.check())")
  }
}

/// Saved states, names, and the nodes that one end of a disk writes for the other.
enum NodeFuzz {
  static let keys = [
    "state", "ring-ref", "ring-ref0", "ring-ref1", "ring-page-order", "num-ring-pages", "event-channel", "protocol",
    "feature-persistent", "multi-queue-num-queues", "multi-queue-max-queues", "max-ring-page-order", "sectors",
    "sector-size", "physical-sector-size", "info", "feature-max-indirect-segments", "feature-discard",
    "discard-granularity", "discard-alignment", "feature-flush-cache", "feature-barrier", "queue-0/ring-ref",
    "queue-0/event-channel", "max-request-segments", "request-size", "response-ring-ref", "ring-alignment",
  ]

  static func run(_ input: inout FuzzInput) throws {
    let choice = input.byte()
    if choice & 3 == 0 {
      let server = try? StoreServer(restoring: input.rest)
      demand(server?.check().isEmpty ?? true, "a state that was taken up is sound")
      return
    }
    let text = input.text()
    if let path = StorePath(text) { demand(StorePath(path.string) == path, "a path is its text") }
    if let device = VirtualDevice(text) { demand(VirtualDevice("\(device.number)") != nil, "a device has a number") }
    try talk(&input, hostileFrontend: choice & 4 != 0)
  }

  private static func talk(_ input: inout FuzzInput, hostileFrontend: Bool) throws {
    let machine = try PeerMachine(mapping: .alias)
    let server = StoreServer()
    let toolstack = server.connect(as: .control)
    try server.introduce(PeerMachine.guestID)
    guard let device = VirtualDevice("xvda") else { return }
    let definition = DiskDefinition(frontend: PeerMachine.guestID, device: device, params: "", type: "file")
    try definition.create(in: toolstack)
    let before = machine.ledger
    let hostile = hostileFrontend ? definition.frontendPath : definition.backendPath
    var backendKnobs = BackendKnobs()
    backendKnobs.rings = .everything
    let backend = BackendDevice(
      platform: machine.control,
      folder: DeviceFolder(store: server.connect(as: .control), path: definition.backendPath), knobs: backendKnobs)
    let frontend = FrontendDevice(
      platform: machine.guest,
      folder: DeviceFolder(store: server.connect(as: PeerMachine.guestID), path: definition.frontendPath),
      knobs: FrontendKnobs(), blockProtocol: .x86_64)
    if hostileFrontend { try? backend.probe() } else { try? frontend.probe() }
    var steps = 0
    while !input.isAtEnd, steps < 40 {
      steps += 1
      let key = keys[Int(input.byte()) % keys.count]
      let value = input.byte() & 1 == 0 ? "\(input.number(UInt32.self) >> (UInt32(input.byte()) & 31))" : input.text()
      try? toolstack.write(hostile / key, value)
      guard input.byte() & 3 == 0 else { continue }
      if hostileFrontend {
        for event in backend.lookAtFrontend() where event == .frontendReady {
          guard let negotiation = try? backend.connectRings() else { continue }
          for link in negotiation.links {
            machine.control.close(link.port)
            machine.control.unmap(link.ring)
          }
        }
      } else {
        _ = frontend.lookAtBackend()
      }
    }
    frontend.finishClosing()
    demand(machine.ledger == before, "nothing is left behind: \(machine.ledger)")
    demand(server.check().isEmpty, "the store's books balance")
  }
}
