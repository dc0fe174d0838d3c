// SPDX-License-Identifier: MIT

import GuestMemory
import PVTestSupport
import Testing
import XenWire

@testable import XenHypervisor

/// Runs a check that answers whether a rule was broken: never without the bug, always with it.
func provesItself(_ fault: PlantedFault, _ breaksRule: (PlantedFaults) throws -> Bool) throws {
  #expect(try !breaksRule(PlantedFaults()), "the rule holds")
  #expect(try breaksRule(PlantedFaults(fault)), "the planted bug is noticed")
}

@Suite("Xen's advisories on grant tables")
struct GrantAdvisoryTests {
  static let wildReferences: [UInt32] = [512, 513, 32_767, 32_768, 1 << 31, .max]

  @Test("XSA-18, XSA-134: any operation on any reference outside the table is refused, before and after it grew")
  func references() async throws {
    for isGrown in [false, true] {
      let machine = try Machine()
      if isGrown { _ = try machine.guest.grantTable.allocateReferences(600) }
      let own = try machine.control.memory.allocate(1)
      for wild in Self.wildReferences where Int(wild) >= machine.guest.grantTable.referenceCount {
        let reference = GrantReference(rawValue: wild)
        #expect(machine.map([reference])[0].status == .badReference)
        #expect(machine.map([reference], flags: .device)[0].status == .badReference)
        #expect(machine.guest.grantTable.swap(reference, .xenStore) == .badReference)
        var list = [
          GrantCopyOperation(
            from: GrantCopyEnd(.reference(reference), of: machine.guest.id),
            to: GrantCopyEnd(.frame(own.firstFrame), of: .ownSelf), byteCount: 1)
        ]
        var span = list.mutableSpan
        machine.hypervisor.copy(&span, for: machine.control)
        #expect(list[0].status == .badReference)
      }
    }
    await #expect(processExitsWith: .failure) {
      let machine = try Machine(faults: PlantedFaults(.rangeOfFutureTable))
      _ = machine.map([GrantReference(rawValue: 512)])
    }
  }

  @Test("XSA-24: a batch of any size, none included, is carried out to its end")
  func batches() throws {
    try provesItself(.batchEndsEarly) { faults in
      let machine = try Machine(pages: 512, faults: faults)
      let (_, references) = try machine.grant(512)
      return [0, 1, 2, 511, 512].contains { size in
        let mappings = machine.map(Array(references.prefix(size)))
        machine.unmap(mappings)
        return mappings.contains { $0.status != .okay }
      }
    }
  }

  @Test(
    "XSA-26, 255, 379, 384, 387, 486, 501: the layout never changes under a pinned entry, and version 1 is the default")
  func versionChange() throws {
    let plain = try Machine()
    #expect(throws: GrantVersionError.notAllowed) { try plain.guest.grantTable.setVersion(2) }
    try provesItself(.versionChangeIgnoresPins) { faults in
      let machine = try Machine(limits: DomainLimits(grantTableVersion: 2), faults: faults)
      let table = machine.guest.grantTable
      table.grantAccess(.xenStore, to: .control, frame: FrameNumber(rawValue: 1), isReadOnly: false)
      _ = machine.map([.xenStore])
      do { try table.setVersion(2) } catch { return table.version != 1 }
      return true
    }
  }

  @Test("XSA-73: locks are taken in one order, whoever maps whom")
  func lockOrder() async throws {
    await #expect(processExitsWith: .failure) {
      let machine = try Machine(faults: PlantedFaults(.lockOrderInverted))
      let (_, references) = try machine.grant(1)
      machine.unmap(machine.map(references))
    }
    // Both domains map each other's pages on two threads: with one order nobody waits for ever, and no check stops.
    let machine = try Machine(mapping: .alias)
    let (_, references) = try machine.grant(4)
    let pages = try machine.control.memory.allocate(4)
    let back = try machine.control.grantTable.allocateReferences(4)
    for (index, reference) in back.enumerated() {
      machine.control.grantTable.grantAccess(
        reference, to: machine.guest.id, frame: FrameNumber(rawValue: pages.firstFrame.rawValue + UInt64(index)),
        isReadOnly: false)
    }
    onThreads([
      { for _ in 0..<2000 { machine.unmap(machine.map(references)) } },
      { for _ in 0..<2000 { machine.unmap(machine.map(back, of: .control, for: machine.guest), of: machine.guest) } },
    ])
    #expect(machine.hypervisor.ledger.mappings == 0 && machine.hypervisor.ledger.pinnedGrants == 0)
  }

  @Test("XSA-218: while one mapping lives the granter sees its page in use")
  func marksOfTwo() throws {
    try provesItself(.marksGoWithFirstUnmap) { faults in
      let machine = try Machine(faults: faults)
      let (_, references) = try machine.grant(1)
      let first = machine.map(references)
      let second = machine.map(references, writable: false)
      machine.unmap(first)
      defer { machine.unmap(second) }
      return !machine.guest.grantTable.isMappedByPeer(references[0])
    }
  }

  @Test("XSA-218: of two threads that unmap one handle, one does")
  func handleOnce() async {
    await #expect(processExitsWith: .success) { try unmapTwice(PlantedFaults()) }
    await #expect(processExitsWith: .failure) { try unmapTwice(PlantedFaults(.closingHandleIsLive)) }
  }

  @Test("XSA-224: an unmap is the exact inverse of its map, whatever the flags", arguments: [UInt64(1), 2, 3])
  func inverse(seed: UInt64) throws {
    try provesItself(.devicePinForgotten) { faults in try followsModel(seed: seed, faults: faults) == false }
  }

  @Test("XSA-226, 318, 411: every status of every batch is written, and no grant is followed to another")
  func statuses() throws {
    try provesItself(.statusUnwritten) { faults in
      let machine = try Machine(faults: faults)
      let results = machine.map([.xenStore, .xenStore], of: DomainID(rawValue: 77))
      return results.contains { $0.status != .badDomain || $0.handle != .invalid }
    }
  }

  @Test("XSA-228: a handle is never handed out twice")
  func freeList() throws {
    try provesItself(.handleStaysFree) { faults in
      let machine = try Machine(faults: faults)
      let (_, references) = try machine.grant(2)
      let mappings = machine.map(references)
      return mappings[0].handle == mappings[1].handle
    }
    // Random takes and gives: what is out is out once.
    var random = SeededGenerator(seed: 7)
    let machine = try Machine(mapping: .alias)
    let (_, references) = try machine.grant(64)
    var live: [UInt32: GrantMapping] = [:]
    for _ in 0..<5000 {
      if Bool.random(using: &random) {
        let mapping = machine.map([references[Int.random(in: 0..<64, using: &random)]])[0]
        guard mapping.status == .okay else { continue }
        #expect(live.updateValue(mapping, forKey: mapping.handle.rawValue) == nil)
      } else if let one = live.values.randomElement(using: &random) {
        #expect(machine.unmap([one]))
        live[one.handle.rawValue] = nil
      }
      if live.count != machine.control.grantMappings.count { Issue.record("a handle is lost") }
    }
  }

  @Test("XSA-230, XSA-236: the granter is told that its page is free after the page is out of reach, not before")
  func marksLast() throws {
    func isToldTooEarly(_ fault: PlantedFault?) throws -> Bool {
      let early = Tally()
      let observed = Tally()
      let box = TableBox()
      let watcher: @Sendable (HypervisorStep) -> Void = { step in
        guard step == .unmapped, let table = box.table else { return }
        observed.raise()
        if !table.isMappedByPeer(GrantReference(rawValue: 8)) { early.raise() }
      }
      let machine = try Machine(
        faults: fault.map { PlantedFaults($0, watcher: watcher) } ?? PlantedFaults(watcher: watcher))
      box.set(machine.guest.grantTable)
      defer { box.clear() }
      let (_, references) = try machine.grant(1)
      machine.unmap(machine.map(references))
      #expect(observed.count == 1)
      return early.count > 0
    }
    #expect(try !isToldTooEarly(nil))
    #expect(try isToldTooEarly(.unpinnedBeforeUnmapped))
  }

  @Test("XSA-232: operations on a domain that is gone, or never was, have a typed answer")
  func deadTables() throws {
    try provesItself(.deadTableUsed) { faults in
      let machine = try Machine(faults: faults)
      let (_, references) = try machine.grant(1)
      let table = machine.guest.grantTable
      machine.hypervisor.destroyDomain(machine.guest.id)
      // Whoever found the domain before it died comes to its table after.
      let answer = table.active.withLock { active in
        table.pin(references[0], by: .control, increment: GrantPins.hostRead, isReadOnly: true, in: &active)
      }
      if case .failure(.badDomain) = answer { return false }
      return true
    }
  }

  @Test("XSA-295: an entry that changes under every try is given up after five")
  func boundedTries() throws {
    func tries(_ fault: PlantedFault?) throws -> (Int, GrantStatus) {
      let count = Tally()
      let box = TableBox()
      let watcher: @Sendable (HypervisorStep) -> Void = { step in
        guard step == .marking, let table = box.table else { return }
        count.raise()
        // The granter flips a bit that means nothing.
        table.entries.word32(at: 64).fetchOr(count.count & 1 == 1 ? 32 : 64)
        table.entries.word32(at: 64).fetchAnd(count.count & 1 == 1 ? ~64 : ~32)
      }
      let machine = try Machine(
        faults: fault.map { PlantedFaults($0, watcher: watcher) } ?? PlantedFaults(watcher: watcher))
      box.set(machine.guest.grantTable)
      defer { box.clear() }
      let (_, references) = try machine.grant(1)
      let status = machine.map(references)[0].status
      return (count.count, status)
    }
    #expect(try tries(nil) == (5, .generalError))
    #expect(try tries(.unboundedTries).0 > 5)
  }

  @Test("XSA-316: a mark that could not be set is not a mapping")
  func failedMark() throws {
    try provesItself(.failedMarkIsOkay) { faults in
      let machine = try Machine(faults: faults)
      let (_, references) = try machine.grant(1, isReadOnly: true)
      return machine.map(references)[0].status == .okay
    }
  }

  @Test("XSA-380, XSA-394: a domain's mappings are undone in slices, so that others get their turn")
  func slices() throws {
    func largestSlice(_ fault: PlantedFault?) throws -> Int {
      let largest = Tally()
      let watcher: @Sendable (HypervisorStep) -> Void = { step in
        if case .mappingSlice(let count) = step { largest.raise(to: count) }
      }
      let machine = try Machine(
        mapping: .alias, faults: fault.map { PlantedFaults($0, watcher: watcher) } ?? PlantedFaults(watcher: watcher))
      let (_, references) = try machine.grant(64)
      for _ in 0..<64 { _ = machine.map(references) }
      machine.hypervisor.destroyDomain(.control)
      #expect(machine.guest.grantTable.pinnedEntryCount == 0)
      return largest.count
    }
    #expect(try largestSlice(nil) == 256)
    #expect(try largestSlice(.teardownInOnePiece) == 4096)
  }

  @Test("XSA-382: a limit in frames holds 256 handles for each")
  func capacity() throws {
    try provesItself(.capacityInFrames) { faults in
      let machine = try Machine(mapping: .alias, controlLimits: DomainLimits(maptrackFrames: 3), faults: faults)
      let (_, references) = try machine.grant(64)
      var held = 0
      for _ in 0..<20 { held += machine.map(references).filter { $0.status == .okay }.count }
      return held != 3 * 256
    }
  }

  @Test("XSA-448: a copy of no bytes succeeds and looks at nothing")
  func emptyCopy() throws {
    try provesItself(.emptyCopyIsChecked) { faults in
      let machine = try Machine(faults: faults)
      var list = [
        GrantCopyOperation(
          from: GrantCopyEnd(.reference(.invalid), of: DomainID(rawValue: 500), offset: 99_999),
          to: GrantCopyEnd(.frame(FrameNumber(rawValue: .max)), of: DomainID(rawValue: 0xFFFF), offset: -1),
          byteCount: 0)
      ]
      var span = list.mutableSpan
      machine.hypervisor.copy(&span, for: machine.control)
      return list[0].status != .okay
    }
  }

  @Test("XSA-500: a copy moves the page that was judged, whatever the entry says by then")
  func copiedFrame() throws {
    func isFooled(_ fault: PlantedFault?) throws -> Bool {
      let box = TableBox()
      let watcher: @Sendable (HypervisorStep) -> Void = { step in
        if step == .copying { box.table?.entries.word32(at: 64 + 4).storeRelaxed(9) }
      }
      let machine = try Machine(
        faults: fault.map { PlantedFaults($0, watcher: watcher) } ?? PlantedFaults(watcher: watcher))
      box.set(machine.guest.grantTable)
      defer { box.clear() }
      let (pages, references) = try machine.grant(1)
      pages.region.store(UInt8(1), at: 0)
      machine.guest.memory.region.store(UInt8(2), at: 9 * 4096)
      let own = try machine.control.memory.allocate(1)
      var list = [
        GrantCopyOperation(
          from: GrantCopyEnd(.reference(references[0]), of: machine.guest.id),
          to: GrantCopyEnd(.frame(own.firstFrame), of: .ownSelf), byteCount: 1)
      ]
      var span = list.mutableSpan
      machine.hypervisor.copy(&span, for: machine.control)
      return own.region.load(UInt8.self, at: 0) != 1
    }
    #expect(try !isFooled(nil))
    #expect(try isFooled(.copyReadsFrameAgain))
  }
}

