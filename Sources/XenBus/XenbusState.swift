// SPDX-License-Identifier: MIT

/// Where a device's end stands (xenbus.h `enum xenbus_state`); the value of its `state` node.
public enum XenbusState: Int, Sendable, CaseIterable {
  /// The node is missing or makes no sense.
  case unknown = 0
  case initialising
  /// The backend waits for information from its peer or for its hotplug script.
  case initWait
  /// The frontend's rings are published.
  case initialised
  case connected
  case closing
  case closed
  case reconfiguring
  case reconfigured
}
