// SPDX-License-Identifier: MIT

import BlockIO
import Glibc
import GuestMemory
import Synchronization
import XenHypervisor
import XenStore
import XenWire

/// A guest's ring page with the store behind it: a page of the guest's under grant reference 1, mapped by the control
/// domain, and an event channel between the two, as a domain builder sets them up.
///
/// Both ends run on the thread that has something to say; an end looks at the page only when its event has arrived. Any
/// thread may call anything; while one moves messages, the others leave word.
final class GuestStoreRing: Sendable {
  private struct Ends {
    let guestPort: EventPort
    let storePort: EventPort
    let guestCPU: VirtualCPU
    let storeCPU: VirtualCPU
  }

  private let guest: EmulatedPlatform
  private let control: EmulatedPlatform
  private let pages: GuestPages
  private let mapping: ContiguousMapping
  private let ends: Ends
  private let server = Mutex<StoreRingServer?>(nil)
  private let handle = Mutex<RemoteStore?>(nil)
  /// The kicks that nobody has attended to: who raises it from 0 attends to all.
  private let kicks = Atomic(0)

  /// Sets up a guest's page and starts to serve it.
  init(hypervisor: Hypervisor, control: Domain, guest: Domain, store: StoreServer) throws(MachineError) {
    self.guest = EmulatedPlatform(hypervisor: hypervisor, domain: guest)
    self.control = EmulatedPlatform(hypervisor: hypervisor, domain: control)
    let reference = GrantReference.xenStore
    do throws(GrantStatus) {
      pages = try self.guest.allocatePages(1)
      self.guest.grantAccess(reference, to: control.id, frame: pages.firstFrame, isReadOnly: false)
      mapping = try self.control.mapContiguously([reference], of: guest.id)
    } catch { throw .stalled("the guest's XenStore page could not be mapped (\(error))") }
    do throws(SystemError) {
      for domain in [guest, control] { try domain.virtualCPUs[Machine.storeCPU].bringUp() }
    } catch { throw .disk(.system(call: "\(error.call)", path: "", code: error.code)) }
    do throws(EventChannelError) {
      let port = try self.guest.allocateUnbound(remote: control.id)
      let bound = try self.control.bindInterdomain(remote: guest.id, port: port)
      try guest.eventChannels.route(port, to: Machine.storeCPU)
      try control.eventChannels.route(bound, to: Machine.storeCPU)
      ends = Ends(
        guestPort: port, storePort: bound, guestCPU: guest.virtualCPUs[Machine.storeCPU],
        storeCPU: control.virtualCPUs[Machine.storeCPU])
    } catch { throw .stalled("the guest's XenStore event channel could not be made (\(error))") }
    let page = StoreRingPage(mapping.region, as: .server)
    server.withLock { server in
      server = StoreRingServer(server: store, page: page, domain: guest.id) { [weak self] in self?.kickGuest() }
    }
    let transport = StoreRingTransport(
      page: StoreRingPage(pages.region, as: .client), notify: { [weak self] in self?.kickStore() },
      wait: { [weak self] _ in self?.wait() })
    let first = RemoteStore(StoreClient(over: transport), domain: guest.id)
    handle.withLock { $0 = first }
  }

  /// The page's frame, as the guest is told.
  var frame: FrameNumber { pages.firstFrame }
  /// The guest's end of the event channel.
  var port: EventPort { ends.guestPort }

  /// A handle for one of the guest's drivers.
  func connect() -> any StoreHandle {
    guard let shared = handle.withLock({ $0?.share() }) else {
      preconditionFailure("the guest's XenStore page is closed")
    }
    return shared
  }

  /// Takes the page away from the store, and from the guest's drivers.
  func close() {
    handle.withLock { handle in
      handle?.disconnect()
      handle = nil
    }
    server.withLock { server in
      server?.close()
      server = nil
    }
    control.close(ends.storePort)
    guest.close(ends.guestPort)
    control.unmap(mapping)
    _ = guest.endAccess(.xenStore)
    guest.freePages(pages)
  }

  private func kickStore() {
    guest.notify(ends.guestPort)
    attend()
  }

  private func kickGuest() {
    control.notify(ends.storePort)
    attend()
  }

  /// Lets whoever is moving messages go on, until something may have come.
  private func wait() {
    attend()
    if let server = server.withLock({ $0 }), server.wantsTime {
      // The store holds a request back until there is write credit for it, and nobody signals when there is.
      usleep(1000)
      server.serve()
    } else if kicks.load(ordering: .acquiring) > 0 {
      sched_yield()
    }
  }

  /// Delivers the events that are pending at either end.
  private func attend() {
    guard kicks.add(1, ordering: .acquiringAndReleasing).oldValue == 0 else { return }
    var attended = 1
    var guestWasKicked = false
    repeat {
      if ends.storeCPU.hasPendingUpcall {
        ends.storeCPU.takePendingPorts { _ in }
        server.withLock { $0 }?.serve()
      }
      if ends.guestCPU.hasPendingUpcall {
        ends.guestCPU.takePendingPorts { _ in }
        guestWasKicked = true
      }
      attended = kicks.subtract(attended, ordering: .acquiringAndReleasing).newValue
    } while attended > 0
    // Outside of the turn: a driver's handler may use the store.
    if guestWasKicked { handle.withLock { $0 }?.collect() }
  }
}
