// SPDX-License-Identifier: MIT

import CLinux
import Glibc
import GuestMemory
import Synchronization

/// The hypervisor's side of one domain's FIFO event channels; lasting memory, like the slot that it belongs to.
///
/// ```
///   window   | array page 0 | 1 | ... | 127 | control page of CPU 0 | 1 | ... | 255 |
/// ```
/// The window shows the guest's pages where it gave some, and idle pages elsewhere: a late sender writes where nobody looks.
///
/// **Invariants.** A page is counted in `arrayPageCount`, and a control block noted, only after it is in place. Tails belong to
/// who holds the queue's lock; of two queues the one with the lower number is locked first.
struct FIFOEvents: ~Copyable {
  private static let controlPages = FIFOLayout.arrayPageLimit << PageGeometry.pageShift
  private static let windowPageCount = FIFOLayout.arrayPageLimit + SharedInfo.virtualCPULimit
  private static let queueCount = SharedInfo.virtualCPULimit * FIFOLayout.priorityCount

  // Offsets in the private tables: locks and tails, control blocks, each port's last queue, ports without a word.
  private static let controls = queueCount * 8
  private static let lastQueues = controls + SharedInfo.virtualCPULimit * 4
  private static let wordless = lastQueues + FIFOLayout.portCount * 2
  private static let tablesByteCount = wordless + FIFOLayout.portCount / 8

  private let idle: MemoryFile
  private let window: MappedMemory
  private let tableMemory: MappedMemory
  private let tables: SharedRegion
  private let pages: SharedRegion
  private let arrayPageCount = Atomic<Int>(0)

  init() throws(SystemError) {
    let idle = try MemoryFile(
      name: "idle-events", byteCount: Self.windowPageCount << PageGeometry.pageShift)
    let window = try idle.map()
    let tableMemory = try MappedMemory(anonymousByteCount: Self.tablesByteCount)
    pages = window.region
    tables = tableMemory.region
    self.idle = idle
    self.window = window
    self.tableMemory = tableMemory
  }

  // MARK: The guest's pages

  /// The number of array pages that the guest gave.
  var pageCount: Int { arrayPageCount.load(ordering: .sequentiallyConsistent) }

  /// Takes one more page of event words.
  func addArrayPage(_ frame: Int, of memory: DomainMemory, faults: PlantedFaults) throws(SystemError) {
    let page = pageCount
    if faults.has(.arrayPageAnnouncedEarly) {
      arrayPageCount.store(page + 1, ordering: .sequentiallyConsistent)
      faults.reach(.expanding)
    }
    try place(frame, of: memory, at: page)
    if !faults.has(.arrayPageAnnouncedEarly) { faults.reach(.expanding) }
    arrayPageCount.store(page + 1, ordering: .sequentiallyConsistent)
  }

  /// Takes a CPU's control block.
  func setControl(_ frame: Int, offset: Int, of memory: DomainMemory, virtualCPU: Int) throws(SystemError) {
    try place(frame, of: memory, at: FIFOLayout.arrayPageLimit + virtualCPU)
    tables.word32(at: Self.controls + virtualCPU * 4).storeReleasing(UInt32(offset) + 1)
  }

  private func place(_ frame: Int, of memory: DomainMemory, at page: Int) throws(SystemError) {
    try window.place(
      memory.file, fileOffset: frame << PageGeometry.pageShift, at: page << PageGeometry.pageShift,
      byteCount: PageGeometry.pageSize, writable: true)
  }

  /// Lets go of the guest's pages and forgets what was queued.
  func retire() {
    arrayPageCount.store(0, ordering: .sequentiallyConsistent)
    for cpu in 0..<SharedInfo.virtualCPULimit { tables.word32(at: Self.controls + cpu * 4).storeReleasing(0) }
    do throws(SystemError) {
      try window.place(idle, fileOffset: 0, at: 0, byteCount: window.byteCount, writable: true)
    } catch {
      preconditionFailure("a mapping that exists cannot be replaced: \(error)")
    }
    for queue in 0..<Self.queueCount {
      lock(queue)
      setTail(0, of: queue)
      unlock(queue)
    }
    tables.fill(0, at: Self.lastQueues)
  }

  /// The control block of a CPU; nothing before the guest gave one.
  func control(of virtualCPU: Int) -> SharedRegion? {
    let offset = tables.word32(at: Self.controls + virtualCPU * 4).loadAcquiring()
    guard offset > 0 else { return nil }
    return pages.slice(
      at: Self.controlPages + virtualCPU << PageGeometry.pageShift + Int(offset) - 1,
      byteCount: FIFOLayout.controlByteCount)
  }

  /// The event word of a port; nothing while the array does not reach so far.
  func word(_ port: UInt32) -> SharedWord<UInt32>? {
    guard Int(port) < pageCount * FIFOLayout.wordsPerPage else { return nil }
    return pages.word32(at: Int(port) * 4)
  }

  // MARK: Ports without a word

  /// Remembers that a port was signalled before it had a word.
  func rememberWordless(_ port: UInt32) { wordlessWord(port).fetchOr(1 << UInt64(port & 63)) }

  /// Whether that was remembered; forgets it.
  func takeWordless(_ port: UInt32) -> Bool {
    let bit: UInt64 = 1 << UInt64(port & 63)
    return wordlessWord(port).fetchAnd(~bit) & bit != 0
  }

  private func wordlessWord(_ port: UInt32) -> SharedWord<UInt64> {
    tables.word64(at: Self.wordless + Int(port >> 6) * 8)
  }

  // MARK: Queues

  static func queue(virtualCPU: Int, priority: Int) -> Int { virtualCPU * FIFOLayout.priorityCount + priority }

  /// The queue that a port was last in, or is in.
  func lastQueue(of port: UInt32) -> Int {
    Int(tables.word16(at: Self.lastQueues + Int(port) * 2).loadAcquiring())
  }
  func setLastQueue(_ queue: Int, of port: UInt32) {
    tables.word16(at: Self.lastQueues + Int(port) * 2).storeReleasing(UInt16(queue))
  }
  func tail(of queue: Int) -> UInt32 { tables.word32(at: queue * 8 + 4).loadRelaxed() }
  func setTail(_ port: UInt32, of queue: Int) { tables.word32(at: queue * 8 + 4).storeRelaxed(port) }

  /// Locks a queue as Xen does: a few instructions long, so a waiter spins, and yields if the holder was preempted.
  func lock(_ queue: Int) {
    let word = tables.word32(at: queue * 8)
    var spins = 0
    while word.loadRelaxed() != 0 || !word.compareExchange(expected: 0, desired: 1).exchanged {
      spins += 1
      if spins & 63 == 0 { sched_yield() } else { pv_cpu_relax() }
    }
  }
  func unlock(_ queue: Int) { tables.word32(at: queue * 8).storeReleasing(0) }

  func lock(_ one: Int, _ other: Int) {
    lock(min(one, other))
    if one != other { lock(max(one, other)) }
  }
  func unlock(_ one: Int, _ other: Int) {
    unlock(one)
    if one != other { unlock(other) }
  }
}
