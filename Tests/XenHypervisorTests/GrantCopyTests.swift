// SPDX-License-Identifier: MIT

import GuestMemory
import PVTestSupport
import Testing
import XenWire

@testable import XenHypervisor

@Suite("Grant copy")
struct GrantCopyTests {
  private func run(_ operation: GrantCopyOperation, _ machine: Machine, for caller: Domain? = nil) -> GrantStatus {
    var list = [operation]
    var span = list.mutableSpan
    machine.hypervisor.copy(&span, for: caller ?? machine.control)
    return list[0].status
  }

  @Test("bytes go from a grant to an own page and back, and nothing around them changes")
  func bothDirections() throws {
    let machine = try Machine()
    let (pages, references) = try machine.grant(1)
    let own = try machine.control.memory.allocate(1)
    pages.region.fill(0x11)
    let foreign = GrantCopyEnd(.reference(references[0]), of: machine.guest.id, offset: 4090)
    let mine = GrantCopyEnd(.frame(own.firstFrame), of: .ownSelf, offset: 100)
    #expect(run(GrantCopyOperation(from: foreign, to: mine, byteCount: 6), machine) == .okay)
    #expect(own.region.load(UInt8.self, at: 99) == 0 && own.region.load(UInt8.self, at: 106) == 0)
    #expect((100..<106).allSatisfy { own.region.load(UInt8.self, at: $0) == 0x11 })
    own.region.fill(0x22)
    #expect(run(GrantCopyOperation(from: mine, to: foreign, byteCount: 6), machine) == .okay)
    #expect(pages.region.load(UInt8.self, at: 4089) == 0x11)
    #expect((4090..<4096).allSatisfy { pages.region.load(UInt8.self, at: $0) == 0x22 })
    #expect(machine.guest.grantTable.endAccess(references[0]))
  }

  @Test("a copy among three parties moves bytes between two domains for a third")
  func threeParty() throws {
    let machine = try Machine()
    let third = try machine.hypervisor.createDomain(DomainID(rawValue: 7), memoryByteCount: 8192, virtualCPUCount: 1)
    let (pages, references) = try machine.grant(1)
    let target = try third.memory.allocate(1)
    let reference = try third.grantTable.allocateReferences(1)[0]
    third.grantTable.grantAccess(reference, to: .control, frame: target.firstFrame, isReadOnly: false)
    pages.region.store(UInt64(42), at: 0)
    let operation = GrantCopyOperation(
      from: GrantCopyEnd(.reference(references[0]), of: machine.guest.id),
      to: GrantCopyEnd(.reference(reference), of: third.id, offset: 8), byteCount: 8)
    #expect(run(operation, machine) == .okay)
    #expect(target.region.load(UInt64.self, at: 8) == 42)
    #expect(third.grantTable.endAccess(reference))
  }

  @Test(
    "offset and length stay within both pages",
    arguments: [
      (0, 0, 4096, GrantStatus.okay), (1, 0, 4095, .okay), (1, 0, 4096, .badCopyArgument),
      (0, 1, 4096, .badCopyArgument), (4095, 0, 1, .okay), (4096, 0, 1, .badCopyArgument),
      (0, 4095, 2, .badCopyArgument), (0, 0, 4097, .badCopyArgument), (0, 0, 65_535, .badCopyArgument),
      (65_535, 0, 1, .badCopyArgument), (-1, 0, 1, .badCopyArgument), (0, 0, -1, .badCopyArgument),
      (0, 0, Int.max, .badCopyArgument), (Int.max, 0, Int.max, .badCopyArgument),
    ])
  func bounds(from: Int, to: Int, count: Int, expected: GrantStatus) throws {
    let machine = try Machine()
    let (_, references) = try machine.grant(1)
    let own = try machine.control.memory.allocate(1)
    let operation = GrantCopyOperation(
      from: GrantCopyEnd(.reference(references[0]), of: machine.guest.id, offset: from),
      to: GrantCopyEnd(.frame(own.firstFrame), of: .ownSelf, offset: to), byteCount: count)
    #expect(run(operation, machine) == expected)
    #expect(machine.guest.grantTable.pinnedEntryCount == 0)
    #expect(machine.guest.grantTable.flags(of: references[0]) == .permitAccess)
  }

