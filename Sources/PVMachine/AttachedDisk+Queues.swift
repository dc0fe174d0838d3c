// SPDX-License-Identifier: MIT

import BlockBack
import BlockFront
public import BlockIO
import GuestMemory
import SharedRing
import Synchronization
import XenBus
import XenHypervisor
import XenWire

extension AttachedDisk {
  /// Makes both ends of a queue: the frontend's for the caller, the backend's beside it or on a thread of its own.
  public func makeQueue(_ index: Int, buffers: BufferDemand) throws(BlockError) -> Queue {
    let mailbox = QueueMailbox<Queue>()
    control.withLock { $0.mailboxes[index] = mailbox }
    do throws(BlockError) {
      let parts = try makeParts(queue: index, link: index)
      do throws(BlockError) {
        var front = try makeFront(index, parts.connection, buffers)
        if let neighbour = buffers.neighbour { share(index, with: neighbour, &front) }
        let isInline = parts.back != nil
        let second = isInline ? parts.imageDescriptor : machine.guest.virtualCPUs[cpus[index]].wakeDescriptor
        return StackQueue(
          front: front, parts: parts, frontCPU: machine.guest.virtualCPUs[cpus[index]],
          backCPU: machine.control.virtualCPUs[cpus[index]], mailbox: mailbox,
          wakeSet: try WakeSet([mailbox.descriptor, second]),
          spin: AdaptiveSpin(most: configuration.spinNanoseconds),
          notify: (configuration.frontNotify, configuration.backNotify), onEnd: { [self] in queueEnded(index) })
      } catch {
        parts.stopBack?()
        frontend.platform.close(parts.connection.port)
        throw error
      }
    } catch {
      queueEnded(index)
      throw error
    }
  }

  /// What a queue gets at the beginning of a connection.
  func makeParts(queue index: Int, link: Int) throws(BlockError) -> QueueParts<Image.Queue> {
    guard var connection = frontend.connection(ofQueue: link) else {
      throw .disconnected("there is no queue \(link)")
    }
    connection.abilities.discardLeavesZeros = image.geometry.discard?.leavesZeros ?? false
    let backCPU = machine.control.virtualCPUs[cpus[index]]
    let back = try makeBack(index, link: link)
    let imageDescriptor = back.waitDescriptor
    do throws(EventChannelError) {
      try machine.guest.eventChannels.route(connection.port, to: machine.guest.virtualCPUs[cpus[index]].index)
      try machine.control.eventChannels.route(back.port, to: backCPU.index)
    } catch { throw .disconnected("its event channel is closed (\(error))") }
    guard configuration.placement == .threads else {
      return QueueParts(connection: connection, back: back, imageDescriptor: imageDescriptor, stopBack: nil)
    }
    let thread = BackThread(
      queue: back, cpu: backCPU, channels: machine.control.eventChannels,
      spinNanoseconds: configuration.spinNanoseconds,
      isPolling: configuration.backNotify == .poll)
    control.withLock { $0.threads[index] = thread }
    thread.start(name: "pvdisk-back\(index)")
    return QueueParts(connection: connection, back: nil, imageDescriptor: -1, stopBack: { thread.stop() })
  }

  private func makeFront(
    _ index: Int, _ connection: FrontConnection<EmulatedPlatform>, _ buffers: BufferDemand
  ) throws(BlockError) -> FrontQueue<EmulatedPlatform> {
    let pageCount = FrontArena.pageCount(demand: buffers, descriptorPages: mostDescriptorPages(connection))
    let references = try makeReferences(for: connection, arenaPages: pageCount)
    do throws(GrantStatus) {
      let pages = try connection.platform.allocatePages(pageCount)
      var front = FrontQueue(
        connection: connection, arena: FrontArena(pages: pages, demand: buffers), references: references,
        counters: counters[index].front.writer, latencies: latencies[index].recorder)
      front.findings = findings.front
      front.policy = frontend.knobs.notify
      return front
    } catch {
      connection.platform.freeReferences(references)
      throw noRoom(error)
    }
  }

