// SPDX-License-Identifier: MIT

import CUring
import Glibc
import GuestMemory
import Synchronization

/// The rings of a mount, made before the kernel is told that there will be any, and handed to the reactors; and the memory that
/// reactors who serve one another's requests share: a desk and the request frames of each.
final class RingSet: Sendable {
  /// The addresses of rings that nobody has taken yet; 0 for one that somebody has.
  private let addresses: Mutex<[UInt]>
  private let descriptors: [CInt]
  private let queues: [KernelQueues]
  private let memory: SharedArea

  init(queues: [KernelQueues], descriptor: CInt) throws(SystemError) {
    self.queues = queues
    let frames = queues.reduce(0) { $0 + $1.entryCount } * RingFrame.byteCount
    memory = try SharedArea(byteCount: (queues.count * RingDesk.byteCount + frames + 4095) & ~4095)
    var made: [UInt] = []
    var descriptors: [CInt] = []
    for queue in queues {
      guard let ring = unsafe pv_fuse_ring_create(UInt32(queue.entryCount), descriptor) else {
        let error = SystemError("io_uring_setup")
        for address in made { _ = Self.connection(at: address) }
        throw error
      }
      made.append(UInt(bitPattern: ring))
      descriptors.append(unsafe pv_fuse_ring_descriptor(ring))
    }
    addresses = Mutex(made)
    self.descriptors = descriptors
  }

  deinit { addresses.withLock { for address in $0 { _ = Self.connection(at: address) } } }

  /// The ring of a reactor; once.
  func take(_ index: Int) -> RingConnection? {
    let address = addresses.withLock { addresses in
      defer { addresses[index] = 0 }
      return addresses[index]
    }
    return Self.connection(at: address)
  }

  private static func connection(at address: UInt) -> RingConnection? {
    // SAFETY: the address of a live ring, of which nobody else knows any more.
    guard let ring = unsafe OpaquePointer(bitPattern: address) else { return nil }
    return unsafe RingConnection(unsafeAdopting: ring)
  }

  /// A reactor's request frames, zeroed at first.
  func frames(of index: Int) -> SharedRegion {
    let start = queues[..<index].reduce(queues.count * RingDesk.byteCount) { $0 + $1.entryCount * RingFrame.byteCount }
    return memory.memory.region.slice(at: start, byteCount: queues[index].entryCount * RingFrame.byteCount)
  }

  func desk(of index: Int) -> RingDesk {
    RingDesk(memory: memory.memory.region.slice(at: index * RingDesk.byteCount, byteCount: RingDesk.byteCount))
  }

  /// The reactor that serves requests of another one, as that one serves its; the last of an odd number has none.
  func neighbour(of index: Int) -> RingNeighbour? {
    let other = index ^ 1
    guard other < queues.count, queues[index].entryCount > 0, queues[other].entryCount > 0 else { return nil }
    return RingNeighbour(
      index: other, ring: descriptors[other], desk: desk(of: other), frames: frames(of: other),
      firstGuest: slots(of: other).firstGuest)
  }

  /// How a reactor numbers its slots.
  func slots(of index: Int) -> RingSlots {
    let other = index ^ 1
    return RingSlots(
      entryCount: queues[index].entryCount, guestCount: other < queues.count ? queues[other].entryCount : 0)
  }
}

/// How a reactor over a ring numbers its slots.
///
///     0 ..< entryCount     its own entries, each with the device buffer of its number
///     ..< scratch          requests over /dev/fuse, likewise
///     scratch              no slot: the reactor's scratch buffer
///     firstGuest ..<       the neighbour's entries, whose buffers are the neighbour's
struct RingSlots {
  static var channelSlotCount: Int { 2 }
  let entryCount: Int
  let guestCount: Int
  var scratch: Int { entryCount + Self.channelSlotCount }
  var firstGuest: Int { scratch + 1 }
}

/// What a reactor lets its neighbour see, in a cache line of its own.
///
///     0    whether it has had requests since it last slept
///     4    requests that it has taken from its neighbour, modulo 2^32
struct RingDesk {
  static var byteCount: Int { 128 }
  private let busy: SharedWord<UInt32>
  private let count: SharedWord<UInt32>

  init(memory: SharedRegion) {
    busy = memory.word32(at: 0)
    count = memory.word32(at: 4)
  }

  var isBusy: Bool {
    get { busy.loadRelaxed() != 0 }
    nonmutating set { busy.storeRelaxed(newValue ? 1 : 0) }
  }

  var taken: UInt32 { count.loadAcquiring() }
  /// Counts one more; only its own reactor may.
  func addTaken() { count.storeReleasing(count.loadRelaxed() &+ 1) }
}

/// What a reactor knows of the one with which it shares large requests.
struct RingNeighbour {
  let index: Int
  let ring: CInt
  let desk: RingDesk
  let frames: SharedRegion
  /// The number that it gives to the first of our entries.
  let firstGuest: Int
}

/// Where reactors whose rings reach into each other's memory wait for one another at the end.
///
/// Each arrives at each gate once, in this order, also one that never began.
@usableFromInline
final class Parting: Sendable {
  private let count: Int
  private let left = Atomic<Int>(0)
  private let closed = Atomic<Int>(0)

  init(count: Int) { self.count = count }

  /// Says that a reactor takes no more requests, and asks nothing of its neighbour any more.
  @usableFromInline
  func leave() { left.add(1, ordering: .acquiringAndReleasing) }
  /// Says that a reactor's ring is closed, so that the kernel touches no memory on its behalf.
  @usableFromInline
  func close() { closed.add(1, ordering: .acquiringAndReleasing) }
  /// Says that a reactor never began.
  func miss() {
    leave()
    close()
  }
  @usableFromInline var haveAllLeft: Bool { left.load(ordering: .acquiring) >= count }
  @usableFromInline var haveAllClosed: Bool { closed.load(ordering: .acquiring) >= count }
  /// Lets others run for a moment.
  @usableFromInline
  func pause() { usleep(500) }
}
