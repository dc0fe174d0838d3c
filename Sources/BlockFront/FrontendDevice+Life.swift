// SPDX-License-Identifier: MIT

import Synchronization
import XenBus
import XenHypervisor
import XenStore
import XenWire

/// What a frontend does after its first connection: resume, close by itself, come back.
extension FrontendDevice {
  /// Gives the old rings up and offers new ones to whatever backend its folder names now, without waiting for
  /// ``XenbusState/initWait`` (blkfront's `blkfront_resume` and `talk_to_blkback`).
  ///
  /// The queues must have been suspended, and the old backend must have let go.
  /// - Returns: the old rings' pages that somebody still maps; they stay out of use.
  @discardableResult
  public func resume() throws(FrontendError) -> Int {
    let stuck = forgetConnection()
    try findBackend()
    guard let backend = state.withLock({ $0.backend }) else { throw .store("\(folder.path) has no backend") }
    _ = state.withLock { $0.handshake.resume() }
    do throws(FrontendError) { try publishRings(backend) } catch {
      giveUp(error)
      throw error
    }
    return stuck
  }

  /// Starts anew after the frontend closed by itself: the backend then goes back to ``XenbusState/initWait``.
  public func reopen() {
    _ = forgetConnection()
    state.withLock { $0.handshake = FrontendHandshake() }
    try? folder.switchState(to: .initialising)
  }

  /// Reports an error that makes the device useless, and goes to ``XenbusState/closing`` (Linux `xenbus_dev_fatal`).
  func giveUp(_ error: FrontendError) {
    folder.reportError(code: error.code, error.sentence)
    state.withLock { $0.handshake.fail() }
    try? folder.switchState(to: .closing)
  }

  private func forgetConnection() -> Int {
    let links = state.withLock { state in
      defer {
        state.links = []
        state.offer = nil
      }
      return state.links
    }
    return takeBack(links)
  }

  /// Looks up the backend's folder and watches its state; the watch on another folder ends.
  func findBackend() throws(FrontendError) {
    guard let domain = folder.read(FrontendKey.backendID), let path = folder.read(FrontendKey.backend),
      let backendPath = StorePath(path)
    else { throw .store("\(folder.path) has no backend") }
    let backend = DeviceFolder(store: folder.store, path: backendPath)
    let old = state.withLock { state in
      defer {
        state.backend = backend
        state.backendDomain = DomainID(rawValue: UInt16(truncatingIfNeeded: domain))
      }
      return state.backend
    }
    if old?.path == backendPath { return }
    if let old { try? folder.store.unwatch(old.path(of: BackendKey.state), token: "backend-state") }
    do { try folder.store.watch(backend.path(of: BackendKey.state), token: "backend-state") } catch {
      throw .store(error.wireName)
    }
  }
}
