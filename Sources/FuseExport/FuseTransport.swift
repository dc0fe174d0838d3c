// SPDX-License-Identifier: MIT

public import GuestMemory

/// How requests reach a reactor and answers leave it; owned by the reactor's thread.
///
/// A **slot** is a number: one request in progress, its header and arguments, and the device buffer of the same number.
/// A slot that `nextRequest` handed out stays with the reactor until `answer`, `answerPayload` or `release`.
@usableFromInline
protocol FuseTransport: ~Copyable {
  /// Requests taken before the device is asked to move.
  static var batchRequests: Int { get }
  /// Whether it uses memory of other reactors' transports, so that they have to end together.
  static var reachesNeighbours: Bool { get }
  /// Takes a request that is there; does not wait.
  mutating func nextRequest() -> FuseReceipt
  /// The buffer of a slot that is a neighbour's.
  func guestBuffer(_ slot: Int) -> MemoryExtent
  /// The request's struct fuse_in_header.
  func header(_ slot: Int) -> SharedRegion
  /// The operation's own structure: 128 bytes, of which the operation says how many count.
  func arguments(_ slot: Int) -> SharedRegion
  /// Where the structure of a small answer is built; at least 128 bytes.
  func answerArea(_ slot: Int) -> SharedRegion
  /// Answers with a positive `errno` (0: success) and the first bytes of the answer area.
  mutating func answer(_ slot: Int, error: CInt, byteCount: Int)
  /// Answers with bytes of the slot's buffer.
  mutating func answerPayload(_ slot: Int, from offset: Int, byteCount: Int)
  /// Lets go of a request that has no answer.
  mutating func release(_ slot: Int)
  /// Sends what `answer` may have kept back, once that is worth a system call; a `wait` sends the rest.
  mutating func publishBatch()
  /// Sends everything that `answer` may have kept back.
  mutating func publish()
  /// Sleeps until a request, the device, or a stop; says which.
  ///
  /// `expectsOne`: the device has nothing under way, and the last requests came one by one.
  mutating func wait(expectsOne: Bool) -> WakeReason
  /// Sleeps until the device has something, for a caller that must not take requests now.
  mutating func waitForDevice()
}

/// What a look for a request gave.
@usableFromInline
enum FuseReceipt {
  /// A request, with that many bytes in its buffer beyond the operation's own structure.
  case request(slot: Int, payloadByteCount: Int)
  /// None there now.
  case none
  /// Every slot is in use.
  case saturated
  /// The file system is gone.
  case unmounted
}

/// Why a sleeping reactor woke.
@usableFromInline
struct WakeReason: OptionSet {
  @usableFromInline let rawValue: CInt
  @inlinable
  init(rawValue: CInt) { self.rawValue = rawValue }

  /// There may be a request, or the file system is gone.
  @inlinable static var request: WakeReason { WakeReason(rawValue: 1 << 0) }
  /// The device's wait descriptor is readable.
  @inlinable static var device: WakeReason { WakeReason(rawValue: 1 << 1) }
  /// Somebody wants the reactor to stop at once.
  @inlinable static var stop: WakeReason { WakeReason(rawValue: 1 << 2) }
}
