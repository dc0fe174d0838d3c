// SPDX-License-Identifier: MIT

import CLinux
import Glibc
import GuestMemory
import Synchronization

/// Wakes reactors that sleep in read(2), where only a request can reach them by itself.
///
/// A thread watches what else a reactor waits for, its device and a stop, and interrupts the read by a signal. A signal
/// that comes an instant before the read is lost, so the bell rings every millisecond until the sleeper says it is awake.
/// Both sides store first and look afterwards, with full barriers between, so one of them sees the other:
///
///     reactor                                   bell
///     asleep = 1                                the device is readable: spent = 1
///     stopping? -> do not sleep                 asleep? -> signal, again after a millisecond
///     spent? -> spent = 0, watch again
///     read(2): a request, or EINTR
///     asleep = 0
///
/// The device is watched once and not again until the reactor's next sleep, so a device that is busy while its reactor is
/// awake costs nothing here.
///
/// **Assumptions.** `SIGURG` is ours to catch; a handler that the process has already is left in place and must not restart
/// system calls.
@usableFromInline
final class Doorbell: Sendable {
  private let core: BellCore
  private let thread: ReactorThread

  /// Bytes of zeroed memory that the seats of `count` reactors take.
  static func byteCount(seatCount count: Int) -> Int { count * DoorbellSeat.byteCount }

  /// Starts the bell; `memory` outlives it.
  init(seatCount: Int, memory: SharedRegion, stopDescriptor: CInt) throws(FuseError) {
    let core = BellCore(seatCount: seatCount, memory: memory)
    guard core.poll >= 0, core.quitEvent >= 0, core.watch(stopDescriptor, as: BellCore.stopToken),
      core.watch(core.quitEvent, as: BellCore.quitToken)
    else { throw .system(call: "epoll", code: errno) }
    guard pv_interrupt_prepare() == 0 else { throw .system(call: "sigaction", code: errno) }
    thread = try ReactorThread(name: "pvdisk-bell", cpu: nil) { core.run() }
    self.core = core
  }

  deinit {
    _ = eventfd_write(core.quitEvent, 1)
    thread.join()
  }

  /// A seat for the calling thread, which is to sleep in read(2) of `descriptor`.
  func seat(
    _ index: Int, deviceDescriptor: CInt, sleepingIn descriptor: consuming OwnedDescriptor
  ) throws(SystemError) -> DoorbellSeat {
    guard deviceDescriptor < 0 || core.watch(deviceDescriptor, as: UInt64(index)) else {
      throw SystemError("epoll_ctl")
    }
    pv_interrupt_allow()
    core.sleepers.withLock { $0[index] = pthread_self() }
    return DoorbellSeat(
      bell: self, index: index, words: core.words(of: index), poll: core.poll, deviceDescriptor: deviceDescriptor,
      descriptor: descriptor)
  }

  /// Forgets a reactor, before its thread ends.
  func leave(_ index: Int, deviceDescriptor: CInt) {
    core.sleepers.withLock { $0[index] = nil }
    if deviceDescriptor >= 0 { _ = pv_epoll_control(core.poll, EPOLL_CTL_DEL, deviceDescriptor, 0, 0) }
  }
}

/// What the bell's thread works with, and the rest shares.
private final class BellCore: Sendable {
  static let stopToken = UInt64.max
  static let quitToken = UInt64.max - 1
  /// Milliseconds between two signals to a reactor that has not heard.
  private static let repeatMilliseconds: CInt = 1

  let poll = epoll_create1(CInt(EPOLL_CLOEXEC))
  let quitEvent = eventfd(0, CInt(EFD_CLOEXEC | EFD_NONBLOCK))
  let sleepers: Mutex<[pthread_t?]>
  private let seatCount: Int
  private let memory: SharedRegion

  init(seatCount: Int, memory: SharedRegion) {
    self.seatCount = seatCount
    self.memory = memory
    sleepers = Mutex(Array(repeating: nil, count: seatCount))
  }

  deinit { for descriptor in [poll, quitEvent] where descriptor >= 0 { close(descriptor) } }

  func words(of index: Int) -> SharedRegion {
    memory.slice(at: index * DoorbellSeat.byteCount, byteCount: DoorbellSeat.byteCount)
  }

  func watch(_ descriptor: CInt, as token: UInt64) -> Bool {
    DoorbellSeat.watchOnce(poll, EPOLL_CTL_ADD, descriptor, token: token)
  }

