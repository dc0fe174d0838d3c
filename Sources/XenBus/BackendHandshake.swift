// SPDX-License-Identifier: MIT

/// What a backend has to do about a move of its frontend.
public enum BackendAction: Equatable, Sendable {
  /// Nothing.
  case none
  /// Wait for a frontend again: ``XenbusState/initWait``.
  case awaitReconnect
  /// Let go of an old connection, map the rings, and connect when the disk is there too.
  case connect
  /// ``XenbusState/closing``
  case startClosing
  /// Let go of the rings, ``XenbusState/closed``, and unregister unless the device is online.
  case close
  /// The frontend's folder is gone: let go of everything.
  case unregister
  /// A state that no frontend may be in: report it and close.
  case refuse(XenbusState)
}

/// The backend's half of the handshake as a table without I/O (blkback's `frontend_changed`).
///
/// ```
/// frontend ->  Initialising       Initialised, Connected  Closing   Closed   Unknown     InitWait, 7, 8
/// own 6        wait again (2)     connect                 close 5   close 6  unregister  refuse
/// own 4        -                  -                       close 5   close 6  unregister  refuse
/// others       -                  connect                 close 5   close 6  unregister  refuse
/// ```
public struct BackendHandshake: Equatable, Sendable {
  /// Where the backend stands.
  public private(set) var state: XenbusState

  /// Starts at a state.
  public init(state: XenbusState = .initialising) { self.state = state }

  /// The device was probed: what is independent of a frontend is written.
  public mutating func probed() { state = .initWait }

  /// The frontend was seen in a state, perhaps the same as before.
  public mutating func peerMoved(to peer: XenbusState) -> BackendAction {
    switch peer {
    case .initialising:
      guard state == .closed else { return .none }
      state = .initWait
      return .awaitReconnect
    case .initialised, .connected:
      return state == .connected ? .none : .connect
    case .closing:
      state = .closing
      return .startClosing
    case .closed:
      state = .closed
      return .close
    case .unknown:
      state = .closed
      return .unregister
    case .initWait, .reconfiguring, .reconfigured:
      state = .closing
      return .refuse(peer)
    }
  }

  /// The rings are mapped and the disk is open.
  public mutating func connected() { state = .connected }

  /// An action failed: the device is given up.
  public mutating func fail() { state = .closing }
}
