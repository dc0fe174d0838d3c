// SPDX-License-Identifier: MIT

import CUring
import Glibc
public import GuestMemory

/// What a request over io_uring takes beside its buffer: struct fuse_uring_req_header, which the kernel and we share, and
/// our own notes; 512 bytes, so that none crosses a page.
///
///     0      struct fuse_in_header, 40 bytes; in the answer struct fuse_out_header, 16 bytes
///     128    the operation's own structure, 128 bytes
///     256    struct fuse_uring_ent_in_out: flags, the number to commit with, bytes in the buffer
///     288    the answer's structure, 208 bytes; the kernel wants it in the buffer
///     496    the kernel's queue; whether it has ever sent a request into this memory; the buffer's length at 500,
///            its address at 504
enum RingFrame {
  static let byteCount = 512
  static let arguments = 128
  static let commit = 264
  static let payloadByteCount = 272
  static let smallAnswer = 288
  static let smallAnswerCapacity = 208
  static let kernelQueue = 496
  static let isServing = 498
  static let bufferByteCount = 500
  static let bufferAddress = 504
}

/// The fast transport: one io_uring for the kernel's queues that this reactor serves, and a ``FuseChannel`` for what the
/// kernel still sends over /dev/fuse (FORGET and INTERRUPT, or everything, should it refuse the ring).
///
/// The kernel copies a request into its slot's memory when we enter the ring, and an answer out of it when we commit. The
/// entry that sends answers also fetches requests and sleeps until there is one: a lone request costs one system call.
/// A reactor of several shares large requests with a neighbour. ``RingSlots`` has the numbers of slots.
@usableFromInline
struct FuseRing: FuseTransport, ~Copyable {
  /// One system call fetches them all.
  @inlinable static var batchRequests: Int { 16 }
  @inlinable static var reachesNeighbours: Bool { true }
  /// Answers that are worth an entry of their own while more requests are at hand.
  private static let publishThreshold = 8
  static let stopTag = UInt64.max
  private static let deviceTag = UInt64.max - 1
  private static let channelTag = UInt64.max - 2

  @usableFromInline let ring: RingConnection
  @usableFromInline var channel: FuseChannel
  /// Whether this reactor takes what comes over /dev/fuse.
  private let takesChannel: Bool
  @usableFromInline let frames: SharedRegion
  let buffers: [SharedRegion]
  let entryCount: Int
  let firstGuest: Int
  let desk: RingDesk
  /// Who serves large requests when there are several here, and shares its own; nil for nobody.
  let neighbour: RingNeighbour?
  /// The neighbour's frames; none without one.
  let guestFrames: SharedRegion
  /// Requests given to the neighbour, modulo 2^32.
  var given: UInt32 = 0
  /// What the desk says.
  var isBusy = false
  private let payloadCapacity: Int
  private let stopDescriptor: CInt
  private let deviceDescriptor: CInt
  let counters: ReactorCounters
  private var isStopWatched = false
  private var isDeviceWatched = false
  private var isChannelWatched = false
  private var channelMayHaveRequests = false
  /// Whether completions have been taken since the kernel was last entered.
  private var hasTaken = false
  /// Entries that the kernel has not taken out of service.
  private var liveEntries = 0
  var pace: RingPace

  /// Takes over a ring, which is the calling thread's from here on.
  init(
    ring: consuming RingConnection, of set: RingSet, at index: Int, queues: KernelQueues,
    channel: consuming FuseChannel,
    takesChannel: Bool, stopDescriptor: CInt, deviceDescriptor: CInt, buffers: [SharedRegion],
    counters: ReactorCounters, homeCPU: Int?
  ) throws(SystemError) {
    try ring.enable()
    let neighbour = set.neighbour(of: index)
    let frames = set.frames(of: index)
    self.frames = frames
    self.neighbour = neighbour
    guestFrames = neighbour?.frames ?? frames.slice(at: 0, byteCount: 0)
    desk = set.desk(of: index)
    firstGuest = set.slots(of: index).firstGuest
    self.ring = ring
    self.channel = channel
    self.takesChannel = takesChannel
    self.buffers = buffers
    self.stopDescriptor = stopDescriptor
    self.deviceDescriptor = deviceDescriptor
    self.counters = counters
    pace = RingPace(homeCPU: homeCPU)
    entryCount = queues.entryCount
    payloadCapacity = queues.payloadCapacity
    liveEntries = queues.entryCount
    for slot in 0..<queues.entryCount {
      frame(slot).store(queues.queue(ofEntry: slot), at: RingFrame.kernelQueue)
      frame(slot).store(UInt32(buffers[slot].byteCount), at: RingFrame.bufferByteCount)
      frame(slot).store(UInt64(buffers[slot].address), at: RingFrame.bufferAddress)
    }
  }

