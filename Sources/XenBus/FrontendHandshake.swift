// SPDX-License-Identifier: MIT

/// What a frontend has to do about a move of its backend.
public enum FrontendAction: Equatable, Sendable {
  /// Nothing.
  case none
  /// Read what the backend offers, publish rings, go to ``XenbusState/initialised``.
  case publishRings
  /// Publish rings first, then connect at once: the backend went ahead.
  case publishRingsAndConnect
  /// Read what the backend serves and go to ``XenbusState/connected``.
  case connect
  /// Read the capacity again: the disk changed its size.
  case readCapacity
  /// Let go of the rings and go to ``XenbusState/closed``.
  case close
}

/// The frontend's half of the handshake as a table without I/O (blkfront's `blkback_changed`).
///
/// ```
/// backend ->   InitWait            Connected                     Closing, Closed      others
/// own 1        publish rings (3)   publish rings, connect (4)    close (6)            -
/// own 3        -                   connect (4)                   close                -
/// own 4        -                   read the capacity             close                -
/// own 5, 6     -                   publish rings, connect        close unless both 6  -
/// ```
public struct FrontendHandshake: Equatable, Sendable {
  /// Where the frontend stands.
  public private(set) var state: XenbusState

  /// Starts at a state; a fresh device is ``XenbusState/initialising``.
  public init(state: XenbusState = .initialising) { self.state = state }

  /// The backend was seen in a state, perhaps the same as before.
  public mutating func peerMoved(to peer: XenbusState) -> FrontendAction {
    switch peer {
    case .initWait:
      guard state == .initialising else { return .none }
      state = .initialised
      return .publishRings
    case .connected:
      return backendConnected()
    case .closed where state == .closed:
      return .none
    case .closing, .closed:
      state = .closed
      return .close
    case .unknown, .initialising, .initialised, .reconfiguring, .reconfigured:
      return .none
    }
  }

  private mutating func backendConnected() -> FrontendAction {
    switch state {
    case .connected:
      return .readCapacity
    case .initialised:
      state = .connected
      return .connect
    default:
      state = .connected
      return .publishRingsAndConnect
    }
  }

  /// The rings are published without waiting for the backend, as after a resume.
  public mutating func resume() -> FrontendAction {
    state = .initialised
    return .publishRings
  }

  /// An action failed: the device is given up.
  public mutating func fail() { state = .closing }

  /// The frontend closes by itself.
  public mutating func close() { state = .closed }
}
