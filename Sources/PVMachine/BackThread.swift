// SPDX-License-Identifier: MIT

import BlockBack
import BlockIO
import CLinux
import Glibc
import GuestMemory
import SharedRing
import Synchronization
import XenHypervisor
import XenWire

/// The thread of a backend queue in `threads` placement: serves the ring, looks for a while, sleeps until an event, the
/// image, or the control plane wakes it (blkback's `xen_blkif_schedule`).
final class BackThread<Image: BlockQueue & ~Copyable>: @unchecked Sendable {
  typealias Queue = BackQueue<EmulatedPlatform, Image>

  let mailbox = QueueMailbox<Queue>()
  private let cpu: VirtualCPU
  private let isStopping = Atomic<Bool>(false)
  private let finished = DispatchGate()
  // SAFETY: set before the thread starts, taken by the thread at once, not touched by anybody else.
  private var handOver: Queue?
  private let spinNanoseconds: UInt64
  private let isPolling: Bool
  private let channels: EventChannels

  init(
    queue: consuming Queue, cpu: VirtualCPU, channels: EventChannels, spinNanoseconds: UInt64, isPolling: Bool = false
  ) {
    self.channels = channels
    self.isPolling = isPolling
    handOver = consume queue
    self.cpu = cpu
    self.spinNanoseconds = spinNanoseconds
  }

  /// Starts to serve.
  func start(name: String) { SystemThread.start(name: name) { self.run() } }

  /// Ends the thread and waits until its queue has let go of everything.
  func stop() {
    isStopping.store(true, ordering: .releasing)
    mailbox.post { _ in }
    finished.wait()
  }

  private func run() {
    guard var queue = handOver.take() else { return }
    serve(&queue)
    _ = consume queue
    finished.open()
  }

  private func serve(_ queue: inout Queue) {
    var spin = AdaptiveSpin(most: spinNanoseconds)
    var passes = 0
    let cpu = self.cpu
    let mailbox = self.mailbox
    var gate = EventGate(port: queue.port, channels: channels, isOpen: queue.faults.has(.stormsAreFree))
    while !isStopping.load(ordering: .relaxed) || queue.inFlight > 0 {
      if mailbox.hasWork { mailbox.run(on: &queue) }
      if cpu.hasPendingUpcall { gate.take(from: cpu) }
      queue.advance()
      gate.settle(requestsTaken: queue.requestsTaken)
      passes &+= 1
      if passes & 255 == 0 { queue.housekeep() }
      if isPolling {
        guard queue.lookForWork() == .maySleep else { continue }
        let point = queue.pollPoint
        if spin.wait(until: { point?.hasMoved == true || mailbox.hasWork }) { continue }
      }
      guard queue.prepareToWait() == .maySleep else { continue }
      // The letter that announced the end may have been read in this very pass.
      if isStopping.load(ordering: .relaxed), queue.inFlight == 0 { break }
      if !isPolling, spin.wait(until: { cpu.hasPendingUpcall || mailbox.hasWork }) { continue }
      guard cpu.prepareToSleep() else { continue }
      sleep(queue.waitDescriptor, milliseconds: gate.milliseconds)
      cpu.didWake()
    }
  }

  private func sleep(_ image: CInt, milliseconds: CInt) {
    var waits = [
      pollfd(fd: cpu.wakeDescriptor, events: Int16(POLLIN), revents: 0),
      pollfd(fd: mailbox.descriptor, events: Int16(POLLIN), revents: 0),
      pollfd(fd: image, events: Int16(POLLIN), revents: 0),
    ]
    _ = unsafe poll(&waits, 3, milliseconds)
  }
}

/// A gate that opens once.
package final class DispatchGate: Sendable {
  private let word: SharedWordOwner

  package init() { word = SharedWordOwner() }

  package func open() {
    word.word.storeReleasing(1)
    _ = unsafe pv_futex_wake(UnsafeRawPointer(bitPattern: word.address), .max)
  }

  package func wait() {
    while word.word.loadAcquiring() == 0 {
      _ = unsafe pv_futex_wait(UnsafeRawPointer(bitPattern: word.address), 0, nil)
    }
  }
}

/// A futex word with an address of its own.
private final class SharedWordOwner: Sendable {
  private let memory: MappedMemory

  init() {
    do throws(SystemError) { memory = try MappedMemory(anonymousByteCount: PageGeometry.pageSize) } catch {
      preconditionFailure("no memory for a gate: \(error)")
    }
  }

  var word: SharedWord<UInt32> { memory.region.word32(at: 0) }
  var address: UInt { memory.region.address }
}
