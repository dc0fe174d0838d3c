// SPDX-License-Identifier: MIT

public import BlockBack
public import BlockFront
public import BlockIO
public import XenHypervisor

/// Why a machine or a disk on it could not be made.
public enum MachineError: Error, Sendable {
  /// A parameter makes no sense; the sentence says which and what would.
  case usage(String)
  /// The hypervisor could not be set up.
  case hypervisor(HypervisorError)
  /// The disk under the backend.
  case disk(BlockError)
  /// The frontend gave up.
  case frontend(FrontendError)
  /// The backend gave up.
  case backend(HandshakeFailure)
  /// The two ends do not come together.
  case stalled(String)

  /// One sentence for a person.
  public var sentence: String {
    switch self {
    case .usage(let text): text
    case .hypervisor(let error): "the machine could not be set up: \(error)"
    case .disk(let error): error.sentence
    case .frontend(let error): "the frontend could not connect: \(error.sentence)"
    case .backend(let failure): "the backend could not connect: \(failure.sentence)"
    case .stalled(let text): "frontend and backend did not come together: \(text)"
    }
  }
}
