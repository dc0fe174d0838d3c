// SPDX-License-Identifier: MIT

import BlockBack
import BlockFront
public import BlockIO
import Synchronization
import XenBus
import XenHypervisor
import XenStore
import XenWire

extension Machine {
  /// Attaches a disk: a toolstack's folders, both ends' probes, and their handshake until they are connected.
  /// - Throws: ``MachineError``; the machine is then as it was before.
  public func attach<Image: BlockDevice>(
    _ image: Image, as configuration: DiskConfiguration = DiskConfiguration()
  ) throws(MachineError) -> AttachedDisk<Image> {
    if let complaint = configuration.complaint { throw .usage(complaint) }
    guard let device = VirtualDevice(configuration.device) else {
      throw .usage("'\(configuration.device)' is not a disk name; use xvda, xvdb, ... or a device number")
    }
    var definition = DiskDefinition(
      frontend: guest.id, device: device, params: configuration.params, type: configuration.type)
    definition.isReadOnly = configuration.isReadOnly || image.geometry.isReadOnly
    definition.isRemovable = configuration.isRemovable
    definition.isBackendTrusted = configuration.isBackendTrusted
    definition.blockProtocol = configuration.blockProtocol
    try take(device)
    let cpus: [Int]
    do throws(MachineError) { cpus = try takeCPUs(configuration.queues) } catch {
      giveBack(device)
      throw error
    }
    do throws(MachineError) {
      do throws(StoreError) { try definition.create(in: toolstack) } catch {
        throw .stalled("the store refused: \(error.wireName)")
      }
      let disk = try AttachedDisk<Image>(
        machine: self, image: image, configuration: configuration, definition: definition, cpus: cpus)
      do throws(MachineError) { try disk.connect() } catch {
        disk.giveUp()
        throw error
      }
      return disk
    } catch {
      try? definition.remove(from: toolstack)
      giveBackCPUs(cpus)
      giveBack(device)
      throw error
    }
  }
}

extension AttachedDisk {
  /// Takes the disk off the machine once its queues are gone: the toolstack says so, both ends close, the folders go.
  /// - Returns: ring pages that the backend still mapped; 0 unless something is wrong.
  @discardableResult
  public func detach() -> Int {
    machine.loop.perform { [self] in
      let tick = control.withLock { state in
        state.phase = .detaching
        return state.tick
      }
      machine.loop.endTick(tick)
      frontend.folder.store.onEvents(nil)
      backend.folder.store.onEvents(nil)
      // A toolstack that has said so already does not say it twice.
      if backend.folder.value(BackendKey.online) { try? definition.startDetach(in: machine.toolstack) }
      releaseUnusedLinks()
      let stuck = frontend.finishClosing()
      _ = backend.handleWatches()
      backend.finishClosing()
      try? definition.remove(from: machine.toolstack)
      machine.giveBackCPUs(cpus)
      machine.giveBack(definition.device)
      return stuck
    }
  }

  /// Lets go of what a handshake had come to that led nowhere.
  func giveUp() {
    releaseUnusedLinks()
    frontend.finishClosing()
    backend.finishClosing()
  }
}
