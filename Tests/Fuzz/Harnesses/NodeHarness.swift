// SPDX-License-Identifier: MIT

import PVPeers
import XenBus
import XenWire

@testable import XenStore

/// Saved states, names, and the nodes that one end of a disk writes for the other.
final class NodeHarness: Harness {
  static let focus = "8XenStore 7XenWire 6XenBus 9BlockBack 10BlockFront"
  private var worlds: [Bool: HandshakeWorld] = [:]

  init() throws {}

  func run(_ input: inout FuzzInput, isThorough: Bool) throws -> UInt64 {
    let choice = input.byte()
    switch choice & 3 {
    case 0:
      return restore(input.rest)
    case 1:
      return names(&input)
    default:
      let isHostile = choice & 4 != 0
      let world = try worlds[isHostile] ?? HandshakeWorld(hasHostileFrontend: isHostile)
      worlds[isHostile] = world
      return try world.play(&input, isThorough: isThorough)
    }
  }

  private func restore(_ bytes: [UInt8]) -> UInt64 {
    var outcome = Outcome()
    do throws(StoreStreamError) {
      let state = try StoreState(restoring: bytes, clock: { 1_000_000_000 })
      demand(state.inconsistencies().isEmpty, "a state that was taken up is sound")
      outcome.note(state.tree.count)
    } catch {
      demand(!"\(error)".isEmpty, "a refusal is a sentence")
    }
    return outcome.value
  }

  private func names(_ input: inout FuzzInput) -> UInt64 {
    var outcome = Outcome()
    while !input.isAtEnd {
      let text = input.text()
      if let path = StorePath(text) {
        demand(StorePath(path.string) == path, "a path is its text")
        outcome.note(path.string.utf8.count)
      }
      if let device = VirtualDevice(text) {
        demand(VirtualDevice("\(device.number)") == device, "a device is its number")
        outcome.note(device.number)
      }
      if let permissions = StorePermissions(text.split(separator: " ")) {
        demand(!permissions.entries.isEmpty, "permissions name an owner")
        outcome.note(permissions.entries.count)
      }
    }
    return outcome.value
  }
}