/// Two unmaps of one handle, the second between the two halves of the first.
private func unmapTwice(_ fault: PlantedFaults) throws {
  let box = MachineBox()
  let depth = Tally()
  let watcher: @Sendable (HypervisorStep) -> Void = { step in
    guard step == .unmapped, depth.count == 0, let (machine, mappings) = box.held else { return }
    depth.raise()
    precondition(!machine.unmap(mappings), "the handle was freed twice")
  }
  var faults = PlantedFaults(watcher: watcher)
  if fault.has(.closingHandleIsLive) { faults = PlantedFaults(.closingHandleIsLive, watcher: watcher) }
  let machine = try Machine(faults: faults)
  let (_, references) = try machine.grant(1)
  let mappings = machine.map(references)
  box.set(machine, mappings)
  precondition(machine.unmap(mappings) && depth.count == 1)
  box.clear()
}

/// Random maps and unmaps beside a model that only counts; false when the two differ.
private func followsModel(seed: UInt64, faults: PlantedFaults) throws -> Bool {
  var random = SeededGenerator(seed: seed)
  let machine = try Machine(mapping: .alias, faults: faults)
  let (_, references) = try machine.grant(3)
  var live: [(reference: Int, flags: GrantMapFlags, mapping: GrantMapping)] = []
  for _ in 0..<2000 {
    if live.isEmpty || Int.random(in: 0..<5, using: &random) > 1 {
      let index = Int.random(in: 0..<3, using: &random)
      let flags = GrantMapFlags(rawValue: UInt32.random(in: 0..<8, using: &random))
      let mapping = machine.map([references[index]], flags: flags)[0]
      if flags.isDisjoint(with: [.host, .device]) {
        guard mapping.status == .badReference else { return false }
      } else if mapping.status == .okay {
        live.append((index, flags, mapping))
      }
    } else {
      let index = Int.random(in: 0..<live.count, using: &random)
      guard machine.unmap([live.remove(at: index).mapping]) else { return false }
    }
    for index in 0..<3 {
      let mine = live.filter { $0.reference == index }
      let pins = mine.reduce(0) { $0 + ($1.flags.contains([.host, .device]) ? 2 : 1) }
      guard machine.guest.grantTable.pinCount(of: references[index]) == pins else { return false }
      let flags = machine.guest.grantTable.flags(of: references[index])
      guard flags.contains(.reading) == !mine.isEmpty,
        flags.contains(.writing) == mine.contains(where: { !$0.flags.contains(.readOnly) })
      else { return false }
    }
  }
  return true
}
