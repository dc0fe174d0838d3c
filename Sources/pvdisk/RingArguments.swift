// SPDX-License-Identifier: MIT

public import ArgumentParser
import PVMachine
import SharedRing
import XenBus
public import XenWire

/// The options that say what the rings are like: which proposal, which modifiers, when to notify.
struct RingArguments: ParsableArguments {
  @Option(
    name: .customLong("protocol"),
    help: ArgumentHelp(
      "The ring's layout: classic (x86_64), x86_32, arm, wide, segment-ring, slim64, slim32.", valueName: "name"))
  var ringProtocol = RingProtocol.classic

  @Option(help: ArgumentHelp("The ABI of a proposed layout: x86_64, x86_32 or arm.", valueName: "name"))
  var abi: ABIName?

  @Option(help: ArgumentHelp("What the backend offers at most (default: what --protocol asks for).", valueName: "name"))
  var backProtocol: RingVariant?

  @Flag(help: "Requests and responses on rings of their own.")
  var split = false

  @Option(help: ArgumentHelp("Index words of split rings: apart or together.", valueName: "where"))
  var splitIndices: IndexPlacement?

  @Option(help: ArgumentHelp("Pages of the response ring of split rings: 1, 2, 4, 8 or 16.", valueName: "N"))
  var responsePages: Int?

  @Flag(help: "Every slot that fits in the pages, not a power of two of them.")
  var wholePage = false

  @Option(help: ArgumentHelp("Round header and slots up to a cache line: 64 or 128.", valueName: "bytes"))
  var align: Int?

  @Option(
    help: ArgumentHelp("Vouch for data in the rings: off, slot (one tuple a request), sector.", valueName: "how"))
  var dif = RingProtection.off

  @Option(
    help: ArgumentHelp(
      "What a tuple's reference tag says: 1 the sector's number, 2 the place in the request, 3 nothing.",
      valueName: "type"))
  var difType: Int?

  @Option(help: ArgumentHelp("How a tuple's guard tag is made: crc, or ip (the Internet checksum).", valueName: "how"))
  var difGuard: GuardName?

  @Option(help: ArgumentHelp("Bytes of an entry of the segment ring: 6 or 8.", valueName: "bytes"))
  var segmentEntry: Int?

  @Option(
    help: ArgumentHelp("When to notify: holdoff, poll, adaptive; or two of them, front/back.", valueName: "policy"))
  var notify = NotifyArgument(front: .holdOff, back: .holdOff)

  enum RingProtocol: String, ExpressibleByArgument, CaseIterable {
    case classic, x86_32, arm, wide
    case segmentRing = "segment-ring"
    case slim64, slim32
  }

  enum GuardName: String, ExpressibleByArgument, CaseIterable {
    case crc
    case internetChecksum = "ip"
  }

  enum ABIName: String, ExpressibleByArgument, CaseIterable {
    case x86_64, x86_32, arm

    var wire: BlockProtocol {
      switch self {
      case .x86_64: .x86_64
      case .x86_32: .x86_32
      case .arm: .arm
      }
    }
  }

  private var variant: RingVariant { RingVariant(rawValue: ringProtocol.rawValue) ?? .classic }

  /// Puts the options into a configuration whose segments have been set.
  func apply(to disk: inout DiskConfiguration) throws {
    let named = ABIName(rawValue: ringProtocol.rawValue)
    if let named, let abi, named != abi {
      throw ValidationError("--protocol \(named.rawValue) and --abi \(abi.rawValue) are two ABIs; name one")
    }
    if variant == .slim32, let abi, abi != .x86_64 {
      throw ValidationError("a slim32 slot is the same on every ABI; leave --abi out")
    }
    if segmentEntry != nil, variant != .segmentRing {
      throw ValidationError("--segment-entry is for --protocol segment-ring; \(ringProtocol.rawValue) has no such ring")
    }
    if dif == .off, difType != nil || difGuard != nil {
      throw ValidationError(
        "--dif-type and --dif-guard say what tuples are like; ask for tuples with --dif slot or sector")
    }
    let usesChecksum = difGuard == .internetChecksum
    guard let profile = RingProtectionProfile(type: difType ?? 1, usesInternetChecksum: usesChecksum) else {
      throw ValidationError("--dif-type must be 1, 2 or 3, not \(difType ?? 0)")
    }
    disk.blockProtocol = (abi ?? named ?? .x86_64).wire
    disk.rings.variant = variant
    disk.rings.segmentsPerRequest = disk.indirectSegments
    disk.rings.segmentEntrySize = segmentEntry ?? 8
    disk.rings.isSplit = split
    disk.rings.indexPlacement = splitIndices ?? .apart
    disk.rings.responseRingPages = responsePages
    disk.rings.usesWholePage = wholePage
    disk.rings.alignment = align ?? 0
    disk.rings.protection = dif
    disk.rings.protectionProfile = profile
    if let backProtocol { disk.offer = backProtocol == .classic ? RingOffer() : .only(backProtocol) }
    disk.frontNotify = notify.front
    disk.backNotify = notify.back
  }
}

/// One policy for both ends, or one for each: `poll`, `holdoff/adaptive`.
struct NotifyArgument: ExpressibleByArgument {
  var front: NotificationPolicy
  var back: NotificationPolicy

  init(front: NotificationPolicy, back: NotificationPolicy) {
    self.front = front
    self.back = back
  }

  init?(argument: String) {
    let parts = argument.split(separator: "/", omittingEmptySubsequences: false)
    let policies = parts.compactMap { NotificationPolicy(rawValue: String($0)) }
    guard policies.count == parts.count, let first = policies.first, parts.count <= 2 else { return nil }
    self.init(front: first, back: policies.last ?? first)
  }

  var defaultValueDescription: String {
    front == back ? front.rawValue : "\(front.rawValue)/\(back.rawValue)"
  }
}

extension IndexPlacement: ExpressibleByArgument {}
extension RingProtection: ExpressibleByArgument {}
