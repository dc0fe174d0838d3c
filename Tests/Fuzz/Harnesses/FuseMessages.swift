// SPDX-License-Identifier: MIT

import GuestMemory
import PVPeers

/// Messages to a file system, made of a fuzzer's bytes: most with a header that the kernel could have written, whatever
/// stands behind it.
struct FuseMessages {
  /// One of them.
  struct Message {
    let byteCount: Int
    let opcode: UInt32
    let unique: UInt64
  }

  /// Room for all that can wait at once.
  static let byteCount = limit * (FuseWorld.transfer + 256)
  private static let limit = 8
  /// What the reactor's operations are, with a few that do not exist.
  private static let opcodes: [UInt32] = [
    1, 2, 3, 4, 14, 15, 16, 17, 18, 20, 26, 27, 28, 29, 36, 38, 42, 43, 44, 46, 6, 8, 9, 10, 11, 12, 13, 35, 45, 51, 5,
    39, 52,
    0, .max,
  ]

  /// Where the next message goes, and how many wait.
  private var offset = 0
  private var waiting = 0
  /// The kernel uses a number once.
  private var unique: UInt64 = 0

  /// Whether no more may wait.
  var isFull: Bool { waiting == Self.limit }

  /// What was sent makes room.
  mutating func forgetSent() {
    offset = 0
    waiting = 0
  }

  mutating func reset() {
    forgetSent()
    unique = 0
  }

  /// Writes one message behind those that wait; nil when this kernel has sent enough.
  mutating func write(_ input: inout FuzzInput, into mail: SharedRegion) -> Message? {
    guard unique < 48 else { return nil }
    unique += 1
    waiting += 1
    let place = mail.slice(at: offset, byteCount: FuseWorld.transfer + 256)
    let choice = input.byte()
    let message = choice & 31 == 31 ? raw(&input, place) : shaped(&input, choice, place)
    offset += message.byteCount
    return message
  }

  /// Any bytes.
  private func raw(_ input: inout FuzzInput, _ place: SharedRegion) -> Message {
    let count = 1 + Int(input.byte() & 63)
    for index in 0..<count { place.store(input.byte(), at: index) }
    for index in 8..<16 where index < count {
      place.store(UInt8(truncatingIfNeeded: unique >> UInt64(index * 8 - 64)), at: index)
    }
    return Message(byteCount: count, opcode: count >= 8 ? place.load(UInt32.self, at: 4) : 0, unique: unique)
  }

  private func shaped(_ input: inout FuzzInput, _ choice: UInt8, _ place: SharedRegion) -> Message {
    let opcode =
      choice & 32 == 0 ? Self.opcodes[Int(input.byte()) % Self.opcodes.count] : choice & 64 == 0 ? 15 : 16 as UInt32
    place.wipe(0, at: 0, byteCount: 168)
    let count = opcode == 15 || opcode == 16 ? transfer(&input, choice, opcode, place) : other(&input, choice, place)
    place.store(UInt32(count), at: 0)
    place.store(opcode, at: 4)
    place.store(unique, at: 8)
    place.store(UInt64(input.byte() & 3), at: 16)
    return Message(byteCount: count, opcode: opcode, unique: unique)
  }

  /// struct fuse_read_in or fuse_write_in (fh, offset, size, flags), and what is to be written.
  private func transfer(_ input: inout FuzzInput, _ choice: UInt8, _ opcode: UInt32, _ place: SharedRegion) -> Int {
    place.store(UInt64(2), at: 40)
    place.store(choice & 8 == 0 ? UInt64(input.number(UInt16.self)) : input.number(UInt64.self), at: 48)
    let size = choice & 4 == 0 ? UInt32(input.number(UInt16.self)) & 0x1FFF : input.number(UInt32.self)
    place.store(size, at: 56)
    guard opcode == 16 else { return 80 }
    let wanted = choice & 2 == 0 ? Int(size) : Int(input.number(UInt16.self))
    let count = min(wanted, FuseWorld.transfer)
    place.wipe(input.byte(), at: 80, byteCount: count)
    return 80 + count
  }

  private func other(_ input: inout FuzzInput, _ choice: UInt8, _ place: SharedRegion) -> Int {
    let count = Int(input.byte() & 127)
    for index in 0..<count { place.store(input.byte(), at: 40 + index) }
    return 40 + (choice & 16 == 0 ? 128 : count)
  }
}
