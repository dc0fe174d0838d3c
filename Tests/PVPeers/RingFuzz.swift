// SPDX-License-Identifier: MIT

import BlockBack
import BlockFront
import BlockIO
import GuestMemory
import PVTestSupport
import SharedRing
import XenHypervisor
import XenWire

/// Requests, descriptor pages, grants and indices of a frontend without manners, against a backend's queue.
public enum RingFuzz {
  /// Plays one frontend, at most so many steps, and answers how many requests it announced.
  @discardableResult
  public static func run(_ input: inout FuzzInput, steps: Int = 48) throws -> Int {
    switch input.byte() % 6 {
    case 0: try run(&input, ABI32.self, variant: .classic, steps)
    case 1: try run(&input, WideFormat<ABI64>.self, variant: .wide, steps)
    case 2: try run(&input, SegmentRingFormat<ABI64>.self, variant: .segmentRing, steps)
    case 3: try run(&input, Slim64Format<ABI64>.self, variant: .slim64, steps)
    case 4: try run(&input, Slim32Format.self, variant: .slim32, steps)
    default: try run(&input, ABI64.self, variant: .classic, steps)
    }
  }

  private static func run<Format: RingFormat>(
    _ input: inout FuzzInput, _ format: Format.Type, variant: RingVariant, _ limit: Int
  ) throws -> Int {
    var setup = ScriptedFrontend<Format>.Setup()
    let choices = input.byte()
    setup.abilities.isPersistent = choices & 1 != 0
    setup.abilities.isReadOnly = choices & 2 != 0
    setup.geometry.sectorCount = 64
    if choices & 4 != 0 { setup.geometry.logicalSectorSize = 4096 }
    setup.knobs.maxPersistentGrants = 6
    if variant != .classic {
      var plan = RingPlan()
      plan.variant = variant
      if variant == .wide { plan.segmentsPerRequest = 30 }
      plan.isSplit = choices & 8 != 0
      plan.usesWholePage = choices & 16 != 0
      setup.plan = plan
    }
    let frontend = try ScriptedFrontend<Format>(setup)
    let pages = try frontend.grantPages(6)
    let secret = try frontend.machine.guest.allocatePages(1)
    secret.region.fill(0x99)
    var steps = 0
    while !input.isAtEnd, steps < limit {
      steps += 1
      step(&input, frontend, pages)
    }
    frontend.disk.isOpen = true
    _ = frontend.runBackend()
    demand(frontend.disk.disk.requestCounts.violations == 0, "the disk is asked for what it can do")
    let isUntouched = (0..<4096).allSatisfy { secret.region.load(UInt8.self, at: $0) == 0x99 }
    demand(isUntouched, "a page that was never granted stays as it was")
    demand(frontend.tearDown(), "everything is let go")
    return Int(frontend.produced)
  }

  private static func step<Format: RingFormat>(
    _ input: inout FuzzInput, _ frontend: ScriptedFrontend<Format>, _ pages: [GrantedPage]
  ) {
    switch input.byte() % 9 {
    case 0:
      frontend.ring.write(input.take(frontend.ring.slot(0).byteCount), to: frontend.produced)
      frontend.produced &+= 1
    case 1, 2:
      let operation = BlockOperation(rawValue: input.byte())
      let count = min(Int(input.byte() % 13), Format.directSegments)
      let segments = (0..<count).map { _ in
        pages[Int(input.byte()) % pages.count].segment(input.byte() & 15, input.byte() & 15)
      }
      frontend.direct(
        operation, id: UInt64(input.byte()), sector: UInt64(input.byte()), segments,
        count: input.byte() & 1 == 0 ? nil : Int(input.byte()))
    case 3:
      guard Format.indirectPages > 0 else { return }
      frontend.indirect(
        BlockOperation(rawValue: input.byte() & 7), sector: UInt64(input.byte()),
        count: Int(input.number(UInt16.self) & 1023), pages.prefix(min(3, Format.indirectPages)).map(\.reference))
    case 4: pages[Int(input.byte()) % 3].region.store(input.number(UInt64.self), at: Int(input.byte()) * 8)
    case 5:
      frontend.ring.requestProducer =
        frontend.produced &+ UInt32(truncatingIfNeeded: Int(Int8(bitPattern: input.byte())))
    case 6: _ = frontend.run()
    case 7:
      if input.byte() & 1 == 0 {
        _ = frontend.machine.guest.endAccess(pages[Int(input.byte()) % pages.count].reference)
      } else {
        frontend.disk.isOpen.toggle()
      }
    default:
      frontend.machine.control.advanceClock(milliseconds: UInt64(input.byte()) * 500)
      frontend.back?.housekeep()
    }
  }
}
