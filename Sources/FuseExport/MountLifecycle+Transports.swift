// SPDX-License-Identifier: MIT

public import BlockIO
import CFuse3
import CLinux
import Glibc
public import GuestMemory
import Synchronization

/// How the reactors of a mount are connected to the kernel.
extension MountLifecycle {
  /// Whether requests travel over io_uring.
  @usableFromInline
  var isOverRing: Bool { rings.withLock { $0 != nil } }

  /// The buffers that the queue of reactor `index` is asked for.
  @usableFromInline
  func bufferDemand(for index: Int, sectorSize: Int) -> BufferDemand {
    guard let rings = rings.withLock({ $0 }) else {
      return options.bufferDemand(slotCount: max(options.depth, 1), sectorSize: sectorSize, neighbour: nil)
    }
    return options.bufferDemand(
      slotCount: rings.slots(of: index).scratch, sectorSize: sectorSize, neighbour: rings.neighbour(of: index)?.index)
  }

  private func kernelQueues(of index: Int) -> KernelQueues {
    KernelQueues(
      count: RingSupport.possibleCPUCount, reactorCount: reactorCount, reactor: index, slotCount: max(options.depth, 1),
      payloadCapacity: PageGeometry.pages(for: options.maximumTransfer) * PageGeometry.pageSize)
  }

  /// The CPU for reactor `index`: the one asked for; over io_uring with a reactor for each CPU, the one whose requests it
  /// gets, so that none crosses CPUs.
  func cpu(of index: Int) -> Int? {
    if !options.cpus.isEmpty { return options.cpus[index % options.cpus.count] }
    return isOverRing && reactorCount == RingSupport.possibleCPUCount ? index : nil
  }

  /// A transport over /dev/fuse for reactor `index`.
  @usableFromInline
  func makeChannel(
    for index: Int, deviceDescriptor: CInt, buffers: [SharedRegion]
  ) throws(FuseError) -> FuseChannel {
    let descriptor = OwnedDescriptor(try session.makeChannelDescriptor(isFirst: index == 0))
    do throws(SystemError) {
      let seat = try makeSeat(for: index, deviceDescriptor: deviceDescriptor)
      return try FuseChannel(
        descriptor: descriptor, stopDescriptor: stopEvent, deviceDescriptor: deviceDescriptor, buffers: buffers,
        counters: counters(of: index), seat: seat)
    } catch {
      throw .system(call: "\(error.call)", code: error.code)
    }
  }

  /// A seat at the bell for the calling reactor, where it can have a descriptor to sleep in.
  private func makeSeat(for index: Int, deviceDescriptor: CInt) throws(SystemError) -> DoorbellSeat {
    guard let bell = doorbell.withLock({ $0 }), let clone = session.makeClone(flags: 0) else {
      return .none(bellMemory)
    }
    return try bell.seat(index, deviceDescriptor: deviceDescriptor, sleepingIn: OwnedDescriptor(clone))
  }

  /// A transport over io_uring for reactor `index`; for the thread that will use it.
  @usableFromInline
  func makeRing(for index: Int, deviceDescriptor: CInt, buffers: [SharedRegion]) throws(FuseError) -> FuseRing {
    let queues = kernelQueues(of: index)
    guard let set = rings.withLock({ $0 }), let connection = set.take(index) else {
      preconditionFailure("a reactor's ring is taken once")
    }
    let channel = try makeChannel(
      for: index, deviceDescriptor: deviceDescriptor, buffers: Array(buffers.suffix(RingSlots.channelSlotCount)))
    do throws(SystemError) {
      var transport = try FuseRing(
        ring: connection, of: set, at: index, queues: queues, channel: channel,
        takesChannel: index == 0 || queues.queueCount == 0, stopDescriptor: stopEvent,
        deviceDescriptor: deviceDescriptor, buffers: Array(buffers.prefix(queues.entryCount)),
        counters: counters(of: index), homeCPU: options.cpus.isEmpty ? cpu(of: index) : nil)
      let failure = transport.registerEntries()
      // Refused once, the kernel sends everything over /dev/fuse.
      guard failure == 0 || options.transport == .automatic else {
        throw SystemError("FUSE_IO_URING_CMD_REGISTER", code: failure)
      }
      return transport
    } catch {
      throw .ringUnavailable(reason: "\(error)")
    }
  }

  /// Makes the rings and tells the kernel of them, where it offers that; otherwise says why not, if they were asked for,
  /// and is quiet if they were only welcome.
  ///
  /// The kernel holds back every request from its first answer until all of its queues have an entry. So what can fail
  /// is done before that answer.
  func agreeOnRings() throws(FuseError) {
    guard options.transport != .device else { return }
    let isDemanded = options.transport == .ring
    if let objection = RingSupport.objection {
      if isDemanded { throw .ringUnavailable(reason: objection) }
      return
    }
    let made: RingSet
    do throws(SystemError) {
      made = try RingSet(queues: (0..<reactorCount).map(kernelQueues), descriptor: session.descriptor)
    } catch {
      if isDemanded { throw .ringUnavailable(reason: "\(error)") }
      return
    }
    let negotiation = FuseNegotiation(maximumTransfer: options.maximumTransfer, wantsRing: true)
    let flags = try session.answerInitialisation(negotiation)
    if flags & FuseInitFlags.overRing != 0 {
      rings.withLock { $0 = made }
    } else if isDemanded {
      throw .ringUnavailable(reason: "the kernel did not offer it")
    }
  }
}
