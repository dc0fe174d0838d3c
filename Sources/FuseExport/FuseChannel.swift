// SPDX-License-Identifier: MIT

import CFuse3
import Glibc
public import GuestMemory

/// What a request over /dev/fuse takes beside its buffer: 512 bytes, so that none crosses a page.
///
///     0      struct fuse_in_header, 40 bytes
///     40     the operation's own structure, 128 bytes
///     176    struct fuse_out_header, 16 bytes
///     192    the answer's structure, 208 bytes
///     400    the descriptor by which the request came, which has to answer it; 4 bytes
enum ChannelFrame {
  static let byteCount = 512
  static let arguments = 40
  static let answer = 176
  static let smallAnswer = 192
  static let smallAnswerCapacity = 208
  static let source = 400
}

/// The classic transport: one descriptor of /dev/fuse, read with readv(2), answered with writev(2).
///
/// While requests come one at a time the reactor does not sleep in epoll_wait(2) but in readv(2) of a second, blocking
/// descriptor, which hands it the request as it wakes: a system call less for each, and the kernel wakes a reader where it
/// last ran. A ``DoorbellSeat`` lets the device and a stop interrupt that.
///
/// A read is scattered: the header and the first 40 bytes of arguments to the slot's ``ChannelFrame``, everything else
/// straight to the slot's device buffer, so the data of a WRITE is where the device wants it. Free slots are a stack:
/// the one used last is used next, while its memory is warm.
@usableFromInline
struct FuseChannel: FuseTransport, ~Copyable {
  /// Each takes a system call, so nothing is won by more, and an asker that has its answers soon asks again while the next are
  /// under way: with sixteen at a time asker and reactor wait for each other.
  @inlinable static var batchRequests: Int { 2 }
  @inlinable static var reachesNeighbours: Bool { false }

  @usableFromInline let descriptor: OwnedDescriptor
  /// Waits for requests, the device and a stop.
  @usableFromInline let waitSet: WaitSet
  /// Waits for the device and a stop, while no slot is free.
  @usableFromInline let saturatedWaitSet: WaitSet
  /// Waits for the device alone.
  @usableFromInline let deviceWaitSet: WaitSet
  let hasDeviceDescriptor: Bool
  @usableFromInline let frames: MappedMemory
  let buffers: [SharedRegion]
  let counters: ReactorCounters
  @usableFromInline let free: SlotStack
  /// Where to sleep for a lone request.
  @usableFromInline let seat: DoorbellSeat
  /// Bytes of a request that came while sleeping in the seat, in the slot on top of the free ones.
  private var awaitedByteCount = 0

  /// Takes over `descriptor`, a non-blocking descriptor of /dev/fuse.
  init(
    descriptor: consuming OwnedDescriptor, stopDescriptor: CInt, deviceDescriptor: CInt, buffers: [SharedRegion],
    counters: ReactorCounters, seat: consuming DoorbellSeat
  ) throws(SystemError) {
    let frames = try MappedMemory(anonymousByteCount: buffers.count * ChannelFrame.byteCount)
    let waitSet = try WaitSet()
    try waitSet.add(descriptor.number, exclusive: true, as: .request)
    try waitSet.add(stopDescriptor, as: .stop)
    try waitSet.add(deviceDescriptor, as: .device)
    let saturatedWaitSet = try WaitSet()
    try saturatedWaitSet.add(stopDescriptor, as: .stop)
    try saturatedWaitSet.add(deviceDescriptor, as: .device)
    let deviceWaitSet = try WaitSet()
    try deviceWaitSet.add(deviceDescriptor, as: .device)
    self.descriptor = descriptor
    self.waitSet = waitSet
    self.saturatedWaitSet = saturatedWaitSet
    self.deviceWaitSet = deviceWaitSet
    hasDeviceDescriptor = deviceDescriptor >= 0
    self.frames = frames
    self.buffers = buffers
    self.counters = counters
    free = SlotStack(count: buffers.count)
    self.seat = seat
  }

  private func frame(_ slot: Int) -> SharedRegion {
    frames.region.slice(at: slot &* ChannelFrame.byteCount, byteCount: ChannelFrame.byteCount)
  }

  @usableFromInline
  func header(_ slot: Int) -> SharedRegion {
    frames.region.slice(at: slot &* ChannelFrame.byteCount, byteCount: FuseHeader.byteCount)
  }

  @usableFromInline
  func arguments(_ slot: Int) -> SharedRegion {
    frames.region.slice(
      at: slot &* ChannelFrame.byteCount &+ ChannelFrame.arguments, byteCount: FuseSize.argumentCapacity)
  }

  @usableFromInline
  func answerArea(_ slot: Int) -> SharedRegion {
    frames.region.slice(
      at: slot &* ChannelFrame.byteCount &+ ChannelFrame.smallAnswer, byteCount: ChannelFrame.smallAnswerCapacity)
  }

  @usableFromInline
  mutating func nextRequest() -> FuseReceipt {
    while true {
      guard let slot = free.top else { return .saturated }
      let count = awaitedByteCount > 0 ? awaitedByteCount : receive(into: slot)
      awaitedByteCount = 0
      if count >= FuseHeader.byteCount {
        free.pop()
        return .request(slot: slot, payloadByteCount: arrange(slot, byteCount: count))
      }
      switch -count {
      case Int(EAGAIN):
        counters.add(to: .emptyReceiveCalls)
        return .none
      case Int(ENODEV), Int(ECONNABORTED), Int(EBADF): return .unmounted
      case Int(ENOENT): continue  // The asker went away between our look and our read.
      default:
        counters.add(to: .malformed)
        return .none
      }
    }
  }

