// SPDX-License-Identifier: MIT

public import XenHypervisor
public import XenWire

/// A platform whose events reach a thread through descriptors, so that the thread can sleep on them beside others.
public protocol HostPlatform: BackendPlatform, Sendable {
  /// The same platform for the queue of one port: signals to and from that port need no look into a table.
  func specialised(for port: EventPort) -> Self
  /// Readable when the port's peer has signalled; -1 for a port that is not open.
  func waitDescriptor(of port: EventPort) -> Int32
  /// Takes the signals of a port, and lets new ones come.
  func takeEvents(of port: EventPort)
}
