// SPDX-License-Identifier: MIT

import PVPeers

/// Answers of a backend without manners, against a frontend's queue, in every form of ring.
final class ResponseHarness: Harness {
  static let focus = "10BlockFront 10SharedRing 7XenWire FrontWorld"
  private var worlds: [UInt16: any RingPlayer] = [:]

  init() throws {}

  func run(_ input: inout FuzzInput, isThorough: Bool) throws -> UInt64 {
    let form = RingForm(&input)
    let world = try worlds[form.number] ?? form.makeFrontend()
    worlds[form.number] = world
    return world.play(&input, isThorough: isThorough)
  }
}