  @Test("the grant must let the caller do what the copy does")
  func refusals() throws {
    let machine = try Machine()
    let (_, readOnly) = try machine.grant(1, isReadOnly: true)
    let own = try machine.control.memory.allocate(1)
    let mine = GrantCopyEnd(.frame(own.firstFrame), of: .ownSelf)
    func foreign(_ reference: UInt32, of domain: UInt16 = 1) -> GrantCopyEnd {
      GrantCopyEnd(.reference(GrantReference(rawValue: reference)), of: DomainID(rawValue: domain))
    }
    let granted = readOnly[0].rawValue
    #expect(run(GrantCopyOperation(from: foreign(granted), to: mine, byteCount: 1), machine) == .okay)
    #expect(run(GrantCopyOperation(from: mine, to: foreign(granted), byteCount: 1), machine) == .generalError)
    #expect(run(GrantCopyOperation(from: foreign(500), to: mine, byteCount: 1), machine) == .generalError)
    #expect(run(GrantCopyOperation(from: foreign(512), to: mine, byteCount: 1), machine) == .badReference)
    #expect(run(GrantCopyOperation(from: foreign(granted, of: 9), to: mine, byteCount: 1), machine) == .badDomain)
    let stolen = GrantCopyEnd(.frame(FrameNumber(rawValue: 0)), of: machine.guest.id)
    #expect(run(GrantCopyOperation(from: stolen, to: mine, byteCount: 1), machine) == .permissionDenied)
    let wild = GrantCopyEnd(.frame(FrameNumber(rawValue: 64)), of: .ownSelf)
    #expect(run(GrantCopyOperation(from: foreign(granted), to: wild, byteCount: 1), machine) == .badPage)
    #expect(machine.guest.grantTable.endAccess(readOnly[0]))
  }

  @Test("each element has a status of its own, and a failure does not stop the rest")
  func statuses() throws {
    let machine = try Machine()
    let (pages, references) = try machine.grant(2)
    pages.region.fill(7)
    let own = try machine.control.memory.allocate(1)
    var list = (0..<4).map { index in
      GrantCopyOperation(
        from: GrantCopyEnd(
          .reference(index == 1 ? GrantReference(rawValue: 400) : references[index & 1]), of: machine.guest.id),
        to: GrantCopyEnd(.frame(own.firstFrame), of: .ownSelf, offset: index * 4), byteCount: 4,
        status: .badDeviceAddress)
    }
    var span = list.mutableSpan
    machine.hypervisor.copy(&span, for: machine.control)
    #expect(list.map(\.status) == [.okay, .generalError, .okay, .okay])
    #expect((0..<16).map { own.region.load(UInt8.self, at: $0) } == [7, 7, 7, 7, 0, 0, 0, 0, 7, 7, 7, 7, 7, 7, 7, 7])
  }

  @Test("any copy within one page does what a copy through a third place does", arguments: [UInt64(1), 2, 3])
  func overlapping(seed: UInt64) throws {
    var random = SeededGenerator(seed: seed)
    let machine = try Machine()
    let (pages, references) = try machine.grant(1)
    for _ in 0..<200 {
      for index in 0..<512 { pages.region.store(random.next(), at: index * 8) }
      var model = (0..<4096).map { pages.region.load(UInt8.self, at: $0) }
      let count = Int.random(in: 1...4096, using: &random)
      let from = Int.random(in: 0...(4096 - count), using: &random)
      let to = Int.random(in: 0...(4096 - count), using: &random)
      let operation = GrantCopyOperation(
        from: GrantCopyEnd(.reference(references[0]), of: machine.guest.id, offset: from),
        to: GrantCopyEnd(.reference(references[0]), of: machine.guest.id, offset: to), byteCount: count)
      #expect(run(operation, machine) == .okay, "seed \(seed)")
      model.replaceSubrange(to..<(to + count), with: Array(model[from..<(from + count)]))
      #expect((0..<4096).map { pages.region.load(UInt8.self, at: $0) } == model, "seed \(seed)")
    }
  }
}
