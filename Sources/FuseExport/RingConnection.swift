// SPDX-License-Identifier: MIT

import CLinux
import CUring
import Glibc
import GuestMemory

/// An io_uring over a FUSE connection: made by one thread, used by the one that enables it, and by no other after that.
@usableFromInline @safe
struct RingConnection: ~Copyable, @unchecked Sendable {
  // SAFETY: `ring` is a live ring of CUring until deinit; the memory that entries name is kept by whoever owns this value
  // for as long, and the kernel does not touch it once the ring is closed.
  @usableFromInline let ring: OpaquePointer

  /// Takes over a ring that is still disabled.
  init(unsafeAdopting ring: OpaquePointer) { unsafe self.ring = ring }

  // Inlinable, as in all values that a reactor owns: where a reactor ends is compiled in the client's module.
  @inlinable
  deinit { unsafe closeRing(ring) }

  /// Makes the calling thread the ring's.
  func enable() throws(SystemError) {
    let result = unsafe pv_fuse_ring_enable(ring)
    guard result == 0 else { throw SystemError("io_uring_register", code: -result) }
  }

  /// Prepares an entry's registration.
  func register(_ slot: Int, queue: UInt16, _ frame: SharedRegion, _ buffer: SharedRegion) {
    // SAFETY: frame and buffer stay mapped until the ring is closed, see above.
    unsafe frame.withUnsafeBytes { frame in
      unsafe buffer.withUnsafeBytes { buffer in
        unsafe pv_fuse_ring_register(ring, queue, UInt64(slot), frame.baseAddress, buffer.baseAddress, buffer.count)
      }
    }
  }

  /// Prepares an answer, and the wish for the next request.
  func commit(_ tag: UInt64, queue: UInt16, number: UInt64) {
    unsafe pv_fuse_ring_commit(ring, queue, tag, number)
  }

  /// Prepares a completion for when a descriptor is readable.
  func watch(_ descriptor: CInt, as tag: UInt64) { unsafe pv_fuse_ring_watch(ring, tag, descriptor) }

  /// Prepares a completion in another ring; `refusal` is the tag of one here, should that fail.
  func tell(_ other: CInt, _ tag: UInt64, value: UInt32, refusal: UInt64) {
    unsafe pv_fuse_ring_tell(ring, other, tag, value, refusal)
  }

  /// Hands over what was prepared and collects completions; false when it has to be done again.
  func enter(waits: Bool) -> Bool {
    let result = unsafe pv_fuse_ring_enter(ring, waits)
    precondition(
      result == 0 || result == -EINTR || result == -EAGAIN || result == -EBUSY || result == -ENOMEM,
      "io_uring_enter failed: the ring was used by more than one thread")
    return result == 0
  }

  /// A look at the ring that owns nothing; for as long as the ring lives.
  var view: View { unsafe View(ring: ring) }

  @safe struct View {
    // SAFETY: used within the life of the connection it comes from.
    let ring: OpaquePointer
    var hasNews: Bool { unsafe pv_fuse_ring_has_task_work(ring) || pv_fuse_ring_has_completion(ring) }
  }

  var preparedCount: Int { Int(unsafe pv_fuse_ring_prepared(ring)) }
  var hasTaskWork: Bool { unsafe pv_fuse_ring_has_task_work(ring) }

  /// Takes a completion.
  func takeCompletion() -> (tag: UInt64, value: Int32)? {
    var result = pv_ring_result()
    guard unsafe pv_fuse_ring_take(ring, &result) else { return nil }
    return (result.tag, result.value)
  }

  /// The `errno` of the first registration that was refused, 0 if none was; takes no completion.
  ///
  /// Requests may be among them already: the kernel sends them once each of its queues has one entry.
  var firstFailure: CInt { unsafe pv_fuse_ring_first_failure(ring) }
}

@usableFromInline
func closeRing(_ ring: OpaquePointer) { unsafe pv_fuse_ring_destroy(ring) }

/// Which of the kernel's queues a reactor serves: it has one for each CPU that the machine could ever have, and sends each
/// request to that of the CPU which asks.
@usableFromInline
struct KernelQueues: Equatable, Sendable {
  /// The kernel's queues.
  let count: Int
  /// Reactors that share them.
  let reactorCount: Int
  /// This reactor.
  let reactor: Int
  /// Requests that each queue can hold at once.
  let depth: Int
  /// Bytes in each request's buffer.
  let payloadCapacity: Int

  init(count: Int, reactorCount: Int, reactor: Int, slotCount: Int, payloadCapacity: Int) {
    self.count = count
    self.reactorCount = reactorCount
    self.reactor = reactor
    self.payloadCapacity = payloadCapacity
    let mostQueues = (count + reactorCount - 1) / reactorCount
    depth = max(1, slotCount / mostQueues)
  }

  /// Queues `reactor`, `reactor + reactorCount` and so on are this reactor's.
  var queueCount: Int { reactor < count ? (count - reactor - 1) / reactorCount + 1 : 0 }
  var entryCount: Int { queueCount * depth }
  func queue(ofEntry entry: Int) -> UInt16 { UInt16(reactor + entry / depth * reactorCount) }
}

/// Whether this machine offers fuse-over-io_uring.
enum RingSupport {
  static let switchPath = "/sys/module/fuse/parameters/enable_uring"

  /// Why it does not, in words that end a sentence; nil when it does, as far as can be told before a mount.
  static var objection: String? {
    let value = FileText.contents(at: switchPath)
    if value.isEmpty { return "this kernel does not have it (Linux 6.14 does); use --fuse-transport auto or dev" }
    if value.hasPrefix("Y") || value.hasPrefix("1") { return nil }
    return "it is switched off; switch it on with: echo Y | sudo tee \(switchPath)"
  }

  /// The CPUs that the machine could ever have, for each of which the kernel wants a queue.
  static var possibleCPUCount: Int {
    count(ofList: FileText.contents(at: "/sys/devices/system/cpu/possible")) ?? max(1, Int(pv_cpu_count()))
  }

  /// The CPUs in a list such as `0-3,8`; nil when it is none.
  static func count(ofList text: String) -> Int? {
    var count = 0
    for range in text.split(whereSeparator: { $0 == "," || $0.isWhitespace }) {
      let ends = range.split(separator: "-").map { Int($0) }
      guard let first = ends.first ?? nil, let last = ends.last ?? nil, first <= last else { return nil }
      count += last - first + 1
    }
    return count > 0 ? count : nil
  }
}
