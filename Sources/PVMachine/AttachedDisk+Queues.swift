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
    guard let connection = frontend.connection(ofQueue: index) else {
      throw .disconnected("there is no queue \(index)")
    }
    let frontCPU = machine.guest.virtualCPUs[cpus[index]]
    let backCPU = machine.control.virtualCPUs[cpus[index]]
    let back = try makeBack(index)
    let imageDescriptor = back.waitDescriptor
    do throws(EventChannelError) {
      try machine.guest.eventChannels.bind(connection.port, to: frontCPU.index)
      try machine.control.eventChannels.bind(back.port, to: backCPU.index)
    } catch { throw .disconnected("its event channel is closed (\(error))") }
    let front = try makeFront(index, connection, buffers)
    let mailbox = QueueMailbox<Queue>()
    control.withLock { $0.mailboxes[index] = mailbox }
    let spin = AdaptiveSpin(most: configuration.spinNanoseconds)
    guard configuration.placement == .threads else {
      return StackQueue(
        front: front, back: back, frontCPU: frontCPU, backCPU: backCPU, mailbox: mailbox,
        wakeSet: try WakeSet([mailbox.descriptor, imageDescriptor]), spin: spin,
        notify: (configuration.frontNotify, configuration.backNotify), owner: self)
    }
    let thread = BackThread(
      queue: back, cpu: backCPU, channels: machine.control.eventChannels,
      spinNanoseconds: configuration.spinNanoseconds,
      isPolling: configuration.backNotify == .poll)
    control.withLock { $0.threads[index] = thread }
    thread.start(name: "pvdisk-back\(index)")
    return StackQueue(
      front: front, back: nil, frontCPU: frontCPU, backCPU: backCPU, mailbox: mailbox,
      wakeSet: try WakeSet([mailbox.descriptor, frontCPU.wakeDescriptor]), spin: spin,
      notify: (configuration.frontNotify, configuration.backNotify), owner: self, stopBack: { thread.stop() })
  }

  private func makeFront(
    _ index: Int, _ connection: FrontConnection<EmulatedPlatform>, _ buffers: BufferDemand
  ) throws(BlockError) -> FrontQueue<EmulatedPlatform> {
    typealias Front = FrontQueue<EmulatedPlatform>
    var connection = connection
    connection.abilities.discardLeavesZeros = image.geometry.discard?.leavesZeros ?? false
    let descriptors = Front.descriptorPages(connection)
    let pageCount = FrontArena.pageCount(demand: buffers, descriptorPages: descriptors)
    let references = Front.referenceCount(connection, arenaPages: pageCount)
    do throws(GrantStatus) {
      let pages = try connection.platform.allocatePages(pageCount)
      do throws(GrantStatus) {
        let granted = try connection.platform.allocateReferences(references)
        return Front(
          connection: connection, arena: FrontArena(pages: pages, demand: buffers), references: granted,
          counters: counters[index].front.writer)
      } catch {
        connection.platform.freePages(pages)
        throw error
      }
    } catch {
      throw .unsupported("the guest has no room for the buffers of another queue (\(error)); use fewer --queues")
    }
  }

  private func makeBack(_ index: Int) throws(BlockError) -> BackQueue<EmulatedPlatform, Image.Queue> {
    guard let negotiation = control.withLock({ $0.negotiation }), negotiation.links.indices.contains(index) else {
      throw .disconnected("the backend has no queue \(index)")
    }
    let link = negotiation.links[index]
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
    let abilities = backend.abilities(for: self.image.geometry, isPersistent: negotiation.isPersistent)
    let connection = BackConnection(
      platform: EmulatedPlatform(hypervisor: machine.hypervisor, domain: machine.control), peer: negotiation.peer,
      port: link.port, ringPages: link.ring, plan: negotiation.plan, abilities: abilities,
      policy: backend.knobs.notify)
    var queue = BackQueue(
      connection: connection, ring: ring, cache: cache, image: image, geometry: self.image.geometry,
      counters: counters[index].back.writer)
    queue.plant(backend.faults)
    return queue
  }
}