  /// Registers an entry for each slot: 0, or the `errno` for which the kernel refused one.
  mutating func registerEntries() -> CInt {
    for slot in 0..<entryCount { register(slot) }
    // A refusal is answered at once, a wish that was taken note of is not.
    _ = ring.enter(waits: false)
    return ring.firstFailure
  }

  private func register(_ slot: Int) {
    ring.register(slot, queue: frame(slot).load(UInt16.self, at: RingFrame.kernelQueue), frame(slot), buffers[slot])
  }

  func frame(_ slot: Int) -> SharedRegion {
    guard slot >= firstGuest else {
      return frames.slice(at: slot &* RingFrame.byteCount, byteCount: RingFrame.byteCount)
    }
    return guestFrames.slice(at: (slot &- firstGuest) &* RingFrame.byteCount, byteCount: RingFrame.byteCount)
  }

  /// The number of a slot in the channel, if it is one of that.
  private func channelSlot(_ slot: Int) -> Int? {
    slot >= entryCount && slot < firstGuest ? slot &- entryCount : nil
  }

  @usableFromInline
  func header(_ slot: Int) -> SharedRegion {
    if let slot = channelSlot(slot) { return channel.header(slot) }
    return frame(slot).slice(at: 0, byteCount: FuseHeader.byteCount)
  }

  @usableFromInline
  func arguments(_ slot: Int) -> SharedRegion {
    if let slot = channelSlot(slot) { return channel.arguments(slot) }
    return frame(slot).slice(at: RingFrame.arguments, byteCount: FuseSize.argumentCapacity)
  }

  @usableFromInline
  func answerArea(_ slot: Int) -> SharedRegion {
    if let slot = channelSlot(slot) { return channel.answerArea(slot) }
    return frame(slot).slice(at: RingFrame.smallAnswer, byteCount: RingFrame.smallAnswerCapacity)
  }

  // MARK: Requests

  @usableFromInline
  mutating func nextRequest() -> FuseReceipt {
    while true {
      while let (tag, value) = ring.takeCompletion() {
        hasTaken = true
        if tag < Sharing.end {
          let slot = Int(truncatingIfNeeded: tag & Sharing.slotMask)
          if tag >= Sharing.refused {
            given &-= 1
            return accept(slot)
          }
          if value >= 0 {
            if let receipt = welcome(slot, isFromNeighbour: value == Sharing.fromNeighbour) { return receipt }
          } else if !recover(slot, value) {
            return .unmounted
          }
        } else if noteWatched(tag) == .stop {
          return .unmounted
        }
      }
      if channelMayHaveRequests, let receipt = nextChannelRequest() { return receipt }
      // First let the reactor work off what it has: sleeping afterwards enters the kernel anyway.
      if hasTaken {
        hasTaken = false
        return .none
      }
      guard ring.hasTaskWork else { return .none }
      enter(waits: false)
      hasTaken = true
    }
  }

  mutating func accept(_ slot: Int) -> FuseReceipt {
    if !isBusy {
      isBusy = true
      desk.isBusy = true
    }
    let frame = frame(slot)
    frame.store(UInt8(1), at: RingFrame.isServing)
    // What the kernel says is trusted; that it fits is checked where it is used.
    let byteCount = Int(frame.load(UInt32.self, at: RingFrame.payloadByteCount))
    return .request(slot: slot, payloadByteCount: min(byteCount, payloadCapacity))
  }

  /// Deals with a command that failed; false when the file system is gone.
  private mutating func recover(_ slot: Int, _ value: Int32) -> Bool {
    switch -value {
    case ENOTCONN, ECONNABORTED, ECANCELED, ENODEV: return false
    case EAGAIN, EINTR:
      if frame(slot).load(UInt8.self, at: RingFrame.isServing) == 0 { register(slot) } else { commit(slot) }
    default:
      if slot >= firstGuest {
        counters.add(to: .lostAnswers)
        return true
      }
      liveEntries &-= 1
      // An entry that was refused at once leaves the others, or /dev/fuse.
      guard frame(slot).load(UInt8.self, at: RingFrame.isServing) != 0 else { return true }
      // The kernel has let go of this entry, and of the request in it.
      counters.add(to: .lostAnswers)
      return liveEntries > 0
    }
    return true
  }

