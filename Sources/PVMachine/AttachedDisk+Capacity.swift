// SPDX-License-Identifier: MIT

import BlockBack
import BlockIO
import Synchronization
import XenBus
import XenHypervisor
import XenWire

/// Online resize: the backend notices, tells, the frontend follows (blkback's `xen_vbd_resize`).
extension AttachedDisk {
  /// Compares the image's size with what was announced, and announces what is new; the image must have looked already.
  /// - Returns: whether there was something to tell.
  @discardableResult
  public func announceCapacity() throws(MachineError) -> Bool {
    let sectors = image.geometry.sectorCount
    guard phase == .connected, sectors != geometry.sectorCount else { return false }
    let (mailboxes, threads) = control.withLock { ($0.mailboxes, $0.threads) }
    for mailbox in mailboxes.values {
      mailbox.post { queue in
        queue.withBack { back in
          back.resize(to: sectors)
          // A drive looks at its medium when it moves.
          back.advance()
        }
      }
    }
    // A frontend must not hear of sectors that a backend would still refuse.
    for thread in threads.values {
      let gate = DispatchGate()
      thread.mailbox.post { back in
        back.resize(to: sectors)
        gate.open()
      }
      gate.wait()
    }
    do throws(HandshakeFailure) { try backend.announceCapacity(sectors) } catch { throw .backend(error) }
    return true
  }

  /// What the backend says of the image: the physical sectors are those that the configuration asks for.
  var shownGeometry: BlockGeometry {
    var geometry = image.geometry
    if let size = configuration.physicalSectorSize { geometry.physicalSectorSize = size }
    return geometry
  }

  /// Says in the store what the backend serves now.
  public func writeParams(_ text: String) {
    try? backend.folder.write(text, to: BackendKey.params)
    try? backend.folder.write(text, to: BackendKey.physicalDevicePath)
  }

  /// The frontend has read a new capacity.
  func noteCapacity(_ sectors: UInt64) {
    let handler = control.withLock { state in
      state.geometry.sectorCount = sectors
      return state.onResize
    }
    handler?()
  }

  /// Calls `handler`, on the control thread, whenever the disk has another size.
  public func onResize(_ handler: (@Sendable () -> Void)?) { control.withLock { $0.onResize = handler } }
}