  /// Lets two queues at each other's buffers: whoever comes second does it here, and the first on its own thread.
  private func share(_ index: Int, with neighbour: Int, _ front: inout FrontQueue<EmulatedPlatform>) {
    let mine = front.bufferPages
    let (others, mailbox) = control.withLock { state in
      state.buffers[index] = mine
      return (state.buffers[neighbour], state.mailboxes[neighbour])
    }
    guard let others else { return }
    front.reach(others)
    mailbox?.post { queue in queue.reach(mine) }
  }

  /// The references that a queue of so many pages needs on a connection.
  func makeReferences(
    for connection: FrontConnection<EmulatedPlatform>, arenaPages: Int
  ) throws(BlockError) -> [GrantReference] {
    let count = FrontQueue<EmulatedPlatform>.referenceCount(connection, arenaPages: arenaPages)
    do throws(GrantStatus) { return try connection.platform.allocateReferences(count) } catch { throw noRoom(error) }
  }

  private func noRoom(_ status: GrantStatus) -> BlockError {
    .unsupported("the guest has no room for the buffers of another queue (\(status)); use fewer --queues")
  }

  /// Descriptor pages for this connection and for the largest of any form that the frontend would take, so that a later
  /// backend may offer more than the first.
  private func mostDescriptorPages(_ connection: FrontConnection<EmulatedPlatform>) -> Int {
    let knobs = frontend.knobs
    let pages = ([.classic, knobs.rings.variant] + knobs.rings.fallbacks).map { variant in
      var wish = knobs.rings
      wish.variant = variant
      wish.fallbacks = []
      let plan = wish.plan(configuration.blockProtocol, ringPages: 1 << knobs.maxRingPageOrder, .everything)
      let segments = plan.segmentLimit(offered: knobs.maxIndirectSegments)
      return FrontQueue<EmulatedPlatform>.descriptorPages(of: plan, segments: segments)
    }
    return max(pages.max() ?? 0, FrontQueue<EmulatedPlatform>.descriptorPages(connection))
  }

  private func makeBack(_ index: Int, link number: Int) throws(BlockError) -> BackQueue<EmulatedPlatform, Image.Queue> {
    let backend = backend
    guard let negotiation = control.withLock({ $0.negotiation }), negotiation.links.indices.contains(number) else {
      throw .disconnected("the backend has no queue \(number)")
    }
    let isTaken = control.withLock { $0.takenLinks.contains(number) }
    guard !isTaken else { throw .disconnected("ring \(number) is another queue's") }
    let link = negotiation.links[number]
    let ring: BackRing
    do throws(RingViolation) {
      ring = try BackRing(attachingTo: link.ring.region, RingGeometry(negotiation.plan))
    } catch {
      throw .disconnected("the frontend's ring is not sane (\(error))")
    }
    let cache: PersistentGrantCache
    do throws(SystemError) {
      cache = try PersistentGrantCache(
        knobs: backend.knobs, referenceLimit: machine.guest.grantTable.maximumFrameCount * 512)
    } catch { throw .system(call: "\(error.call)", path: "", code: error.code) }
    let image = try self.image.makeQueue(
      index, buffers: BufferDemand(count: Int(ring.layout.slotCount), byteCount: 0))
    _ = control.withLock { $0.takenLinks.insert(number) }
    let abilities = backend.abilities(for: self.image.geometry, isPersistent: negotiation.isPersistent)
    var connection = BackConnection(
      platform: EmulatedPlatform(hypervisor: machine.hypervisor, domain: machine.control), peer: negotiation.peer,
      port: link.port, ringPages: link.ring, plan: negotiation.plan, abilities: abilities,
      policy: backend.knobs.notify)
    connection.findings = findings.back
    connection.onWithdrawal = { [loop = machine.loop] operation in
      loop.enqueue { [weak backend] in backend?.withdraw(operation) }
    }
    connection.maxBufferPages = backend.knobs.maxBufferPages
    connection.bufferSqueezeMilliseconds = backend.knobs.bufferSqueezeMilliseconds
    var queue = BackQueue(
      connection: connection, ring: ring, cache: cache, image: image, geometry: self.image.geometry,
      counters: counters[index].back.writer)
    queue.plant(backend.faults)
    return queue
  }
}