  @usableFromInline
  func guestBuffer(_ slot: Int) -> MemoryExtent { preconditionFailure("over /dev/fuse every slot is a reactor's own") }

  private func receive(into slot: Int) -> Int {
    counters.add(to: .receiveCalls)
    let buffer = buffers[slot]
    let frame = frame(slot)
    frame.store(descriptor.number, at: ChannelFrame.source)
    return unsafe frame.withUnsafeBytes { frame in
      unsafe buffer.withUnsafeBytes { payload in
        // SAFETY: the frame has room for the first 80 bytes, and the buffer's length is passed along.
        unsafe pv_fuse_receive(
          descriptor.number, frame.baseAddress, payload.baseAddress, payload.count)
      }
    }
  }

  /// Sleeps in read(2) until a request has come to the top slot, or until the bell rings.
  private mutating func awaitRequest(into slot: Int) -> WakeReason {
    guard seat.fallAsleep() else { return .stop }
    counters.add(to: .sleepsInRead)
    let number = seat.descriptor.number
    counters.add(to: .receiveCalls)
    let buffer = buffers[slot]
    let frame = frame(slot)
    frame.store(number, at: ChannelFrame.source)
    let count = unsafe frame.withUnsafeBytes { frame in
      unsafe buffer.withUnsafeBytes { payload in
        // SAFETY: as in `receive`.
        unsafe pv_fuse_await(number, frame.baseAddress, payload.baseAddress, payload.count)
      }
    }
    seat.wakeUp()
    // What went wrong otherwise, the next look by the other descriptor tells.
    guard count >= FuseHeader.byteCount else { return .device }
    awaitedByteCount = count
    return .request
  }

  /// Gives the two operations whose bytes do not fall in place the shape that io_uring gives them; answers the number
  /// of bytes in the buffer.
  private func arrange(_ slot: Int, byteCount: Int) -> Int {
    let spilled = max(byteCount - FuseHeader.byteCount - FuseSize.transferIn, 0)
    let frame = frame(slot)
    switch frame.load(UInt32.self, at: FuseHeader.opcode) {
    case FuseOpcode.setattr:
      // The structure is longer than 40 bytes: bring its end back from the buffer.
      let rest = min(spilled, FuseSize.setattrIn - FuseSize.transferIn)
      frame.move(from: buffers[slot], at: 0, to: ChannelFrame.arguments + FuseSize.transferIn, byteCount: rest)
      return spilled - rest
    case FuseOpcode.lookup:
      // There is no structure, only a name: put its start in front of its end.
      let buffer = buffers[slot]
      let start = min(byteCount - FuseHeader.byteCount, FuseSize.transferIn)
      buffer.move(from: buffer, at: 0, to: start, byteCount: spilled)
      buffer.move(from: frame, at: ChannelFrame.arguments, to: 0, byteCount: start)
      return start + spilled
    default: return spilled
    }
  }

  @usableFromInline
  mutating func answer(_ slot: Int, error: CInt, byteCount: Int) {
    precondition(byteCount <= ChannelFrame.smallAnswerCapacity, "an answer outgrew its frame")
    send(slot, error: error, small: byteCount, payload: nil)
  }

  @usableFromInline
  mutating func answerPayload(_ slot: Int, from offset: Int, byteCount: Int) {
    send(slot, error: 0, small: 0, payload: buffers[slot].slice(at: offset, byteCount: byteCount))
  }

  private mutating func send(_ slot: Int, error: CInt, small: Int, payload: SharedRegion?) {
    let frame = frame(slot)
    let payloadByteCount = payload?.byteCount ?? 0
    let source = frame.load(CInt.self, at: ChannelFrame.source)
    frame.store(UInt32(FuseSize.outHeader &+ small &+ payloadByteCount), at: ChannelFrame.answer)
    frame.store(-error, at: ChannelFrame.answer &+ 4)
    frame.store(frame.load(UInt64.self, at: FuseHeader.unique), at: ChannelFrame.answer &+ 8)
    let status = unsafe frame.withUnsafeBytes { bytes in
      // SAFETY: the head lies within the frame (checked above); the payload is a checked part of the buffer.
      unsafe pv_fuse_answer(
        source, bytes.baseAddress.map { unsafe $0 + ChannelFrame.answer }, FuseSize.outHeader &+ small,
        UnsafeMutableRawPointer(bitPattern: payload?.address ?? 0), payloadByteCount)
    }
    counters.add(to: .answerCalls)
    if status < 0 { counters.add(to: .lostAnswers) }
    free.push(slot)
  }

  @usableFromInline
  mutating func release(_ slot: Int) { free.push(slot) }

  @usableFromInline
  mutating func publishBatch() {}

  @usableFromInline
  mutating func publish() {}

  @usableFromInline
  mutating func wait(expectsOne: Bool) -> WakeReason {
    counters.add(to: .wakeUps)
    guard let slot = free.top else { return saturatedWaitSet.wait() }
    return expectsOne && seat.isTaken ? awaitRequest(into: slot) : waitSet.wait()
  }

  @usableFromInline
  mutating func waitForDevice() {
    // A device without a descriptor finishes in `advance`, where its own threads may need this CPU.
    if hasDeviceDescriptor { _ = deviceWaitSet.wait() } else { sched_yield() }
  }
}
