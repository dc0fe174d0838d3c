// SPDX-License-Identifier: MIT

import ArgumentParser
import PVMachine
import PVPeers
import XenStore
import XenWire

@testable import pvdisk

/// What stands on command lines: our own parsers of sizes, policies, quotas and mount options, and what options may not go
/// together; each 256th time a whole line, through the library that takes it apart.
final class CommandHarness: Harness {
  static let focus = "6pvdisk 8XenStore11StoreQuotas 9PVMachine17DiskConfiguration"
  /// Words that a command line is made of, beside any others.
  private static let words = [
    "mount", "umount", "run", "create", "status", "attach", "detach", "resize", "lab", "layout", "xenstored",
    "xenstore",
    "doctor", "bench", "trace", "backend", "ls", "read", "write", "watch", "chmod", "--queues", "--ring-pages",
    "--indirect-segments", "--protocol", "slim32", "--split", "--whole-page", "--align", "64", "--dif", "sector",
    "--notify", "adaptive", "--placement", "threads", "--sector-size", "4096", "--vdev", "xvda", "--cache", "none",
    "-o",
    "ro,allow_other", "--socket", "/tmp/xs", "-E", "-Q", "nodes=5", "-w", "watch-event=3", "--guest-socket", "5=/tmp/x",
    "--", "-", "", "--json", "--help", "--version", "d.img", "m", "64M", "1T", "18446744073709551615", "-1", "0", "n0",
    "r5", "nodes", "holdoff/poll", "1.5GiB", "ro", "uid=0", "queues=4", "watches=",
  ]
  private static let units = ["", "K", "m", "G", "TiB", "p", "P", "PiB", "b", "x"]
  private let disk: DiskOptions
  private let store: XenStoredQuotaOptions

  init() throws {
    disk = try DiskOptions.parse([])
    store = try XenStoredQuotaOptions.parse([])
  }

  func run(_ input: inout FuzzInput, isThorough: Bool) throws -> UInt64 {
    var outcome = Outcome()
    var line: [String] = []
    let choice = input.byte()
    if choice & 1 == 0 { options(&input, &outcome) }
    while !input.isAtEnd, line.count < 24 {
      let word = word(&input)
      judge(word, &outcome)
      line.append(word)
    }
    let mount = MountHelper.arguments(line)
    demand(mount.first == "mount", "a mount helper mounts")
    outcome.note(mount.count)
    limits(line, &outcome)
    if isThorough { parse(choice & 2 == 0 ? line : mount) }
    return outcome.value
  }

  private func word(_ input: inout FuzzInput) -> String {
    let choice = input.byte()
    switch choice {
    case 0..<160: return Self.words[Int(choice) % Self.words.count]
    case 160..<200: return Self.words[Int(input.byte()) % Self.words.count] + "=" + input.text()
    case 200..<210: return "\(input.number(UInt64.self))"
    case 210..<220:
      // A size with a point.
      let unit = Self.units[Int(choice) % Self.units.count]
      return "\(input.number(UInt32.self) >> (UInt32(input.byte()) & 31)).\(input.byte() % 10)\(unit)"
    default: return input.text()
    }
  }

  private func judge(_ word: String, _ outcome: inout Outcome) {
    if let size = ByteSize(argument: word) {
      outcome.note(size.byteCount)
      demand(ByteSize(argument: ByteSize.text(size.byteCount).filter { $0 != " " }) != nil, "a size can be read again")
    }
    if let policies = NotifyArgument(argument: word) {
      let again = NotifyArgument(argument: policies.defaultValueDescription)
      demand(again?.front == policies.front && again?.back == policies.back, "policies can be read again")
      outcome.note(1)
    }
  }

  /// Limits of a store, from words of the line.
  private func limits(_ line: [String], _ outcome: inout Outcome) {
    var store = store
    store.quota = line.filter { $0.contains("=") }
    do {
      let quotas = try store.apply(to: .xenstored)
      outcome.note(quotas[.nodes])
    } catch {
      demand(!PVDisk.message(for: error).isEmpty, "a refusal is a sentence")
      outcome.note(2)
    }
  }

  /// Options of a disk, whatever their values.
  private func options(_ input: inout FuzzInput, _ outcome: inout Outcome) {
    var options = disk
    options.queues = Int(Int8(bitPattern: input.byte()))
    options.ringPages = Int(Int8(bitPattern: input.byte()))
    let flags = input.byte()
    options.indirectSegments = flags & 1 == 0 ? Int(input.byte()) : Int(Int32(bitPattern: input.number(UInt32.self)))
    options.rings.ringProtocol = pick(&input)
    if flags & 2 != 0 { options.rings.abi = pick(&input) }
    options.rings.split = flags & 4 != 0
    options.rings.wholePage = flags & 8 != 0
    if flags & 16 != 0 { options.rings.align = Int(input.byte()) }
    if flags & 32 != 0 { options.rings.responsePages = Int(Int8(bitPattern: input.byte())) }
    if flags & 64 != 0 { options.rings.segmentEntry = Int(input.byte() & 15) }
    options.rings.dif = pick(&input)
    if flags & 128 != 0 {
      options.rings.difType = Int(input.byte() & 7)
      options.rings.difGuard = pick(&input)
    }
    let more = input.byte()
    if more & 1 != 0 { options.sectorSize = 1 << Int(input.byte() & 15) }
    if more & 2 != 0 { options.physicalSectorSize = Int(input.number(UInt32.self)) }
    options.cache = pick(&input)
    if more & 4 != 0 { options.mapImage = more & 8 != 0 }
    do {
      let plan = try options.plan(image: "d.img", mountPoint: "m")
      demand(plan.disk.complaint == nil, "a plan has nothing to complain of")
      outcome.note(plan.disk.ringPages)
    } catch {
      demand(!PVDisk.message(for: error).isEmpty, "a refusal is a sentence")
      outcome.note(3)
    }
  }

  private func pick<Choice: CaseIterable>(_ input: inout FuzzInput) -> Choice {
    let all = Array(Choice.allCases)
    return all[Int(input.byte()) % all.count]
  }

  private func parse(_ line: [String]) {
    do {
      _ = try PVDisk.parseAsRoot(line)
    } catch {
      demand(!PVDisk.fullMessage(for: error).isEmpty, "a refusal is a sentence: \(line)")
    }
  }
}
