// SPDX-License-Identifier: MIT

import BlockBack
import BlockIO
import Glibc
import PVMachine
import Synchronization
import XenHypervisor
import XenPlatform
import XenWire

/// The thread of one queue of a guest's disk: serves the ring, and sleeps until the guest, the image or the control plane
/// wakes it.
final class QueueThread<Platform: HostPlatform, Image: BlockQueue & ~Copyable>: @unchecked Sendable {
  typealias Queue = BackQueue<Platform, Image>

  let mailbox = QueueMailbox<Queue>()
  // SAFETY: set before the thread starts, taken by the thread at once, not touched by anybody else.
  private var handOver: Queue?
  private let platform: Platform
  private let port: EventPort
  private let notes: QueueNotes
  private let resumed = Atomic<Int>(0)
  private let hasStarted = Atomic<Bool>(false)
  private let isStopping = Atomic<Bool>(false)
  private let finished = DispatchGate()

  init(queue: consuming Queue, platform: Platform, port: EventPort, notes: QueueNotes) {
    handOver = consume queue
    self.platform = platform
    self.port = port
    self.notes = notes
  }

  /// Requests that a former process had taken and not answered.
  var resumedCount: Int { resumed.load(ordering: .relaxed) }

  /// Starts to serve.
  func start(name: String) {
    hasStarted.store(true, ordering: .relaxed)
    SystemThread.start(name: name) { self.run() }
  }

  /// Ends the thread, and waits until its queue has answered what it had taken and let go of every page and port.
  func stop() {
    guard hasStarted.load(ordering: .relaxed) else { return handOver = nil }
    isStopping.store(true, ordering: .releasing)
    mailbox.post { $0.drain() }
    finished.wait()
  }

  private func run() {
    guard var queue = handOver.take() else { return }
    resumed.store(queue.takeUp(), ordering: .relaxed)
    serve(&queue)
    _ = consume queue
    notes.discard()
    finished.open()
  }

  private func serve(_ queue: inout Queue) {
    var passes = 0
    while !isStopping.load(ordering: .relaxed) || queue.inFlight > 0 {
      if mailbox.hasWork { mailbox.run(on: &queue) }
      queue.advance()
      passes &+= 1
      if passes & 255 == 0 { queue.housekeep() }
      guard queue.prepareToWait() == .maySleep else { continue }
      if isStopping.load(ordering: .relaxed), queue.inFlight == 0 { break }
      if !sleep(queue.waitDescriptor) { queue.housekeep() }
      platform.takeEvents(of: port)
    }
  }

  /// Sleeps for a second at most, so that mappings that nobody uses are let go of in time; false when nothing came.
  private func sleep(_ image: CInt) -> Bool {
    var waits: [3 of pollfd] = [
      pollfd(fd: platform.waitDescriptor(of: port), events: Int16(POLLIN), revents: 0),
      pollfd(fd: mailbox.descriptor, events: Int16(POLLIN), revents: 0),
      pollfd(fd: image, events: Int16(POLLIN), revents: 0),
    ]
    var span = waits.mutableSpan
    // SAFETY: the address and the count are those of the array.
    return unsafe span.withUnsafeMutableBufferPointer { unsafe poll($0.baseAddress, 3, 1000) } != 0
  }
}
