// SPDX-License-Identifier: MIT

/// What is in use at one moment: tests compare two of them to show that nothing leaks.
public struct ResourceLedger: Equatable, Sendable {
  /// Pages handed out of the domains' memory.
  public var allocatedPages: Int
  /// Grant references handed out.
  public var allocatedReferences: Int
  /// Grant entries that are pinned by a mapping or a copy.
  public var pinnedGrants: Int
  /// Live mappings of foreign pages.
  public var mappings: Int
  /// Bytes of foreign pages that are reachable.
  public var mappedBytes: Int
  /// Event-channel ports that are not closed.
  public var openPorts: Int
  /// Pages that domains have given up for foreign ones to stand in.
  public var bufferPages: Int

  /// Sets counts; all are zero unless given.
  public init(
    allocatedPages: Int = 0, allocatedReferences: Int = 0, pinnedGrants: Int = 0, mappings: Int = 0,
    mappedBytes: Int = 0, openPorts: Int = 0, bufferPages: Int = 0
  ) {
    self.allocatedPages = allocatedPages
    self.allocatedReferences = allocatedReferences
    self.pinnedGrants = pinnedGrants
    self.mappings = mappings
    self.mappedBytes = mappedBytes
    self.openPorts = openPorts
    self.bufferPages = bufferPages
  }

  /// Adds two ledgers, count by count.
  public static func + (left: ResourceLedger, right: ResourceLedger) -> ResourceLedger {
    ResourceLedger(
      allocatedPages: left.allocatedPages + right.allocatedPages,
      allocatedReferences: left.allocatedReferences + right.allocatedReferences,
      pinnedGrants: left.pinnedGrants + right.pinnedGrants, mappings: left.mappings + right.mappings,
      mappedBytes: left.mappedBytes + right.mappedBytes, openPorts: left.openPorts + right.openPorts,
      bufferPages: left.bufferPages + right.bufferPages)
  }
}
