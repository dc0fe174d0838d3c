// SPDX-License-Identifier: MIT

import PVPeers

/// Messages of a kernel without manners, against one reactor and its channel, for each kind of disk.
final class FuseHarness: Harness {
  static let focus = "10FuseExport FuseMessages"
  private var worlds: [UInt8: FuseWorld] = [:]

  init() throws {}

  func run(_ input: inout FuzzInput, isThorough: Bool) throws -> UInt64 {
    let choices = input.byte() & 31
    let world = try worlds[choices] ?? FuseWorld(choices)
    worlds[choices] = world
    return world.play(&input)
  }
}
