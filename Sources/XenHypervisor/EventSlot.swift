// SPDX-License-Identifier: MIT

import CLinux
import Glibc
public import GuestMemory
public import Synchronization
import XenWire

/// One domain's event state, in memory that stays for the hypervisor's life.
///
/// A sender on another thread may hold a port record that was true an instant ago. Whatever has happened to the domain
/// since, following the record touches live memory and at worst raises one event too many.
@safe @usableFromInline
struct EventSlot: ~Copyable {
  // SAFETY: the pointers are set once and freed by deinit; every index is checked by the callers' port and CPU ranges.
  /// Ports that a record can name (the FIFO interface's 17 bits).
  @usableFromInline static let portCapacity = 131_072

  /// One packed record a port; pages of it that no port uses cost nothing.
  @usableFromInline let records: UnsafeMutablePointer<Atomic<UInt64>>
  /// The shared-info page, and the `vcpu_info`s behind it.
  @usableFromInline let sharedInfo: SharedRegion
  /// How the virtual CPUs are woken, by whatever thread.
  @usableFromInline let wakes: UnsafeMutablePointer<WakeState>
  /// Where the virtual CPUs' threads stand, each for its own eyes.
  @usableFromInline let cursors: UnsafeMutablePointer<DeliveryCursor>
  /// Whether events are delivered by the FIFO interface; set after `fifo`.
  @usableFromInline let usesFIFO = Atomic<Bool>(false)
  /// The FIFO interface's state, made when the slot first needs it; it stays as long as the slot.
  var fifo: UnsafeMutablePointer<FIFOEvents>?
  private let recordMemory: MappedMemory
  private let pageMapping: MappedMemory
  /// The memfd of both.
  let page: MemoryFile

  init() throws(SystemError) {
    let recordMemory = try MappedMemory(anonymousByteCount: Self.portCapacity * 8)
    let page = try MemoryFile(name: "shared-info", byteCount: SharedInfo.byteCount)
    let pageMapping = try page.map()
    sharedInfo = pageMapping.region
    // SAFETY: the memory is page-aligned, zeroed and as long as the records; a zero word is a valid atomic.
    unsafe records = recordMemory.region.withUnsafeBytes { bytes in
      unsafe bytes.bindMemory(to: Atomic<UInt64>.self).baseAddress.unsafelyUnwrapped
    }
    self.recordMemory = recordMemory
    self.page = page
    self.pageMapping = pageMapping
    unsafe wakes = .allocate(capacity: SharedInfo.virtualCPULimit)
    unsafe cursors = .allocate(capacity: SharedInfo.virtualCPULimit)
    for index in 0..<SharedInfo.virtualCPULimit {
      unsafe (wakes + index).initialize(to: WakeState())
      unsafe (cursors + index).initialize(to: DeliveryCursor())
    }
  }

  deinit {
    for index in 0..<SharedInfo.virtualCPULimit {
      if unsafe wakes[index].descriptor >= 0 { _ = close(unsafe wakes[index].descriptor) }
    }
    if let fifo = unsafe fifo {
      unsafe fifo.deinitialize(count: 1)
      unsafe fifo.deallocate()
    }
    unsafe wakes.deinitialize(count: SharedInfo.virtualCPULimit)
    unsafe wakes.deallocate()
    unsafe cursors.deallocate()
  }

  /// Makes the wake-up descriptor of a CPU that is to run; that of an earlier domain is used again.
  func bringUp(_ virtualCPU: Int) throws(SystemError) {
    guard unsafe wakes[virtualCPU].descriptor < 0 else { return }
    let descriptor = eventfd(0, CInt(EFD_CLOEXEC) | CInt(EFD_NONBLOCK))
    guard descriptor >= 0 else { throw SystemError("eventfd") }
    unsafe wakes[virtualCPU].descriptor = descriptor
  }

  /// Forgets what an earlier domain left.
  func clear() {
    sharedInfo.fill(0)
    for index in 0..<SharedInfo.virtualCPULimit {
      unsafe wakes[index].kicksSent.store(0, ordering: .relaxed)
      unsafe wakes[index].kicksSaved.store(0, ordering: .relaxed)
      let wasKicked = unsafe wakes[index].end()
      unsafe cursors[index].settle(
        wasKicked: wasKicked, descriptor: unsafe wakes[index].descriptor)
      unsafe cursors[index].restart()
    }
    usesFIFO.store(false, ordering: .sequentiallyConsistent)
    if let fifo = unsafe fifo { unsafe fifo.pointee.retire() }
  }

