// SPDX-License-Identifier: MIT

import BlockBack
import BlockFront
public import BlockIO
import Synchronization
import XenBus
import XenHypervisor
import XenStore
public import XenWire

extension Machine {
  /// Attaches a disk: a toolstack's folders, both ends' probes, and their handshake until they are connected.
  /// - Parameter abi: the ring's layout; `configuration.blockProtocol` must name the same.
  /// - Throws: ``MachineError``; the machine is then as it was before.
  public func attach<Image: BlockDevice, ABI: BlkifABI>(
    _ image: Image, as configuration: DiskConfiguration = DiskConfiguration(), abi: ABI.Type = ABI64.self
  ) throws(MachineError) -> AttachedDisk<Image, ABI> {
    precondition(ABI.protocolName == configuration.blockProtocol.rawValue, "the ABI and its name differ")
    if let complaint = configuration.complaint { throw .usage(complaint) }
    guard let device = VirtualDevice(configuration.device) else {
      throw .usage("'\(configuration.device)' is not a disk name; use xvda, xvdb, ... or a device number")
    }
    var definition = DiskDefinition(
      frontend: guest.id, device: device, params: configuration.params, type: configuration.type)
    definition.isReadOnly = configuration.isReadOnly || image.geometry.isReadOnly
    definition.isBackendTrusted = configuration.isBackendTrusted
    definition.blockProtocol = configuration.blockProtocol
    let cpus = try takeCPUs(configuration.queues)
    do throws(MachineError) {
      do throws(StoreError) { try definition.create(in: toolstack) } catch {
        throw .stalled("the store refused: \(error.wireName)")
      }
      let disk = try AttachedDisk<Image, ABI>(
        machine: self, image: image, configuration: configuration, definition: definition, cpus: cpus)
      try disk.connect()
      return disk
    } catch {
      try? definition.remove(from: toolstack)
      giveBackCPUs(cpus)
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
      control.withLock { $0.phase = .detaching }
      frontend.folder.store.onEvents(nil)
      backend.folder.store.onEvents(nil)
      try? definition.startDetach(in: machine.toolstack)
      releaseUnusedLinks()
      let stuck = frontend.finishClosing()
      _ = backend.handleWatches()
      backend.finishClosing()
      try? definition.remove(from: machine.toolstack)
      machine.giveBackCPUs(cpus)
      return stuck
    }
  }
}
