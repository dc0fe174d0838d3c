// SPDX-License-Identifier: MIT

import GuestMemory
import Synchronization
public import XenWire

/// A guest as its hypervisor keeps it: memory, grant table, foreign pages, event channels, virtual CPUs.
public final class Domain: Sendable {
  /// The domain's number.
  public let id: DomainID
  /// Its own memory.
  public let memory: DomainMemory
  /// What it lets others map.
  public let grantTable: GrantTable
  /// What it has mapped of others.
  public let grantMappings: GrantMappings
  /// Its event channels.
  public let eventChannels: EventChannels
  /// Its virtual CPUs, by number.
  public let virtualCPUs: [VirtualCPU]
  /// With whom it may share.
  public let policy: DomainPolicy
  private let bufferPageLimit: Int
  private let bufferPages = Atomic<Int>(0)

  init(
    id: DomainID, memoryByteCount: Int, virtualCPUCount: Int, onlineCount: Int, limits: DomainLimits,
    policy: DomainPolicy,
    mapping: MappingStrategy, fabric: EventFabric, faults: PlantedFaults
  ) throws(SystemError) {
    self.id = id
    self.policy = policy
    bufferPageLimit = limits.bufferPages
    memory = try DomainMemory(domain: id, byteCount: memoryByteCount)
    grantTable = try GrantTable(
      domain: id, memoryPageCount: memory.pageCount, limits: limits, faults: faults)
    grantMappings = GrantMappings(domain: id, strategy: mapping, limits: limits, faults: faults)
    let channels = try EventChannels(
      domain: id, virtualCPUCount: virtualCPUCount, onlineCount: onlineCount, portLimit: limits.eventPorts,
      policy: policy, memory: memory, fabric: fabric)
    eventChannels = channels
    virtualCPUs = (0..<virtualCPUCount).map { VirtualCPU(index: $0, channels: channels) }
  }

  /// What the domain holds at this moment.
  public var ledger: ResourceLedger {
    ResourceLedger(
      allocatedPages: memory.allocatedPageCount, allocatedReferences: grantTable.allocatedReferenceCount,
      pinnedGrants: grantTable.pinnedEntryCount, mappings: grantMappings.count,
      mappedBytes: grantMappings.mappedByteCount, openPorts: eventChannels.openPortCount,
      bufferPages: bufferPages.load(ordering: .relaxed))
  }

  /// Gives up pages for foreign ones to stand in; all or nothing.
  func takeBufferPages(_ count: Int) -> Bool {
    guard bufferPages.add(count, ordering: .relaxed).newValue <= bufferPageLimit else {
      giveBufferPages(count)
      return false
    }
    return true
  }

  /// Takes such pages back.
  func giveBufferPages(_ count: Int) {
    let left = bufferPages.subtract(count, ordering: .relaxed).newValue
    precondition(left >= 0, "more pages taken back than were given up")
  }
}
