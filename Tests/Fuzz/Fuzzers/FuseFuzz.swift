// SPDX-License-Identifier: MIT

import BlockIO
import CLinux
import Glibc
import GuestMemory
import PVPeers
import PVTestSupport

@testable import FuseExport

/// Messages of a kernel without manners, through a socket that keeps messages apart, against one reactor and its channel.
enum FuseFuzz {
  private static let slots = 4
  private static let bufferByteCount = 16 << 10
  /// What the reactor's operations are, with a few that do not exist.
  private static let opcodes: [UInt32] = [
    1, 2, 3, 4, 14, 15, 16, 17, 18, 20, 26, 27, 28, 29, 36, 38, 42, 43, 44, 46, 6, 8, 9, 10, 11, 12, 13, 35, 45, 51, 5,
    39, 52,
    0, .max,
  ]
  /// FORGET, BATCH_FORGET and INTERRUPT have no answer.
  private static let silent: Set<UInt32> = [2, 36, 42]

  static func run(_ input: inout FuzzInput) throws {
    let choices = input.byte()
    var behaviour = MemoryDisk.Behaviour()
    behaviour.capacity = slots + 1
    if choices & 1 != 0 { behaviour.badSectors = 8..<10 }
    if choices & 2 != 0 { behaviour.flushError = EIO }
    let geometry = BlockGeometry(
      sectorCount: 64, logicalSectorSize: choices & 4 != 0 ? 4096 : 512, isReadOnly: choices & 8 != 0)
    let disk = try MemoryDisk(geometry: geometry, behaviour: behaviour)
    var ends: [CInt] = [0, 0]
    let type = CInt(SOCK_SEQPACKET.rawValue | SOCK_NONBLOCK.rawValue)
    guard unsafe socketpair(AF_UNIX, type, 0, &ends) == 0 else { throw SystemError("socketpair") }
    defer { close(ends[0]) }
    let stop = eventfd(0, CInt(EFD_NONBLOCK))
    defer { close(stop) }
    let kernel = Kernel(descriptor: ends[0])
    // As FuseOptions asks for it: a transfer, and the rest of a sector at either end.
    let queue = try disk.makeQueue(0, buffers: BufferDemand(count: slots + 1, byteCount: bufferByteCount + 8192))
    let buffers = (0..<slots).compactMap { queue.buffer($0).region }
    let memory = try MappedMemory(anonymousByteCount: 4096)
    let counters = ReactorCounters(memory: memory.region.slice(at: 512, byteCount: ReactorCounters.byteCount))
    let channel = try FuseChannel(
      descriptor: OwnedDescriptor(ends[1]), stopDescriptor: stop, deviceDescriptor: queue.waitDescriptor,
      buffers: buffers, counters: counters,
      seat: DoorbellSeat.none(memory.region.slice(at: 2048, byteCount: DoorbellSeat.byteCount)))
    let namespace = FuseNamespace(
      shape: choices & 16 != 0 ? .file : .directory, fileName: "xvda", isReadOnly: geometry.isReadOnly, user: 0,
      group: 0, negotiation: FuseNegotiation(maximumTransfer: bufferByteCount, wantsRing: false))
    var reactor = FuseReactor<MemoryDisk, FuseChannel>(
      device: disk, queue: queue, transport: channel,
      settings: ReactorSettings(
        namespace: namespace, counters: counters, writeCounts: memory.region.slice(at: 1024, byteCount: 128),
        gate: WriteGate(memory: memory.region, seat: 0, seatCount: 1), slotCount: slots,
        maximumTransfer: bufferByteCount, spinNanoseconds: 0, isReadOnly: geometry.isReadOnly))
    var steps = 0
    while !input.isAtEnd, steps < 48 {
      steps += 1
      kernel.send(message(&input, unique: UInt64(steps)))
      guard input.byte() & 3 != 0 else { continue }
      settle(&reactor, kernel)
    }
    settle(&reactor, kernel)
    kernel.collect()
    demand(kernel.owed.isEmpty, "every request has its answer: operations \(kernel.owed.values.sorted()) have none")
    demand(disk.requestCounts.violations == 0, "the disk is asked for what it can do")
  }

