// SPDX-License-Identifier: MIT

import GuestMemory
import Synchronization
public import XenWire

/// The operations of the FIFO interface, as the hypervisor offers them.
extension EventChannels {
  /// How this domain is told of events.
  public var interface: EventInterface {
    unsafe slot.pointee.usesFIFO.load(ordering: .acquiring) ? .fifo : .twoLevel
  }

  /// Gives a virtual CPU its control block, and changes the domain to the FIFO interface (`EVTCHNOP_init_control`).
  ///
  /// What was pending stays pending and is told of when its event word comes.
  /// - Throws: `.noSuchEntry` for a CPU that does not exist; `.invalid` for a block that leaves its page, is not 8-byte
  ///   aligned or not in the domain's memory, and for a CPU that has one; `.noSpace` when the system refuses.
  public func initControl(frame: FrameNumber, offset: Int, virtualCPU: Int) throws(EventChannelError) {
    try locked { (state) throws(EventChannelError) in
      try check(virtualCPU, in: state)
      guard offset >= 0, offset <= PageGeometry.pageSize - FIFOLayout.controlByteCount, offset & 7 == 0,
        memory.page(frame) != nil
      else { throw .invalid }
      let fifo = try unsafe makeFIFO()
      guard unsafe fifo.pointee.control(of: virtualCPU) == nil else { throw .invalid }
      do throws(SystemError) {
        try unsafe fifo.pointee.setControl(
          Int(frame.rawValue), offset: offset, of: memory, virtualCPU: virtualCPU)
      } catch {
        throw .noSpace
      }
      guard unsafe !slot.pointee.usesFIFO.load(ordering: .acquiring) else { return }
      unsafe slot.pointee.usesFIFO.store(true, ordering: .sequentiallyConsistent)
      for port in 1..<min(state.domains[slotIndex].portEnd, UInt32(SharedInfo.portCount)) {
        if unsafe slot.pointee.takePendingTwoLevel(port) { unsafe slot.pointee.postFIFO(port) }
      }
    }
  }

  /// Gives the event array one more page; the guest has set `MASKED` in every word (`EVTCHNOP_expand_array`).
  /// - Throws: `.notSupported` before the FIFO interface is in use, `.noSpace` past 128 pages, `.invalid` for a page outside
  ///   the domain's memory.
  public func expandArray(frame: FrameNumber) throws(EventChannelError) {
    try locked { (_) throws(EventChannelError) in
      guard unsafe slot.pointee.usesFIFO.load(ordering: .acquiring), let fifo = unsafe slot.pointee.fifo else {
        throw .notSupported
      }
      let page = unsafe fifo.pointee.pageCount
      guard page < FIFOLayout.arrayPageLimit else { throw .noSpace }
      guard memory.page(frame) != nil else { throw .invalid }
      do throws(SystemError) {
        try unsafe fifo.pointee.addArrayPage(Int(frame.rawValue), of: memory, faults: faults)
      } catch {
        throw .noSpace
      }
      let first = UInt32(page * FIFOLayout.wordsPerPage)
      unsafe slot.pointee.raiseWordless(first..<(first + UInt32(FIFOLayout.wordsPerPage)))
    }
  }

  /// Gives a port its priority, 0 the most urgent (`EVTCHNOP_set_priority`); takes effect with the next event.
  /// - Throws: `.invalid` for a port out of range or a priority above 15, `.access` for a closed port, `.notImplemented`
  ///   with the two-level interface.
  public func setPriority(of port: EventPort, to priority: Int) throws(EventChannelError) {
    try locked { (state) throws(EventChannelError) in
      guard port.rawValue > 0, Int(port.rawValue) < portLimit(in: state) else { throw .invalid }
      var record = unsafe slot.pointee.record(port.rawValue)
      guard record.state != .closed else { throw .access }
      guard unsafe slot.pointee.usesFIFO.load(ordering: .acquiring) else { throw .notImplemented }
      guard (0..<FIFOLayout.priorityCount).contains(priority) else { throw .invalid }
      record.priority = priority
      publish(record, at: port.rawValue)
    }
  }

