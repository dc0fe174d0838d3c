// SPDX-License-Identifier: MIT

import BlockIO
import PVMachine
import PVTestSupport
import Testing
import XenRecords
import XenStore
import XenWire

@Suite("The whole tree of a machine, against that of a real host")
struct HostTreeTests {
  typealias Node = CapturedTree.Node

  /// Nodes of the real host that are not here, each subtree with the reason.
  static let absent: [(prefix: String, because: String)] = [
    ("/local/domain/0/control/", "the kernel of dom0 writes them, and there is none"),
    ("/local/domain/0/control", "the same"),
    ("/local/domain/0/backend/console", "there is no console daemon"),
    ("/local/domain/1/console", "the same"),
    ("/libxl/1/device/console", "the same"),
    ("/libxl/1/dm-version", "there is no device model"),
    ("/local/domain/1/cpu/", "there is no CPU that could be plugged"),
    ("/vm/ID/image", "nothing is booted"),
    ("/vm/ID/start_time", "the tree is the same whenever it is made"),
    ("/local/domain/0/backend/vbd/1/51712/script", "no hotplug script runs"),
    ("/libxl/1/device/vbd/51712/script", "the same"),
    ("/local/domain/0/backend/vbd/1/51712/physical-device", "the disk need not be a block device"),
  ]

  /// Values that differ, each with the reason.
  static let values: [(path: String, because: String)] = [
    ("/local/domain/1/control/feature-poweroff", "the guest's kernel writes 1"),
    ("/local/domain/1/control/feature-reboot", "the same"),
    ("/local/domain/1/control/feature-suspend", "the same"),
    ("/local/domain/0/backend/vbd/1/51712/multi-queue-max-queues", "Linux offers as many as it has CPUs"),
    ("/local/domain/1/store/port", "a number of this run"),
    ("/local/domain/1/store/ring-ref", "a number of this run: machine frames there, the guest's own here"),
    ("/local/domain/1/device/vbd/51712/ring-ref", "a number of this run"),
    ("/local/domain/1/device/vbd/51712/event-channel", "a number of this run"),
  ]

  static func isAbsent(_ path: String) -> Bool {
    absent.contains { entry in
      entry.prefix == "/local/domain/0/backend/vbd/1/51712/physical-device" || entry.prefix == "/local/domain/0/control"
        ? path == entry.prefix : path.hasPrefix(entry.prefix)
    }
  }

  static func realTree() throws -> [Node] {
    try CapturedTree("one-disk").nodes.map { node in
      Node(
        path: node.path.replacing("b483c0d0-e91d-11f1-835d-f18468045259", with: "ID"),
        value: node.value.replacing("b483c0d0-e91d-11f1-835d-f18468045259", with: "ID"), permissions: node.permissions)
    }
  }

  /// A machine's tree in the order of `xenstore-ls`.
  static func tree(of machine: Machine) throws -> [Node] {
    var nodes: [Node] = []
    var stack = ["/"]
    while let path = stack.popLast() {
      let store = machine.toolstack
      let base = path == "/" ? path : path + "/"
      stack += try store.directory(path).reversed().map { base + $0 }
      guard path != "/" else { continue }
      let name = "70766469-736b-4000-8000-000000000001"
      nodes.append(
        Node(
          path: path.replacing(name, with: "ID"), value: try store.read(path).replacing(name, with: "ID"),
          permissions: "\(try store.permissions(path))".replacing(" ", with: ",")))
    }
    return nodes
  }

  @Test("has the same nodes in the same order with the same values and permissions, but for a list of differences")
  func sameTree() throws {
    var configuration = MachineConfiguration()
    configuration.guestMemoryByteCount = 512 << 20
    configuration.guestName = "u"
    configuration.guestStore = .ring
    let machine = try Machine(configuration)
    let image = try MemoryDisk(
      geometry: BlockGeometry(sectorCount: 131_072, discard: DiscardAbility(granularity: 4096)))
    var disk = DiskConfiguration()
    disk.params = "/dev/loop0"
    disk.type = "phy"
    disk.ringPages = 1
    let attached = try machine.attach(image, as: disk)
    let ours = try Self.tree(of: machine)
    let real = try Self.realTree()
    #expect(real.count > 100)
    for prefix in Self.absent.map(\.prefix) {
      #expect(real.contains { $0.path.hasPrefix(prefix) }, "\(prefix) is no longer a difference")
    }
    let expected = real.filter { !Self.isAbsent($0.path) }
    for node in ours where !expected.contains(where: { $0.path == node.path }) {
      Issue.record("\(node.path) is not on a real host")
    }
    for node in expected where !ours.contains(where: { $0.path == node.path }) {
      Issue.record("\(node.path) is missing")
    }
    #expect(ours.map(\.path) == expected.map(\.path))
    for (mine, theirs) in zip(ours, expected) where mine.path == theirs.path {
      #expect(mine.permissions == theirs.permissions, "\(mine.path)")
      if Self.values.contains(where: { $0.path == mine.path }) { continue }
      #expect(mine.value == theirs.value, "\(mine.path)")
    }
    attached.detach()
  }
}