  func run() {
    var isRinging = false
    while true {
      var ready = pv_ready()
      // SAFETY: room for one, in a local.
      let count = unsafe pv_epoll_wait(poll, &ready, 1, isRinging ? Self.repeatMilliseconds : -1)
      if count == 1 {
        switch ready.token {
        case Self.quitToken: return
        case Self.stopToken: for index in 0..<seatCount { _ = DoorbellSeat.stopping(words(of: index)).exchange(1) }
        default: _ = DoorbellSeat.spent(words(of: Int(ready.token))).exchange(1)
        }
      }
      isRinging = ring()
    }
  }

  /// Signals those who sleep and should not; answers whether there were any.
  private func ring() -> Bool {
    sleepers.withLock { sleepers in
      var hasRung = false
      for (index, thread) in sleepers.enumerated() {
        guard let thread, DoorbellSeat.isToWake(words(of: index)) else { continue }
        // The reactor's thread lives: it gives up its seat, under this lock, before it ends.
        pv_interrupt(thread)
        hasRung = true
      }
      return hasRung
    }
  }
}

/// A reactor's place at the bell, and the descriptor in whose read(2) it sleeps; for that reactor's thread.
///
///     0   asleep     written by the reactor
///     4   spent      set by the bell, cleared by the reactor: the device is not watched any more
///     8   stopping   set by the bell, for good
@usableFromInline
struct DoorbellSeat: ~Copyable {
  static let byteCount = 128

  /// Nothing for a reactor without a second descriptor, which does not sleep this way.
  @usableFromInline let bell: Doorbell?
  @usableFromInline let index: Int
  private let words: SharedRegion
  private let poll: CInt
  @usableFromInline let deviceDescriptor: CInt
  /// A blocking descriptor of /dev/fuse of the same connection.
  @usableFromInline let descriptor: OwnedDescriptor

  /// No seat.
  static func none(_ memory: SharedRegion) -> DoorbellSeat {
    DoorbellSeat(bell: nil, index: 0, words: memory, poll: -1, deviceDescriptor: -1, descriptor: OwnedDescriptor(-1))
  }

  fileprivate init(
    bell: Doorbell?, index: Int, words: SharedRegion, poll: CInt, deviceDescriptor: CInt,
    descriptor: consuming OwnedDescriptor
  ) {
    self.bell = bell
    self.index = index
    self.words = words
    self.poll = poll
    self.deviceDescriptor = deviceDescriptor
    self.descriptor = descriptor
  }

  @inlinable
  deinit { leaveDoorbell(bell, index, deviceDescriptor) }

  /// Whether there is something to sleep in.
  var isTaken: Bool { bell != nil }

  /// Says that the reactor is about to sleep; false when a stop was asked for.
  func fallAsleep() -> Bool {
    _ = words.word32(at: 0).exchange(1)
    guard Self.stopping(words).loadSequential() == 0 else {
      wakeUp()
      return false
    }
    if Self.spent(words).loadSequential() != 0 {
      Self.spent(words).storeReleasing(0)
      _ = Self.watchOnce(poll, EPOLL_CTL_MOD, deviceDescriptor, token: UInt64(index))
    }
    return true
  }

  /// Says that the reactor is awake.
  func wakeUp() { words.word32(at: 0).storeReleasing(0) }

  fileprivate static func spent(_ words: SharedRegion) -> SharedWord<UInt32> { words.word32(at: 4) }
  fileprivate static func stopping(_ words: SharedRegion) -> SharedWord<UInt32> { words.word32(at: 8) }

  fileprivate static func isToWake(_ words: SharedRegion) -> Bool {
    words.word32(at: 0).loadSequential() != 0
      && (spent(words).loadSequential() != 0 || stopping(words).loadSequential() != 0)
  }

  /// Watches a descriptor until it has been readable once.
  fileprivate static func watchOnce(_ poll: CInt, _ operation: CInt, _ descriptor: CInt, token: UInt64) -> Bool {
    pv_epoll_control(poll, operation, descriptor, EPOLLIN.rawValue | EPOLLONESHOT.rawValue, token) == 0
  }
}

@usableFromInline
func leaveDoorbell(_ bell: Doorbell?, _ index: Int, _ deviceDescriptor: CInt) {
  bell?.leave(index, deviceDescriptor: deviceDescriptor)
}
