// SPDX-License-Identifier: MIT

import PVPeers
import SharedRing
import XenWire

/// Requests of a frontend without manners, against a backend's queue, in every form of ring.
final class RingHarness: Harness {
  static let focus = "9BlockBack 10SharedRing 7XenWire BackWorld"
  private var worlds: [UInt16: any RingPlayer] = [:]

  init() throws {}

  func run(_ input: inout FuzzInput, isThorough: Bool) throws -> UInt64 {
    let form = RingForm(&input)
    let world = try worlds[form.number] ?? form.makeBackend()
    worlds[form.number] = world
    return world.play(&input, isThorough: isThorough)
  }
}

/// One end of a ring, and whoever plays against it.
protocol RingPlayer: AnyObject {
  /// Runs what the input says, looks at what must hold, and puts everything back.
  func play(_ input: inout FuzzInput, isThorough: Bool) -> UInt64
}

/// The form of ring, and a few choices more, that an input begins with.
struct RingForm {
  let shape: UInt8
  let choices: UInt8
  var number: UInt16 { UInt16(shape) << 8 | UInt16(choices) }

  init(_ input: inout FuzzInput) {
    shape = input.byte() % 6
    choices = input.byte() & 31
  }

  /// The form; the classic ones have no other choices.
  var plan: RingPlan {
    let variants: [RingVariant] = [.classic, .wide, .segmentRing, .slim64, .slim32, .classic]
    var plan = RingPlan(shape == 0 ? .x86_32 : .x86_64)
    plan.variant = variants[Int(shape)]
    guard plan.variant != .classic else { return plan }
    if plan.variant == .wide { plan.segmentsPerRequest = 30 }
    plan.isSplit = choices & 8 != 0
    plan.usesWholePage = choices & 16 != 0
    return plan
  }

  func makeBackend() throws -> any RingPlayer {
    switch shape {
    case 0: try BackWorld<ABI32>(self)
    case 1: try BackWorld<WideFormat<ABI64>>(self)
    case 2: try BackWorld<SegmentRingFormat<ABI64>>(self)
    case 3: try BackWorld<Slim64Format<ABI64>>(self)
    case 4: try BackWorld<Slim32Format>(self)
    default: try BackWorld<ABI64>(self)
    }
  }

  func makeFrontend() throws -> any RingPlayer {
    switch shape {
    case 0: try FrontWorld<ABI32>(self)
    case 1: try FrontWorld<WideFormat<ABI64>>(self)
    case 2: try FrontWorld<SegmentRingFormat<ABI64>>(self)
    case 3: try FrontWorld<Slim64Format<ABI64>>(self)
    case 4: try FrontWorld<Slim32Format>(self)
    default: try FrontWorld<ABI64>(self)
    }
  }
}
