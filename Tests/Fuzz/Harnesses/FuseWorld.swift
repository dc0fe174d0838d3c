// SPDX-License-Identifier: MIT

import BlockIO
import CFuzzKernel
import CLinux
import Glibc
import GuestMemory
import PVPeers
import PVTestSupport
import Synchronization

@testable import FuseExport

/// One reactor over a disk in memory; its descriptor's other end is a ``CFuzzKernel``.
@safe final class FuseWorld {
  // SAFETY: `kernel` is this object's own, and names memory that lives as long.
  static let slots = 4
  static let transfer = 4096
  private static let bufferByteCount = transfer + 8192
  /// FORGET, BATCH_FORGET and INTERRUPT have no answer.
  private static let silent: Set<UInt32> = [2, 36, 42]

  private let disk: MemoryDisk
  private let pair: (CInt, CInt)
  private let stop: CInt
  private let memory: MappedMemory
  private let mail: MappedMemory
  private let answers: MappedMemory
  private let kernel: UnsafeMutablePointer<pv_fuzz_kernel>
  private let namespace: FuseNamespace
  private let namespaceBefore: FuseNamespace.State
  private var reactor: FuseReactor<MemoryDisk, FuseChannel>
  /// What was asked and not answered: the operation, by the request's number.
  private var owed: [UInt64: UInt32] = [:]
  private var outcome = Outcome()
  private var messages = FuseMessages()

  init(_ choices: UInt8) throws {
    var behaviour = MemoryDisk.Behaviour()
    behaviour.capacity = Self.slots + 1
    if choices & 1 != 0 { behaviour.badSectors = 8..<10 }
    if choices & 2 != 0 { behaviour.flushError = EIO }
    // More than a buffer holds.
    let geometry = BlockGeometry(
      sectorCount: 40, logicalSectorSize: choices & 4 != 0 ? 4096 : 512, isReadOnly: choices & 8 != 0,
      discard: choices & 1 == 0 ? DiscardAbility(isSecureSupported: false, leavesZeros: true) : nil)
    disk = try MemoryDisk(geometry: geometry, behaviour: behaviour)
    var ends: [CInt] = [0, 0]
    let type = CInt(SOCK_SEQPACKET.rawValue | SOCK_NONBLOCK.rawValue)
    guard unsafe socketpair(AF_UNIX, type, 0, &ends) == 0 else { throw SystemError("socketpair") }
    pair = (ends[0], ends[1])
    stop = eventfd(0, CInt(EFD_NONBLOCK))
    // As FuseOptions asks for it: a transfer, and the rest of a sector at either end.
    let queue = try disk.makeQueue(0, buffers: BufferDemand(count: Self.slots + 1, byteCount: Self.bufferByteCount))
    let buffers = (0..<Self.slots).compactMap { queue.buffer($0).region }
    memory = try MappedMemory(anonymousByteCount: 4096)
    mail = try MappedMemory(anonymousByteCount: FuseMessages.byteCount)
    answers = try MappedMemory(anonymousByteCount: 1 << 20)
    unsafe kernel = .allocate(capacity: 1)
    unsafe kernel.initialize(to: pv_fuzz_kernel())
    unsafe kernel.pointee.messages = unsafe UnsafePointer(bitPattern: mail.region.address)
    unsafe kernel.pointee.answers = unsafe UnsafeMutablePointer(bitPattern: answers.region.address)
    unsafe kernel.pointee.answers_capacity = answers.byteCount
    let counters = ReactorCounters(memory: memory.region.slice(at: 512, byteCount: ReactorCounters.byteCount))
    let channel = try FuseChannel(
      descriptor: OwnedDescriptor(ends[1]), stopDescriptor: stop, deviceDescriptor: queue.waitDescriptor,
      buffers: buffers, counters: counters,
      seat: DoorbellSeat.none(memory.region.slice(at: 2048, byteCount: DoorbellSeat.byteCount)))
    namespace = FuseNamespace(
      shape: choices & 16 != 0 ? .file : .directory, fileName: "xvda", isReadOnly: geometry.isReadOnly, user: 0,
      group: 0, negotiation: FuseNegotiation(maximumTransfer: Self.transfer, wantsRing: false))
    namespaceBefore = namespace.state.withLock { $0 }
    reactor = FuseReactor<MemoryDisk, FuseChannel>(
      device: disk, queue: queue, transport: channel,
      settings: ReactorSettings(
        namespace: namespace, counters: counters, writeCounts: memory.region.slice(at: 1024, byteCount: 128),
        gate: WriteGate(memory: memory.region, seat: 0, seatCount: 1), slotCount: Self.slots, guestCount: 0,
        maximumTransfer: Self.transfer, spinNanoseconds: 0, isReadOnly: geometry.isReadOnly))
  }

