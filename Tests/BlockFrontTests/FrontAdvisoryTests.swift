// SPDX-License-Identifier: MIT

import BlockFront
import BlockIO
import GuestMemory
import PVPeers
import PVTestSupport
import SharedRing
import Testing
import XenHypervisor
import XenWire

/// Runs a check that answers whether a rule was broken: never without the bug, always with it.
func provesItself(_ fault: RingFault, _ breaksRule: (RingFaults) throws -> Bool) throws {
  #expect(try !breaksRule(RingFaults()), "the rule holds")
  guard RingFaults.canBePlanted else { return }
  #expect(try breaksRule(RingFaults(fault)), "the planted bug is noticed")
}

@Suite("Xen's advisories on block frontends")
struct FrontAdvisoryTests {
  typealias Backend = HostileBackend<ABI64>

  func backend(_ faults: RingFaults, _ change: (inout Backend.Setup) -> Void = { _ in }) throws -> Backend {
    var setup = Backend.Setup()
    setup.faults = faults
    change(&setup)
    return try Backend(setup)
  }

  @Test("XSA-396: a page that the backend maps at the last moment is not used again, and the disk is given up")
  func revoking() throws {
    try provesItself(.accessEndedByForce) { faults in
      let peer = try backend(faults) { $0.abilities.isPersistent = false }
      #expect(peer.submit(.read, count: 8, peer.memory(4096)))
      let request = try #require(peer.take().first)
      let machine = peer.machine
      let reference = request.segments[0].reference
      defer { machine.guest.interfere(nil) }
      machine.guest.interfere { moment in
        guard moment == .endingAccess else { return }
        var results = [GrantMapping(status: .generalError)]
        var span = results.mutableSpan
        machine.control.inner.map([reference].span, of: PeerMachine.guestID, writable: true, into: &span)
      }
      peer.respond(to: request)
      let finished = peer.completions()
      return peer.front?.isBroken != true || finished != [IOCompletion(tag: 1, errorCode: 5)]
    }
  }

  @Test("XSA-403 (CVE-2022-26365): a page that is read into shows nothing of what it held before")
  func stalePages() throws {
    try provesItself(.stalePageShown) { faults in
      let peer = try backend(faults) { $0.abilities.isBackendTrusted = false }
      peer.front?.buffer(0).region?.fill(0xC3)
      #expect(peer.submit(.write, count: 8, peer.memory(4096)))
      let write = try #require(peer.take().first)
      peer.respond(to: write)
      #expect(peer.completions().count == 1)
      #expect(peer.submit(.read, count: 1, peer.memory(512), tag: 2))
      let read = try #require(peer.take().first)
      var shown = 0
      peer.withPage(read.segments[0].reference, writable: true) { page in
        shown = (0..<4096).filter { page.load(UInt8.self, at: $0) == 0xC3 }.count
      }
      return shown > 0
    }
  }

  @Test(
    "XSA-403 (CVE-2022-33740, 33742): a backend that is not trusted can map no page of its user",
    arguments: [false, true])
  func userPages(isPersistent: Bool) throws {
    func shown(_ faults: RingFaults) throws -> Bool {
      let peer = try backend(faults) {
        $0.abilities.isBackendTrusted = false
        $0.abilities.isPersistent = isPersistent
      }
      for index in 0..<4 { peer.front?.buffer(index).region?.fill(0xC3) }
      #expect(peer.submit(.write, count: 1, peer.memory(512)))
      #expect(peer.take().count == 1)
      var canaries = 0
      for reference: UInt32 in 0..<4096 {
        peer.withPage(GrantReference(rawValue: reference), writable: false) { page in
          // The 512 bytes that were written are the backend's to see.
          canaries += stride(from: 512, to: 4096, by: 256).filter { page.load(UInt8.self, at: $0) == 0xC3 }.count
        }
      }
      return canaries > 0
    }
    if isPersistent {
      try provesItself(.userPagesGranted, shown)
    } else {
      #expect(try !shown(RingFaults()))
    }
  }

  @Test("The hardening of blkfront in 2021: an answer to another question disables the disk")
  func otherOperation() throws {
    try provesItself(.answersUnchecked) { faults in
      let peer = try backend(faults)
      #expect(peer.submit(.read, count: 8, peer.memory(4096)))
      let request = try #require(peer.take().first)
      peer.respond(BlockResponse(id: request.id, operation: .write, status: .okay))
      return peer.completions() != [IOCompletion(tag: 1, errorCode: 5)] || peer.front?.isBroken != true
    }
  }

  @Test("XSA-86 in the other direction: a producer beyond what was asked makes no answer count")
  func distance() throws {
    try provesItself(.producerUnchecked) { faults in
      let peer = try backend(faults)
      for tag: UInt64 in 0..<3 { #expect(peer.submit(.read, count: 8, peer.memory(4096, buffer: Int(tag)), tag: tag)) }
      for (index, request) in peer.take().enumerated() {
        let answer = BlockResponse(id: request.id, operation: .read, status: .okay)
        peer.ring.write(answer, to: UInt32(index))
      }
      peer.ring.responseProducer = 40
      return peer.completions().contains { $0.errorCode == 0 }
    }
  }
}