  private mutating func noteWatched(_ tag: UInt64) -> WakeReason {
    switch tag {
    case Self.stopTag: return .stop
    case Self.deviceTag: isDeviceWatched = false
    default:
      isChannelWatched = false
      channelMayHaveRequests = true
    }
    return []
  }

  private mutating func nextChannelRequest() -> FuseReceipt? {
    switch channel.nextRequest() {
    case .request(let slot, let byteCount): return .request(slot: slot &+ entryCount, payloadByteCount: byteCount)
    case .none:
      channelMayHaveRequests = false
      return nil
    case .saturated: return nil
    case .unmounted: return .unmounted
    }
  }

  // MARK: Answers

  @usableFromInline
  mutating func answer(_ slot: Int, error: CInt, byteCount: Int) {
    if let slot = channelSlot(slot) { return channel.answer(slot, error: error, byteCount: byteCount) }
    precondition(byteCount <= RingFrame.smallAnswerCapacity, "an answer outgrew its frame")
    buffer(slot).move(from: frame(slot), at: RingFrame.smallAnswer, to: 0, byteCount: byteCount)
    commit(slot, error: error, byteCount: byteCount)
  }

  @usableFromInline
  mutating func answerPayload(_ slot: Int, from offset: Int, byteCount: Int) {
    if let slot = channelSlot(slot) { return channel.answerPayload(slot, from: offset, byteCount: byteCount) }
    // The kernel takes an answer from the start of the buffer.
    if offset > 0 { buffer(slot).move(from: buffer(slot), at: offset, to: 0, byteCount: byteCount) }
    commit(slot, error: 0, byteCount: byteCount)
  }

  @usableFromInline
  mutating func release(_ slot: Int) {
    if let slot = channelSlot(slot) { return channel.release(slot) }
    // The ring knows no request without an answer; this gives the entry back.
    commit(slot, error: 0, byteCount: 0)
  }

  private func commit(_ slot: Int, error: CInt, byteCount: Int) {
    let frame = frame(slot)
    // The number of the request stands in both headers at the same place.
    frame.store(UInt32(FuseSize.outHeader &+ byteCount), at: 0)
    frame.store(-error, at: 4)
    frame.store(UInt32(byteCount), at: RingFrame.payloadByteCount)
    commit(slot)
  }

  private func commit(_ slot: Int) {
    let frame = frame(slot)
    ring.commit(
      UInt64(slot), queue: frame.load(UInt16.self, at: RingFrame.kernelQueue),
      number: frame.load(UInt64.self, at: RingFrame.commit))
  }

  // MARK: Entering the kernel

  func enter(waits: Bool) {
    counters.add(to: .receiveCalls)
    _ = ring.enter(waits: waits)
  }

  @usableFromInline
  mutating func publishBatch() {
    if ring.preparedCount >= Self.publishThreshold { enter(waits: false) }
  }

  @usableFromInline
  mutating func publish() {
    if ring.preparedCount > 0 { enter(waits: false) }
  }

  @usableFromInline
  mutating func wait(expectsOne: Bool) -> WakeReason {
    if !isStopWatched {
      isStopWatched = true
      ring.watch(stopDescriptor, as: Self.stopTag)
    }
    if !isDeviceWatched && deviceDescriptor >= 0 {
      isDeviceWatched = true
      ring.watch(deviceDescriptor, as: Self.deviceTag)
    }
    if takesChannel && !isChannelWatched && !channelMayHaveRequests {
      isChannelWatched = true
      ring.watch(channel.descriptor.number, as: Self.channelTag)
    }
    if isBusy {
      isBusy = false
      desk.isBusy = false
    }
    if pace.shouldLook() {
      publish()
      let view = ring.view
      if pace.look(until: { view.hasNews }) { return [] }
    }
    counters.add(to: .wakeUps)
    enter(waits: true)
    // What has come, a stop too, is told by the completions.
    hasTaken = false
    return []
  }

  @usableFromInline
  mutating func waitForDevice() {
    publish()
    channel.waitForDevice()
  }
}
