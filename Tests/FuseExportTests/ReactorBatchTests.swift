// SPDX-License-Identifier: MIT

import BlockIO
import CLinux
import Glibc
import GuestMemory
import PVTestSupport
import Testing

@testable import FuseExport

@Suite("What a reactor takes at once")
struct ReactorBatchTests {
  private static let slots = 32

  /// A reactor on one end of a socket that keeps messages apart, and the kernel's end.
  private struct Bench: ~Copyable {
    let kernel: OwnedDescriptor
    let stop: OwnedDescriptor
    let memory: MappedMemory
    var reactor: FuseReactor<MemoryDisk, FuseChannel>

    init() throws {
      var behaviour = MemoryDisk.Behaviour()
      behaviour.capacity = slots + 1
      let geometry = BlockGeometry(sectorCount: 4096)
      let disk = try MemoryDisk(geometry: geometry, behaviour: behaviour)
      var ends: [CInt] = [0, 0]
      let type = CInt(SOCK_SEQPACKET.rawValue | SOCK_NONBLOCK.rawValue)
      guard unsafe socketpair(AF_UNIX, type, 0, &ends) == 0 else { throw SystemError("socketpair") }
      let stop = OwnedDescriptor(eventfd(0, 0))
      let queue = try disk.makeQueue(0, buffers: BufferDemand(count: slots + 1, byteCount: 16384))
      let memory = try MappedMemory(anonymousByteCount: 4096)
      let counters = ReactorCounters(memory: memory.region.slice(at: 512, byteCount: ReactorCounters.byteCount))
      let channel = try FuseChannel(
        descriptor: OwnedDescriptor(ends[1]), stopDescriptor: stop.number, deviceDescriptor: queue.waitDescriptor,
        buffers: (0..<slots).compactMap { queue.buffer($0).region }, counters: counters,
        seat: DoorbellSeat.none(memory.region.slice(at: 2048, byteCount: DoorbellSeat.byteCount)))
      let namespace = FuseNamespace(
        shape: .file, fileName: "xvda", isReadOnly: false, user: 0, group: 0,
        negotiation: FuseNegotiation(maximumTransfer: 8192, wantsRing: false))
      reactor = FuseReactor(
        device: disk, queue: queue, transport: channel,
        settings: ReactorSettings(
          namespace: namespace, counters: counters, writeCounts: memory.region.slice(at: 1024, byteCount: 128),
          gate: WriteGate(memory: memory.region, seat: 0, seatCount: 1), slotCount: slots, guestCount: 0,
          maximumTransfer: 8192,
          spinNanoseconds: 0, isReadOnly: false))
      kernel = OwnedDescriptor(ends[0])
      self.stop = stop
      self.memory = memory
    }

    /// Asks for a READ or a WRITE of 4 KiB (struct fuse_in_header, then fuse_read_in or fuse_write_in).
    func ask(_ opcode: UInt32, _ unique: UInt64, page: UInt64) {
      let isWrite = opcode == FuseOpcode.write
      var words: [UInt64] = [UInt64(opcode) << 32 | (isWrite ? 4176 : 80), unique, 1, 0, 0, 2, page * 4096, 4096, 0, 0]
      if isWrite { words += [UInt64](repeating: unique, count: 512) }
      // SAFETY: the address and the count are those of the array.
      let count = unsafe words.withUnsafeBytes { unsafe write(kernel.number, $0.baseAddress, $0.count) }
      precondition(count == words.count * 8, "the socket takes what a test asks")
    }

    /// The answers that have come.
    func answers() -> Int {
      var count = 0
      var bytes = [UInt8](repeating: 0, count: 8192)
      while unsafe read(kernel.number, &bytes, bytes.count) > 0 { count += 1 }
      return count
    }

    /// The answers after each of a number of batches.
    mutating func answersOfBatches(_ count: Int) -> [Int] {
      (0..<count).map { _ in
        _ = reactor.takeBatch()
        return answers()
      }
    }
  }

  @Test("over /dev/fuse: one read after a sleep, then two at a time, and nothing more tells that it may sleep")
  func reads() throws {
    var bench = try Bench()
    for unique in 1...8 as ClosedRange<UInt64> { bench.ask(FuseOpcode.read, unique, page: unique * 7 % 16) }
    let reads = bench.answersOfBatches(4)
    #expect(reads == [1, 2, 2, 2])
    let isIdle = bench.reactor.takeBatch()
    #expect(isIdle)
    #expect(bench.answers() == 1)
  }

  @Test("up to sixteen writes that follow one another, and two of those that do not")
  func writes() throws {
    var bench = try Bench()
    for unique in 1...22 as ClosedRange<UInt64> { bench.ask(FuseOpcode.write, unique, page: unique) }
    let inOrder = bench.answersOfBatches(3)
    #expect(inOrder == [1, 16, 5])
    for unique in 30...34 as ClosedRange<UInt64> { bench.ask(FuseOpcode.write, unique, page: unique * 2) }
    let scattered = bench.answersOfBatches(3)
    #expect(scattered == [2, 2, 1])
  }
}
