// SPDX-License-Identifier: MIT

import CLinux
import GuestMemory
import Synchronization
public import XenWire

/// The hypervisor that lives in this process: it creates domains, and is between them in everything they share.
///
/// ```
///     domain 1 (frontend)                              domain 0 (backend)
///   +---------------------+                         +---------------------+
///   | memory              | <---- grant mapping --- | maptrack, windows   |
///   | grant table         |                         | memory              |
///   | event channels      | <----- event ---------> | event channels      |
///   +---------------------+                         +---------------------+
/// ```
///
/// **Lock order.** Free references, then a granter's table, then a mapper's table; the event fabric's lock and the list of
/// domains are taken alone. No lock is held while somebody else's code runs.
public final class Hypervisor: Sendable {
  /// How foreign pages become reachable.
  public let mapping: MappingStrategy
  let fabric: EventFabric
  let faults: PlantedFaults
  /// How far the machine's clock is ahead of the host's, in nanoseconds.
  private let clockLead = Atomic<UInt64>(0)
  /// Held while a domain is made, so that two never get one number.
  private let creation = RankedLock(.creation, ())
  private let domains = RankedLock<[DomainID: Domain]>(.domains, [:])

  /// Makes a hypervisor without domains.
  /// - Throws: `.system` when there is no memory.
  public convenience init(mapping: MappingStrategy = .remap) throws(HypervisorError) {
    try self.init(mapping: mapping, faults: PlantedFaults())
  }

  init(mapping: MappingStrategy, faults: PlantedFaults) throws(HypervisorError) {
    self.mapping = mapping
    self.faults = faults
    do throws(SystemError) { fabric = try EventFabric(faults: faults) } catch { throw HypervisorError(error) }
  }

  /// Nanoseconds since some fixed moment, never going back.
  public var monotonicNanoseconds: UInt64 { pv_monotonic_nanoseconds() &+ clockLead.load(ordering: .relaxed) }

  /// Puts the machine's clock forward.
  public func advanceClock(nanoseconds: UInt64) { clockLead.add(nanoseconds, ordering: .relaxed) }

  /// Creates a domain.
  /// - Parameters:
  ///   - id: its number, below 0x7FF0.
  ///   - memoryByteCount: its memory, rounded up to pages; sparse, so that untouched pages cost nothing.
  ///   - virtualCPUCount: 1...256.
  ///   - onlineCount: how many of them run at once; the others wait for ``VirtualCPU/bringUp()``. All of them by default.
  ///   - limits: how much of the hypervisor it may use up.
  ///   - policy: with whom it may share.
  @discardableResult
  public func createDomain(
    _ id: DomainID, memoryByteCount: Int, virtualCPUCount: Int, onlineCount: Int? = nil,
    limits: DomainLimits = .xenDefaults, policy: DomainPolicy = .anyPeer
  ) throws(HypervisorError) -> Domain {
    guard id.isReal else { throw .reservedDomain(id) }
    let onlineCount = onlineCount ?? virtualCPUCount
    guard (1...SharedInfo.virtualCPULimit).contains(virtualCPUCount), (1...virtualCPUCount).contains(onlineCount) else {
      throw .badVirtualCPUCount(virtualCPUCount)
    }
    guard limits.isSound, memoryByteCount > 0 else { throw .badLimits }
    return try creation.withLock { (_) throws(HypervisorError) -> Domain in
      guard domain(id) == nil else { throw .domainExists(id) }
      do throws(SystemError) {
        let created = try Domain(
          id: id, memoryByteCount: memoryByteCount, virtualCPUCount: virtualCPUCount, onlineCount: onlineCount,
          limits: limits, policy: policy, mapping: mapping, fabric: fabric, faults: faults)
        domains.withLock { $0[id] = created }
        return created
      } catch {
        throw HypervisorError(error)
      }
    }
  }

  /// The domain with that number, while it lives.
  public func domain(_ id: DomainID) -> Domain? { domains.withLock { $0[id] } }

  /// Destroys a domain; nothing happens when there is none.
  ///
  /// What it maps of others is unmapped and unpinned, its ports are closed and their peers' ends wait again. What others map of
  /// its memory stays theirs until they unmap it: the memory lives as long as the last mapping. Waits for nobody.
  public func destroyDomain(_ id: DomainID) {
    guard let domain = domains.withLock({ $0.removeValue(forKey: id) }) else { return }
    domain.grantTable.retire()
    domain.eventChannels.retire()
    domain.grantMappings.retire()
    let others = domains.withLock { Array($0.values) }
    for other in others { other.grantMappings.forget(domain.grantTable) }
  }

  /// What all living domains hold together at this moment.
  public var ledger: ResourceLedger {
    domains.withLock { Array($0.values) }.reduce(ResourceLedger()) { $0 + $1.ledger }
  }

  // MARK: Grant operations

  /// Maps references of `granter` for `mapper` (`GNTTABOP_map_grant_ref`); every element of `results` is written.
  public func map(
    _ references: Span<GrantReference>, of granter: DomainID, for mapper: Domain, flags: GrantMapFlags,
    into results: inout MutableSpan<GrantMapping>
  ) {
    precondition(results.count >= references.count, "fewer results than references")
    let refusal: GrantStatus
    if flags.isDisjoint(with: .anywhere) {
      refusal = .badReference
    } else if let granter = domain(granter) {
      guard granter.policy.allows(mapper.id) else {
        for index in references.indices { results[index] = GrantMapping(status: .permissionDenied) }
        return
      }
      mapper.grantMappings.map(references, of: granter, flags: flags, into: &results)
      return
    } else {
      refusal = .badDomain
    }
    if faults.has(.statusUnwritten) { return }
    for index in references.indices { results[index] = GrantMapping(status: refusal) }
  }

  /// Maps pages for `mapper` one behind the other, whatever their frames; all or nothing.
  /// - Throws: the status of the first page that could not be mapped.
  public func mapContiguously(
    _ references: [GrantReference], of granter: DomainID, for mapper: Domain
  ) throws(GrantStatus) -> ContiguousMapping {
    guard let granter = domain(granter) else { throw .badDomain }
    guard granter.policy.allows(mapper.id) else { throw .permissionDenied }
    return try mapper.grantMappings.mapContiguously(references, of: granter)
  }

  /// Undoes mappings (`GNTTABOP_unmap_grant_ref`); what is not mapped is left alone, and makes the answer false.
  @discardableResult
  public func unmap(_ handles: Span<GrantHandle>, of mapper: Domain) -> Bool {
    mapper.grantMappings.unmap(handles)
  }
}

extension HypervisorError {
  init(_ error: SystemError) { self = .system(call: "\(error.call)", code: error.code) }
}