  private static func settle(_ reactor: inout FuseReactor<MemoryDisk, FuseChannel>, _ kernel: Kernel) {
    // A message that is none ends a batch, as if there were no more; a reactor that slept would be woken for the next.
    var quiet = 0
    for _ in 0..<1000 {
      let taken = reactor.takeRequests(16)
      reactor.progress()
      // A socket has less room than the kernel: answers are taken as they come.
      kernel.collect()
      quiet = taken == 0 && reactor.queue.inFlight == 0 && reactor.deferred.count == 0 ? quiet + 1 : 0
      if quiet > 48 { return }
    }
    demand(false, "a reactor comes to rest")
  }

  /// A header that the kernel could have written, most of the time, and whatever behind it.
  private static func message(_ input: inout FuzzInput, unique: UInt64) -> [UInt8] {
    let choice = input.byte()
    if choice & 31 == 31 {
      var bytes = input.take(1 + Int(input.byte() & 63))
      // The kernel uses a number once.
      for place in 8..<16 where place < bytes.count {
        bytes[place] = UInt8(truncatingIfNeeded: unique >> UInt64(place * 8 - 64))
      }
      return bytes
    }
    let opcode = choice & 32 == 0 ? opcodes[Int(input.byte()) % opcodes.count] : [15, 16][Int(choice >> 6 & 1)]
    var body: [UInt8] = []
    if opcode == 15 || opcode == 16 {
      // struct fuse_read_in and fuse_write_in: fh, offset, size, flags.
      put(UInt64(2), into: &body)
      put(choice & 8 == 0 ? UInt64(input.number(UInt16.self)) : input.number(UInt64.self), into: &body)
      let size = choice & 4 == 0 ? UInt32(input.number(UInt16.self)) & 0x3FFF : input.number(UInt32.self)
      put(size, into: &body)
      body += [UInt8](repeating: 0, count: 20)
      if opcode == 16 {
        let count = choice & 2 == 0 ? min(Int(size), bufferByteCount) : Int(input.number(UInt16.self) & 0x3FFF)
        body += [UInt8](repeating: input.byte(), count: count)
      }
    } else {
      body = input.take(Int(input.byte() & 127))
      if choice & 16 == 0 { body += [UInt8](repeating: 0, count: 128 - min(body.count, 128)) }
    }
    var bytes: [UInt8] = []
    put(UInt32(40 + body.count), into: &bytes)
    put(opcode, into: &bytes)
    put(unique, into: &bytes)
    put(UInt64(input.byte() & 3), into: &bytes)
    bytes += [UInt8](repeating: 0, count: 16)
    return bytes + body
  }

  private static func put<T: FixedWidthInteger>(_ value: T, into bytes: inout [UInt8]) {
    for shift in 0..<(T.bitWidth / 8) { bytes.append(UInt8(truncatingIfNeeded: value >> T(shift * 8))) }
  }

  /// The other end of the channel: what it asked for, and whether it was answered once and in a well-formed way.
  private final class Kernel {
    private let descriptor: CInt
    /// The operations that have not been answered, by the requests' numbers.
    var owed: [UInt64: UInt32] = [:]

    init(descriptor: CInt) { self.descriptor = descriptor }

    func send(_ message: [UInt8]) {
      collect()
      // SAFETY: the address and the count are those of the array.
      let count = unsafe message.withUnsafeBytes { unsafe write(descriptor, $0.baseAddress, $0.count) }
      guard count >= 40 else { return }
      let opcode = UInt32(truncatingIfNeeded: word(message, 4))
      if !silent.contains(opcode) { owed[word(message, 8)] = opcode }
    }

    func collect() {
      var buffer = [UInt8](repeating: 0, count: 32 << 10)
      while true {
        // SAFETY: the address and the count are those of the array.
        let count = unsafe buffer.withUnsafeMutableBytes { unsafe read(descriptor, $0.baseAddress, $0.count) }
        guard count > 0 else { return }
        demand(count >= 16, "an answer has a header")
        demand(UInt32(truncatingIfNeeded: word(buffer, 0)) == UInt32(count), "an answer's length is its length")
        let error = Int32(truncatingIfNeeded: word(buffer, 4))
        demand(error <= 0 && error > -512, "an answer's error is one: \(error)")
        demand(error == 0 || count == 16, "a refusal is a header alone")
        demand(owed.removeValue(forKey: word(buffer, 8)) != nil, "a request is answered once")
      }
    }

    private func word(_ bytes: [UInt8], _ offset: Int) -> UInt64 {
      (0..<8).reduce(0) { $0 | UInt64(offset + $1 < bytes.count ? bytes[offset + $1] : 0) << UInt64($1 * 8) }
    }
  }
}