  /// Forgets what the CPUs had begun to take from FIFO queues.
  func forgetQueues() {
    for index in 0..<SharedInfo.virtualCPULimit {
      unsafe cursors[index].localHeads = InlineArray(repeating: 0)
      unsafe cursors[index].readyQueues = 0
    }
  }

  @inlinable
  func record(_ port: UInt32) -> PortRecord {
    PortRecord(word: unsafe records[Int(port)].load(ordering: .acquiring))
  }

  func setRecord(_ port: UInt32, _ record: PortRecord) {
    unsafe records[Int(port)].store(record.word, ordering: .releasing)
  }
}

// MARK: Delivery

extension EventSlot {
  /// Makes a port pending and tells its CPU, unless it was pending or is masked.
  @inlinable
  func post(_ port: UInt32, to virtualCPU: Int) {
    if usesFIFO.load(ordering: .acquiring) { return postFIFO(port) }
    guard port < UInt32(SharedInfo.portCount) else { return }
    let word = Int(port >> 6)
    let bit = UInt64(1) << UInt64(port & 63)
    let pending = sharedInfo.word64(at: SharedInfo.pendingOffset + word * 8)
    if pending.fetchOr(bit) & bit != 0 { return }
    if usesFIFO.load(ordering: .sequentiallyConsistent) {
      // The domain changed interfaces at this moment: whoever takes the bit back delivers the event.
      if pending.fetchAnd(~bit) & bit != 0 { postFIFO(port) }
      return
    }
    if sharedInfo.word64(at: SharedInfo.maskOffset + word * 8).loadSequential() & bit != 0 { return }
    select(word: word, of: virtualCPU)
  }

  func unmask(_ port: UInt32, virtualCPU: Int) {
    if usesFIFO.load(ordering: .acquiring) { unmaskFIFO(port) } else { unmaskTwoLevel(port, virtualCPU: virtualCPU) }
  }

  func mask(_ port: UInt32) {
    if usesFIFO.load(ordering: .acquiring) { maskFIFO(port) } else { maskTwoLevel(port) }
  }

  func clearPending(_ port: UInt32) {
    if usesFIFO.load(ordering: .acquiring) { clearPendingFIFO(port) } else { clearPendingTwoLevel(port) }
  }
}

// MARK: The two-level interface

extension EventSlot {

  /// Sets a word's bit in the CPU's selector and tells the CPU if that is news.
  @inlinable
  func select(word: Int, of virtualCPU: Int) {
    let bit = UInt64(1) << UInt64(word & 63)
    let info = SharedInfo.virtualCPUOffset(virtualCPU)
    if sharedInfo.word64(at: info + SharedInfo.pendingSelectorOffset).fetchOr(bit) & bit == 0 {
      markUpcallPending(virtualCPU)
    }
  }

  /// Says that the CPU has something to look at, and wakes it if it sleeps.
  @inlinable
  func markUpcallPending(_ virtualCPU: Int) {
    let byte = sharedInfo.word8(
      at: SharedInfo.virtualCPUOffset(virtualCPU) + SharedInfo.upcallPendingOffset)
    if byte.exchange(1) == 0 { unsafe wakes[virtualCPU].kick() }
  }

  /// Clears a port's mask and raises it again if it is pending.
  func unmaskTwoLevel(_ port: UInt32, virtualCPU: Int) {
    let word = Int(port >> 6)
    let bit = UInt64(1) << UInt64(port & 63)
    if sharedInfo.word64(at: SharedInfo.maskOffset + word * 8).fetchAnd(~bit) & bit == 0 { return }
    if sharedInfo.word64(at: SharedInfo.pendingOffset + word * 8).loadSequential() & bit != 0 {
      select(word: word, of: virtualCPU)
    }
  }

  func maskTwoLevel(_ port: UInt32) {
    sharedInfo.word64(at: SharedInfo.maskOffset + Int(port >> 6) * 8).fetchOr(1 << UInt64(port & 63))
  }

  /// Masks all ports, as a guest does before it opens any.
  func maskAllTwoLevel() {
    for word in 0..<SharedInfo.portCount / 64 {
      sharedInfo.word64(at: SharedInfo.maskOffset + word * 8).fetchOr(~0)
    }
  }

  func clearPendingTwoLevel(_ port: UInt32) { _ = takePendingTwoLevel(port) }

  /// Clears a port's pending bit; answers whether it was set.
  func takePendingTwoLevel(_ port: UInt32) -> Bool {
    guard port < UInt32(SharedInfo.portCount) else { return false }
    let bit: UInt64 = 1 << UInt64(port & 63)
    return sharedInfo.word64(at: SharedInfo.pendingOffset + Int(port >> 6) * 8).fetchAnd(~bit) & bit != 0
  }
}
