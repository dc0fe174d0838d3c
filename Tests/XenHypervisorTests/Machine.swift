// SPDX-License-Identifier: MIT

import Glibc
import GuestMemory
import Synchronization
import XenWire

@testable import XenHypervisor

/// Two domains that meet: 1 grants and waits for events, 0 maps and signals.
struct Machine: Sendable {
  let hypervisor: Hypervisor
  let guest: Domain
  let control: Domain

  init(
    mapping: MappingStrategy = .remap, pages: Int = 64, limits: DomainLimits = .xenDefaults,
    controlLimits: DomainLimits = .xenDefaults, faults: PlantedFaults = PlantedFaults(), virtualCPUs: Int = 2,
    interface: EventInterface = .twoLevel
  ) throws {
    hypervisor = try Hypervisor(mapping: mapping, faults: faults)
    control = try hypervisor.createDomain(
      .control, memoryByteCount: pages * 4096, virtualCPUCount: virtualCPUs, limits: controlLimits)
    guest = try hypervisor.createDomain(
      DomainID(rawValue: 1), memoryByteCount: pages * 4096, virtualCPUCount: virtualCPUs, limits: limits)
    if interface == .fifo {
      try control.eventChannels.useFIFO()
      try guest.eventChannels.useFIFO()
    }
  }

  /// Grants `count` adjacent pages to the control domain.
  func grant(_ count: Int, isReadOnly: Bool = false) throws -> (pages: GuestPages, references: [GrantReference]) {
    let pages = try guest.memory.allocate(count)
    let references = try guest.grantTable.allocateReferences(count)
    for (index, reference) in references.enumerated() {
      guest.grantTable.grantAccess(
        reference, to: .control, frame: FrameNumber(rawValue: pages.firstFrame.rawValue + UInt64(index)),
        isReadOnly: isReadOnly)
    }
    return (pages, references)
  }

  /// Maps references of the guest for the control domain.
  func map(
    _ references: [GrantReference], writable: Bool = true, of granter: DomainID = DomainID(rawValue: 1),
    for mapper: Domain? = nil
  ) -> [GrantMapping] {
    map(references, flags: writable ? .host : [.host, .readOnly], of: granter, for: mapper)
  }

  func map(
    _ references: [GrantReference], flags: GrantMapFlags, of granter: DomainID = DomainID(rawValue: 1),
    for mapper: Domain? = nil
  ) -> [GrantMapping] {
    let poison = GrantMapping(status: .badDeviceAddress, handle: GrantHandle(rawValue: 0xDEAD), address: 0xDEAD)
    var mappings = Array(repeating: poison, count: references.count)
    var results = mappings.mutableSpan
    hypervisor.map(references.span, of: granter, for: mapper ?? control, flags: flags, into: &results)
    return mappings
  }

  @discardableResult
  func unmap(_ mappings: [GrantMapping], of mapper: Domain? = nil) -> Bool {
    let handles = mappings.map(\.handle)
    return hypervisor.unmap(handles.span, of: mapper ?? control)
  }

  @discardableResult
  func unmap(_ ring: ContiguousMapping) -> Bool { hypervisor.unmap(ring.handles.span, of: control) }
}

/// The bytes that a mapping reaches.
func page(at mapping: GrantMapping) -> SharedRegion {
  // SAFETY: tests use it only while the page is mapped, or inside an exit test that expects the fault.
  unsafe SharedRegion(
    unsafeBase: UnsafeMutableRawPointer(bitPattern: mapping.address).unsafelyUnwrapped, byteCount: 4096)
}

/// Runs each body on a thread of its own and waits for all of them.
func onThreads(_ bodies: [@Sendable () -> Void]) {
  let threads = bodies.map { body -> pthread_t in
    var thread = pthread_t()
    // SAFETY: the box is retained here and released by the thread that it starts.
    let box = unsafe Unmanaged.passRetained(ThreadBody(run: body)).toOpaque()
    let result = unsafe pthread_create(
      &thread, nil,
      { box in
        if let box = unsafe box { unsafe Unmanaged<ThreadBody>.fromOpaque(box).takeRetainedValue().run() }
        return nil
      }, box)
    precondition(result == 0, "no thread")
    return thread
  }
  for thread in threads { pthread_join(thread, nil) }
}

private final class ThreadBody: Sendable {
  let run: @Sendable () -> Void
  init(run: @escaping @Sendable () -> Void) { self.run = run }
}

/// A count that threads may raise together.
final class Tally: Sendable {
  private let value = Atomic<Int>(0)
  var count: Int { value.load(ordering: .sequentiallyConsistent) }
  func raise(by amount: Int = 1) { value.wrappingAdd(amount, ordering: .sequentiallyConsistent) }
  func raise(to count: Int) { value.max(count, ordering: .sequentiallyConsistent) }
  func set(_ count: Int) { value.store(count, ordering: .sequentiallyConsistent) }
}

/// The descriptors that this process has open.
func openDescriptorCount() -> Int {
  guard let directory = unsafe opendir("/proc/self/fd") else { return 0 }
  defer { unsafe closedir(directory) }
  var count = 0
  while unsafe readdir(directory) != nil { count += 1 }
  return count
}

/// A value that threads may exchange.
final class Guarded<Value: Sendable>: Sendable {
  private let value: Mutex<Value>
  init(_ value: Value) { self.value = Mutex(value) }
  func get() -> Value { value.withLock { $0 } }
  func set(_ new: Value) { value.withLock { $0 = new } }
}
