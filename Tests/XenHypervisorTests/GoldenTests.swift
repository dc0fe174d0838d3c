// SPDX-License-Identifier: MIT

import Testing
import XenRecords
import XenWire

@testable import XenHypervisor

@Suite("Grants and events have the layouts and numbers of Xen's headers")
struct GoldenTests {
  let golden: GoldenXen

  init() throws { golden = try GoldenXen.load() }

  @Test("entries of both versions, and their status words")
  func entries() {
    #expect(GrantEntryV1.byteCount == golden.size("grant_entry_v1"))
    #expect(GrantEntryV1.flagsOffset == golden.offset("grant_entry_v1", "flags"))
    #expect(GrantEntryV1.domainOffset == golden.offset("grant_entry_v1", "domid"))
    #expect(GrantEntryV1.frameOffset == golden.offset("grant_entry_v1", "frame"))
    #expect(GrantEntryV2.byteCount == golden.size("grant_entry_v2"))
    #expect(GrantEntryV2.flagsOffset == golden.offset("grant_entry_v2", "hdr"))
    #expect(GrantEntryV2.frameOffset == golden.offset("grant_entry_v2", "full_page.frame"))
    #expect(GrantEntryV2.pageOffsetOffset == golden.offset("grant_entry_v2", "sub_page.page_off"))
    #expect(GrantEntryV2.lengthOffset == golden.offset("grant_entry_v2", "sub_page.length"))
    #expect(GrantEntryV2.statusPerFrame == 4096 / golden.size("grant_status_v2"))
  }

  @Test("the flag word, the flags of a mapping, and every status")
  func grantNumbers() {
    let flags = golden.group("gtf")
    let ours: [String: GrantFlags] = [
      "permit_access": .permitAccess, "readonly": .readOnly, "reading": .reading, "writing": .writing,
      "sub_page": .subPage,
    ]
    for (name, flag) in ours { #expect(Int(flag.rawValue) == flags[name], "\(name)") }
    #expect(Int(GrantFlags.typeMask) == flags["type_mask"])
    #expect(Int(GrantFlags.transitiveType) == flags["transitive"])
    let map = golden.group("gntmap")
    #expect(Int(GrantMapFlags.device.rawValue) == map["device_map"])
    #expect(Int(GrantMapFlags.host.rawValue) == map["host_map"])
    #expect(Int(GrantMapFlags.readOnly.rawValue) == map["readonly"])
    let statuses: [String: GrantStatus] = [
      "okay": .okay, "general_error": .generalError, "bad_domain": .badDomain, "bad_gntref": .badReference,
      "bad_handle": .badHandle, "bad_virt_addr": .badVirtualAddress, "bad_dev_addr": .badDeviceAddress,
      "no_device_space": .noDeviceSpace, "permission_denied": .permissionDenied, "bad_page": .badPage,
      "bad_copy_arg": .badCopyArgument, "address_too_big": .addressTooBig, "eagain": .again, "no_space": .noSpace,
    ]
    #expect(statuses.mapValues { Int($0.rawValue) } == golden.group("gntst"))
    #expect(statuses.count == GrantStatus.allCases.count)
    #expect(Int(GrantReference.reservedCount) == golden.group("gnttab_reserved")["count"])
    #expect(Int(GrantReference.xenStore.rawValue) == golden.group("gnttab_reserved")["XENSTORE"])
  }

  @Test("a domain's limits are Xen's unless others are asked for")
  func limits() {
    let limits = golden.group("grant_limits")
    let ours = DomainLimits.xenDefaults
    #expect(ours.grantFrames == limits["default_max_frames"])
    #expect(ours.maptrackFrames == limits["default_max_maptrack_frames"])
    #expect(GrantEntryV1.perFrame == limits["v1_entries_per_frame"])
    #expect(GrantEntryV2.perFrame == limits["v2_entries_per_frame"])
    #expect(GrantEntryV2.statusPerFrame == limits["v2_status_per_frame"])
    #expect(ours.grantFrames * GrantEntryV1.perFrame == limits["v1_max_refs"])
    #expect(ours.grantFrames * GrantEntryV2.perFrame == limits["v2_max_refs"])
    #expect(Int(DomainID.firstReserved.rawValue) == golden.group("domid")["FIRST_RESERVED"])
    #expect(Int(DomainID.ownSelf.rawValue) == golden.group("domid")["SELF"])
  }

  @Test("the shared-info page and a port's states")
  func events() {
    #expect(SharedInfo.virtualCPUByteCount == golden.size("vcpu_info"))
    #expect(SharedInfo.virtualCPUCount * golden.size("vcpu_info") == golden.offset("shared_info", "evtchn_pending"))
    #expect(SharedInfo.upcallPendingOffset == golden.offset("vcpu_info", "evtchn_upcall_pending"))
    #expect(SharedInfo.upcallMaskOffset == golden.offset("vcpu_info", "evtchn_upcall_mask"))
    #expect(SharedInfo.pendingSelectorOffset == golden.offset("vcpu_info", "evtchn_pending_sel"))
    #expect(SharedInfo.pendingOffset == golden.offset("shared_info", "evtchn_pending"))
    #expect(SharedInfo.maskOffset == golden.offset("shared_info", "evtchn_mask"))
    #expect(SharedInfo.portCount == golden.group("evtchn_2l_channels")["x86_64"])
    let states = golden.group("evtchnstat")
    #expect(Int(PortState.closed.rawValue) == states["closed"])
    #expect(Int(PortState.unbound.rawValue) == states["unbound"])
    #expect(Int(PortState.interdomain.rawValue) == states["interdomain"])
    #expect(Int(PortState.virtualInterrupt.rawValue) == states["virq"])
    #expect(Int(PortState.interprocessor.rawValue) == states["ipi"])
  }

  @Test("the FIFO interface's words, queues and control block")
  func fifo() {
    let fifo = golden.group("evtchn_fifo")
    #expect(FIFOLayout.pending == 1 << UInt32(fifo["pending_bit"] ?? 0))
    #expect(FIFOLayout.masked == 1 << UInt32(fifo["masked_bit"] ?? 0))
    #expect(FIFOLayout.linked == 1 << UInt32(fifo["linked_bit"] ?? 0))
    #expect(FIFOLayout.busy == 1 << UInt32(fifo["busy_bit"] ?? 0))
    #expect(Int(FIFOLayout.linkMask) == fifo["link_mask"])
    #expect(FIFOLayout.wordsPerPage == fifo["words_per_page"])
    #expect(FIFOLayout.arrayPageLimit == fifo["max_array_pages"])
    #expect(FIFOLayout.portCount == fifo["channels"])
    #expect(FIFOLayout.priorityCount == fifo["queues"])
    #expect(FIFOLayout.defaultPriority == fifo["priority_default"])
    #expect(FIFOLayout.controlByteCount == golden.size("evtchn_fifo_control_block"))
    #expect(FIFOLayout.readyOffset == golden.offset("evtchn_fifo_control_block", "ready"))
    #expect(FIFOLayout.headOffset == golden.offset("evtchn_fifo_control_block", "head"))
  }
}
