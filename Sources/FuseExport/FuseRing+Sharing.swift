// SPDX-License-Identifier: MIT

public import GuestMemory

/// Tags of completions that are requests.
///
///     0 ..< 2^32       the slot's number: a request from the kernel, or, if the value says so, from the neighbour
///     2^32 + number    the neighbour could not be told of the request in that slot
enum Sharing {
  static let slotMask: UInt64 = 0xFFFF_FFFF
  static let refused: UInt64 = 1 << 32
  static let end: UInt64 = 2 << 32
  static let fromNeighbour: Int32 = 1
  /// Bytes of a request for which waking the neighbour pays.
  static let byteCount = 48 << 10
}

/// Large requests that the neighbour serves.
///
/// All requests of one CPU come to one reactor. What a large one costs is copying, so while several of them wait, a reactor gives
/// one to its neighbour, if that sleeps; told by a message from ring to ring, it serves the request in the very memory that it came to.
/// An entry belongs to the ring that committed it last, and the kernel fills that first. So the neighbour gets the entry's next
/// requests too, as long as they are large; a small one it sends home, where it is served and committed, and its entry with it.
///
///     reactor                                       neighbour
///     two large requests wait
///     "serve what is in entry 5"   --- message -->  reads, commits: another request comes in entry 5
///     serves the other one                          a large one: serves it
///                                                   a small one
///     serves it                    <-- message ---  "serve what is in entry 5"
extension FuseRing {
  @usableFromInline
  func guestBuffer(_ slot: Int) -> MemoryExtent {
    let frame = frame(slot)
    return MemoryExtent(
      address: UInt(frame.load(UInt64.self, at: RingFrame.bufferAddress)),
      byteCount: Int(frame.load(UInt32.self, at: RingFrame.bufferByteCount)))
  }

  /// The memory of an entry.
  func buffer(_ slot: Int) -> SharedRegion {
    guard slot >= firstGuest else { return buffers[slot] }
    guard let region = guestBuffer(slot).region else { preconditionFailure("an entry without a buffer") }
    return region
  }

  /// A request that has come: to be served here, or nil if it is the neighbour's.
  mutating func welcome(_ slot: Int, isFromNeighbour: Bool) -> FuseReceipt? {
    let isLarge = movedByteCount(slot) >= Sharing.byteCount
    if !isLarge { pace.taken &+= 1 }
    if isFromNeighbour {
      desk.addTaken()
    } else if isLarge ? mayGive : slot >= firstGuest {
      give(slot)
      return nil
    }
    return accept(slot)
  }

  /// The bytes that a request moves.
  private func movedByteCount(_ slot: Int) -> Int {
    let frame = frame(slot)
    let isRead = frame.load(UInt32.self, at: FuseHeader.opcode) == FuseOpcode.read
    return Int(
      isRead
        ? frame.load(UInt32.self, at: RingFrame.arguments + 16)
        : frame.load(UInt32.self, at: RingFrame.payloadByteCount))
  }

  /// Whether there is more to do here, and the neighbour has nothing to do.
  private var mayGive: Bool {
    guard let neighbour, ring.view.hasNews, !neighbour.desk.isBusy else { return false }
    return given == neighbour.desk.taken
  }

  /// Tells the neighbour of a request, in its own number for the slot.
  private mutating func give(_ slot: Int) {
    guard let neighbour else { preconditionFailure("a request of a neighbour that is not there") }
    given &+= 1
    counters.add(to: .shared)
    let number = slot >= firstGuest ? slot &- firstGuest : slot &+ neighbour.firstGuest
    ring.tell(
      neighbour.ring, UInt64(number), value: UInt32(Sharing.fromNeighbour), refusal: Sharing.refused | UInt64(slot))
    enter(waits: false)
  }
}
