// SPDX-License-Identifier: MIT

import BlockBack
import BlockFront
import BlockIO
import GuestMemory
import PVPeers
import PVTestSupport
import SharedRing
import XenHypervisor
import XenWire

/// Answers of a backend without manners, against a frontend's queue.
enum ResponseFuzz {
  static func run(_ input: inout FuzzInput) throws {
    var setup = HostileBackend<ABI64>.Setup()
    let choices = input.byte()
    setup.abilities.isPersistent = choices & 1 != 0
    setup.abilities.isBackendTrusted = choices & 2 != 0
    setup.buffers = BufferDemand(count: 2, byteCount: 64 << 10)
    let peer = try HostileBackend<ABI64>(setup)
    var accepted = 0, ended = 0, steps = 0
    var taken: [TakenRequest] = []
    while !input.isAtEnd, steps < 48 {
      steps += 1
      switch input.byte() % 7 {
      case 0, 1:
        let operation = [IOOperation.read, .write, .flush, .discard, .writeZeroes][Int(input.byte()) % 5]
        let sectors = 1 + Int(input.byte() % 128)
        let isMoving = operation == .read || operation == .write
        let memory = isMoving ? peer.memory(sectors * 512, buffer: Int(input.byte() & 1)) : nil
        let count = operation == .flush ? 0 : UInt64(sectors)
        if peer.submit(operation, count: count, memory, tag: UInt64(accepted)) { accepted += 1 }
        taken += peer.take()
      case 2:
        guard !taken.isEmpty else { continue }
        peer.respond(
          to: taken.remove(at: Int(input.byte()) % taken.count),
          BlockStatus(rawValue: Int16(Int8(bitPattern: input.byte()))))
      case 3:
        peer.respond(
          BlockResponse(
            id: UInt64(input.byte()), operation: BlockOperation(rawValue: input.byte() & 7), status: .okay))
      case 4: peer.ring.responseProducer = input.number(UInt32.self) & 0x8000_00FF
      case 5: peer.ring.write(input.take(16), to: UInt32(input.byte()))
      default: ended += peer.completions().count
      }
    }
    peer.ring.responseProducer = peer.produced &+ 0x4000_0000
    ended += peer.completions().count
    demand(ended == accepted, "every I/O ends once: \(ended) of \(accepted)")
    peer.front = nil
  }
}