  deinit {
    Glibc.close(pair.0)
    Glibc.close(stop)
    unsafe kernel.deallocate()
  }

  /// Lets one kernel say what it has to say.
  func play(_ input: inout FuzzInput) -> UInt64 {
    outcome = Outcome()
    unsafe pv_fuzz_kernel_sit(pair.1, kernel)
    while !input.isAtEnd {
      guard let message = messages.write(&input, into: mail.region) else { break }
      if message.byteCount >= 40, !Self.silent.contains(message.opcode) { owed[message.unique] = message.opcode }
      unsafe pv_fuzz_kernel_add(kernel, message.byteCount)
      if messages.isFull || input.byte() & 3 == 0 { settle() }
    }
    settle()
    demand(owed.isEmpty, "every request has its answer: operations \(owed.values.sorted()) have none")
    demand(disk.requestCounts.violations == 0, "the disk is asked for what it can do")
    pv_fuzz_kernel_sit(-1, nil)
    putBack()
    return outcome.value
  }

  private func settle() {
    // A message that is none ends a batch, as if there were no more.
    for _ in 0..<64 {
      let taken = reactor.takeRequests(16)
      reactor.progress()
      collect()
      let isIdle = taken == 0 && reactor.queue.inFlight == 0 && reactor.deferred.count == 0
      if isIdle, unsafe kernel.pointee.first == kernel.pointee.end {
        unsafe pv_fuzz_kernel_clear(kernel)
        messages.forgetSent()
        return
      }
    }
    demand(false, "a reactor comes to rest")
  }

  /// Looks at the answers: each to a request, once, and well formed.
  private func collect() {
    var offset = 0
    for index in 0..<(unsafe kernel.pointee.answer_count) {
      let count = unsafe pv_fuzz_kernel_answer(kernel, index)
      demand(count >= 16, "an answer has a header")
      let head = answers.region.slice(at: offset, byteCount: 16)
      demand(head.load(UInt32.self, at: 0) == UInt32(count), "an answer's length is its length")
      let error = head.load(Int32.self, at: 4)
      demand(error <= 0 && error > -512, "an answer's error is one: \(error)")
      demand(error == 0 || count == 16, "a refusal is a header alone")
      let unique = head.load(UInt64.self, at: 8)
      demand(owed.removeValue(forKey: unique) != nil, "a request is answered once")
      outcome.note(unique << 32 | UInt64(UInt32(bitPattern: error)))
      outcome.note(count)
      offset += count
    }
    unsafe kernel.pointee.answer_count = 0
    unsafe kernel.pointee.answers_size = 0
  }

  /// Makes everything as it was: what requests wrote, what they left in buffers, and who opened what.
  private func putBack() {
    messages.reset()
    demand(reactor.transport.free.count == Self.slots && reactor.gate.inFlight == 0, "every slot is free again")
    for _ in 0..<Self.slots { reactor.transport.free.pop() }
    for slot in (0..<Self.slots).reversed() {
      reactor.transport.free.push(slot)
      reactor.table[slot] = FuseSlot()
      // Only a slot that was used has a request's number in its frame.
      if reactor.transport.header(slot).load(UInt64.self, at: 8) != 0 { reactor.region(of: slot).wipe(0) }
    }
    reactor.transport.frames.region.wipe(0)
    let counters = reactor.counters
    if counters[.partialSectorWrites] > 0 { reactor.region(of: Self.slots).wipe(0) }
    if counters[.writes] | counters[.allocations] > 0, !disk.geometry.isReadOnly { disk.contents.wipe(0) }
    reactor.writeEnd = .max
    reactor.isStopping = false
    // The gate, the counters and the count of writes; behind them is the seat at the doorbell.
    memory.region.wipe(0, at: 0, byteCount: 2048)
    namespace.state.withLock { $0 = namespaceBefore }
  }
}
