// SPDX-License-Identifier: MIT

import BlockBack
import BlockFront
import BlockIO
import Glibc
import GuestMemory
import PVTestSupport
import SharedRing
import XenHypervisor
import XenWire

/// Answers of a backend without manners, against a frontend's queue.
///
/// A backend that is not trusted also looks into every page that it is granted, for bytes of the user that it was not sent.
public enum ResponseFuzz {
  /// What a user's memory holds that is no part of a request.
  private static let canary: UInt8 = 0xC3
  /// The user's buffers, each for one transfer at a time: what it holds otherwise is canaries.
  private static let bufferCount = 8

  /// Plays one backend, at most so many steps, and answers how many responses it wrote.
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
    var setup = HostileBackend<Format>.Setup()
    let choices = input.byte()
    setup.abilities.isPersistent = choices & 1 != 0
    setup.abilities.isBackendTrusted = choices & 2 != 0
    setup.buffers = BufferDemand(count: bufferCount, byteCount: 64 << 10)
    if variant != .classic {
      var plan = RingPlan()
      plan.variant = variant
      if variant == .wide { plan.segmentsPerRequest = 30 }
      plan.isSplit = choices & 8 != 0
      plan.usesWholePage = choices & 16 != 0
      setup.plan = plan
    }
    let peer = try HostileBackend<Format>(setup)
    var game = Game(peer: peer, looks: choices & 2 == 0)
    var played = 0
    while !input.isAtEnd, played < limit, peer.front?.isBroken == false {
      played += 1
      game.step(&input)
    }
    // A producer that has run away: the frontend has to give up, and to say so to everyone who waits.
    peer.ring.responseProducer = peer.produced &+ 0x4000_0000
    game.collect()
    demand(game.ended == game.accepted, "every I/O ends once: \(game.ended) of \(game.accepted)")
    peer.front = nil
    return game.responses
  }

  private struct Game<Format: RingFormat> {
    let peer: HostileBackend<Format>
    let looks: Bool
    var accepted = 0, ended = 0, responses = 0
    var taken: [TakenRequest] = []
    /// The buffer of each transfer in flight, by its tag.
    var buffers: [UInt64: Int] = [:]

    init(peer: HostileBackend<Format>, looks: Bool) {
      self.peer = peer
      self.looks = looks
    }

    mutating func step(_ input: inout FuzzInput) {
      switch input.byte() & 63 {
      case 0..<24: submit(&input)
      case 24..<48:
        guard !taken.isEmpty else { return }
        let status = input.byte()
        responses += 1
        peer.respond(
          to: taken.remove(at: Int(input.byte()) % taken.count),
          BlockStatus(rawValue: status < 192 ? 0 : Int16(bitPattern: input.number(UInt16.self))))
      case 48 where input.byte() & 15 == 0:
        responses += 1
        peer.respond(
          BlockResponse(
            id: UInt64(input.byte()), operation: BlockOperation(rawValue: input.byte() & 7),
            status: BlockStatus(rawValue: Int16(Int8(bitPattern: input.byte())))))
      case 49 where input.byte() & 15 == 0: peer.ring.responseProducer = input.number(UInt32.self) & 0x8000_00FF
      case 50 where input.byte() & 15 == 0:
        responses += 1
        peer.ring.write(input.take(16), to: peer.produced &+ UInt32(input.byte() & 3))
      case 51: peer.machine.guest.advanceClock(milliseconds: UInt64(input.byte()) * 500)
      default: collect()
      }
    }

    mutating func collect() {
      for completion in peer.completions() {
        ended += 1
        buffers[completion.tag] = nil
      }
    }

    private mutating func submit(_ input: inout FuzzInput) {
      let operation = [IOOperation.read, .write, .write, .flush, .discard, .writeZeroes][Int(input.byte()) % 6]
      let sectors = 1 + Int(input.byte() % 128)
      let isMoving = operation == .read || operation == .write
      let number = Int(input.byte()) % ResponseFuzz.bufferCount
      if isMoving, buffers.values.contains(number) { return }
      let room = 128 - sectors
      let memory = isMoving ? peer.memory(sectors * 512, at: Int(input.byte()) % (room + 1) * 512, buffer: number) : nil
      if looks, let memory, let buffer = peer.front?.buffer(number).region {
        buffer.fill(ResponseFuzz.canary)
        if operation == .write { memory.list[0].region?.fill(0x11) }
      }
      let count = operation == .flush ? 0 : UInt64(sectors)
      if peer.submit(operation, count: count, memory, tag: UInt64(accepted)) {
        if isMoving { buffers[UInt64(accepted)] = number }
        accepted += 1
      }
      for request in peer.take() {
        if looks, request.meant == .read || request.meant == .write { look(request) }
        taken.append(request)
      }
    }

    /// Looks for bytes of the user that are no part of the request.
    private func look(_ request: TakenRequest) {
      for segment in request.segments {
        peer.withPage(segment.reference, writable: false) { page in
          demand(!page.contains(ResponseFuzz.canary), "a backend that is not trusted sees nothing but what it was sent")
        }
      }
    }
  }
}

extension SharedRegion {
  /// Whether any byte is this one.
  fileprivate func contains(_ byte: UInt8) -> Bool {
    unsafe withUnsafeBytes { bytes in
      guard let base = bytes.baseAddress else { return false }
      // SAFETY: the address and the count are those of the window.
      return unsafe memchr(base, CInt(byte), bytes.count) != nil
    }
  }
}