  /// The slot's FIFO state, made when there is none; runs under the fabric's lock.
  private func makeFIFO() throws(EventChannelError) -> UnsafeMutablePointer<FIFOEvents> {
    if let fifo = unsafe slot.pointee.fifo { return unsafe fifo }
    let fifo = UnsafeMutablePointer<FIFOEvents>.allocate(capacity: 1)
    do throws(SystemError) {
      unsafe fifo.initialize(to: try FIFOEvents())
    } catch {
      unsafe fifo.deallocate()
      throw .noSpace
    }
    unsafe slot.pointee.fifo = fifo
    return unsafe fifo
  }

  /// Goes back to the two-level interface, when every port is closed.
  func leaveFIFO() {
    let hasLeft = fabric.topology.withLock { state -> Bool in
      guard state.domains[slotIndex].openPortCount == 0 else { return false }
      guard unsafe slot.pointee.usesFIFO.exchange(false, ordering: .sequentiallyConsistent) else { return false }
      if let fifo = unsafe slot.pointee.fifo { unsafe fifo.pointee.retire() }
      unsafe slot.pointee.forgetQueues()
      return true
    }
    guard hasLeft else { return }
    let pages = eventPages.withLock { pages in
      defer { pages = nil }
      return pages ?? []
    }
    for page in pages { memory.free(page) }
  }
}

/// The guest's part of the FIFO interface: what a guest kernel does at boot, and when it opens a port.
extension EventChannels {
  /// Changes the domain to the FIFO interface, with pages of its own memory.
  ///
  /// From then on every port that is opened has an event word and is unmasked, unless ``startPortsMasked()`` rules; so are
  /// ports that are open already.
  /// - Throws: `.exists` when it is in use, `.noSpace` when the domain's memory has no page left.
  public func useFIFO() throws(EventChannelError) {
    guard interface == .twoLevel else { throw .exists }
    let open = fabric.topology.withLock { state -> [UInt32] in
      (0..<state.domains[slotIndex].portEnd).filter { unsafe slot.pointee.record($0).state != .closed }
    }
    let count = fabric.topology.withLock { $0.domains[slotIndex].virtualCPUCount }
    // 32 CPUs a page, 128 bytes for each block: no two CPUs share a cache line.
    let perPage = 32
    eventPages.withLock { $0 = [] }
    for first in stride(from: 0, to: count, by: perPage) {
      let page = try takeEventPage()
      eventPages.withLock { $0?.append(page) }
      for cpu in first..<min(first + perPage, count) {
        let offset = (cpu - first) * (PageGeometry.pageSize / perPage)
        try initControl(frame: page.firstFrame, offset: offset, virtualCPU: cpu)
      }
    }
    for port in open { try adopt(EventPort(rawValue: port)) }
  }

  /// Makes sure that a new port has an event word, and unmasks it; nothing with the two-level interface.
  func adopt(_ port: EventPort) throws(EventChannelError) {
    let isOurs = try eventPages.withLock { (pages: inout [GuestPages]?) throws(EventChannelError) -> Bool in
      guard pages != nil else { return false }
      while unsafe slot.pointee.fifoWord(port.rawValue) == nil {
        let page = try takeEventPage()
        pages?.append(page)
        for word in 0..<FIFOLayout.wordsPerPage { page.region.store(FIFOLayout.masked, at: word * 4) }
        try expandArray(frame: page.firstFrame)
      }
      return true
    }
    if isOurs, !startsPortsMasked.load(ordering: .acquiring) { unsafe slot.pointee.unmaskFIFO(port.rawValue) }
  }

  private func takeEventPage() throws(EventChannelError) -> GuestPages {
    do throws(GrantStatus) { return try memory.allocate(1) } catch { throw .noSpace }
  }
}
